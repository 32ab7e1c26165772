# Adds the kernels of src/attention to a target: the same code, once per instruction set of the processor built for.

function(kvfold_attention_kernels target)
    if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        return() # no vector extensions; ggml's own kernel computes
    endif()
    set(folder ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../src/attention)
    set(kernels portable)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        list(APPEND kernels avx2 avx512)
        set(avx2 -mavx2 -mfma -mf16c)
        set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
    elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
        list(APPEND kernels neon)
    endif()
    foreach(kernel ${kernels})
        set(source ${folder}/kernel_${kernel}.cpp)
        target_sources(${target} PRIVATE ${source})
        # psabi: vectors are passed within a file only; uninitialized: what GCC says of its own headers for AVX-512
        set_source_files_properties(${source} PROPERTIES
            COMPILE_OPTIONS "-O3;-ffp-contract=fast;-Wno-psabi;-Wno-maybe-uninitialized;${${kernel}}")
    endforeach()
    target_include_directories(${target} SYSTEM PRIVATE ${KVFOLD_LLAMA_SOURCE}/ggml/src ${KVFOLD_LLAMA_SOURCE}/ggml/src/ggml-cpu)
endfunction()
