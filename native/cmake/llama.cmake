# The static libraries of llama.cpp that stage 1 of build.sh has built, as one interface target kvfold_llama.

add_library(kvfold_llama INTERFACE)

target_include_directories(kvfold_llama SYSTEM INTERFACE
    ${KVFOLD_LLAMA_SOURCE}
    ${KVFOLD_LLAMA_SOURCE}/include
    ${KVFOLD_LLAMA_SOURCE}/ggml/include
    ${KVFOLD_LLAMA_SOURCE}/common
    ${KVFOLD_LLAMA_SOURCE}/src
    ${KVFOLD_LLAMA_SOURCE}/tools/server
    ${KVFOLD_LLAMA_SOURCE}/tools/mtmd
    ${KVFOLD_LLAMA_SOURCE}/vendor)

file(GLOB_RECURSE kvfold_archives ${KVFOLD_LLAMA_BUILD}/*${CMAKE_STATIC_LIBRARY_SUFFIX})
if(NOT kvfold_archives)
    message(FATAL_ERROR "no libraries in ${KVFOLD_LLAMA_BUILD}; run native/build.sh")
endif()

find_package(Threads REQUIRED)
if(APPLE OR WIN32)
    target_link_libraries(kvfold_llama INTERFACE kvfold_llama_http ${kvfold_archives} Threads::Threads)
else()
    target_link_libraries(kvfold_llama INTERFACE kvfold_llama_http
        -Wl,--start-group ${kvfold_archives} -Wl,--end-group Threads::Threads ${CMAKE_DL_LIBS} m)
endif()

if(KVFOLD_BACKEND STREQUAL "cuda")
    find_package(CUDAToolkit REQUIRED)
    # cublas stays a shared library: its static form is half a gigabyte, and it comes with the driver's toolkit
    target_link_libraries(kvfold_llama INTERFACE CUDA::cudart_static CUDA::cublas CUDA::cuda_driver)
elseif(KVFOLD_BACKEND STREQUAL "vulkan")
    find_package(Vulkan REQUIRED)
    target_link_libraries(kvfold_llama INTERFACE Vulkan::Vulkan)
endif()
if(APPLE)
    target_link_libraries(kvfold_llama INTERFACE "-framework Foundation" "-framework Accelerate")
    if(KVFOLD_BACKEND STREQUAL "metal")
        target_link_libraries(kvfold_llama INTERFACE "-framework Metal" "-framework MetalKit")
    endif()
elseif(WIN32)
    target_link_libraries(kvfold_llama INTERFACE ws2_32 crypt32)
endif()

# llama-server's HTTP layer, which is not part of the target that stage 1 builds; without its user interface.
set(N_ASSETS 0)
set(ASSET_ARRAYS "")
set(ASSET_TABLE "")
set(USE_GZIP false)
configure_file(${KVFOLD_LLAMA_SOURCE}/tools/ui/ui.h.in ${CMAKE_CURRENT_BINARY_DIR}/no_ui/ui.h)
configure_file(${KVFOLD_LLAMA_SOURCE}/tools/ui/ui.cpp.in ${CMAKE_CURRENT_BINARY_DIR}/no_ui/ui.cpp)
add_library(kvfold_llama_http STATIC
    ${KVFOLD_LLAMA_SOURCE}/tools/server/server-http.cpp ${CMAKE_CURRENT_BINARY_DIR}/no_ui/ui.cpp)
target_include_directories(kvfold_llama_http SYSTEM PRIVATE
    ${CMAKE_CURRENT_BINARY_DIR}/no_ui $<TARGET_PROPERTY:kvfold_llama,INTERFACE_INCLUDE_DIRECTORIES>)

# ggml alone, for tools that write files: it contains no call into this library.
add_library(kvfold_ggml INTERFACE)
target_include_directories(kvfold_ggml SYSTEM INTERFACE ${KVFOLD_LLAMA_SOURCE}/ggml/include)
target_link_libraries(kvfold_ggml INTERFACE
    ${KVFOLD_LLAMA_BUILD}/ggml/src/${CMAKE_STATIC_LIBRARY_PREFIX}ggml-base${CMAKE_STATIC_LIBRARY_SUFFIX}
    Threads::Threads ${CMAKE_DL_LIBS})
