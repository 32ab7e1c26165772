# The licences of everything that is linked in, beside the library: llama.cpp, ggml and the code vendored with them.

install(FILES ${KVFOLD_LLAMA_SOURCE}/LICENSE DESTINATION META-INF/licenses RENAME llama.cpp.txt)
file(GLOB kvfold_licenses ${KVFOLD_LLAMA_SOURCE}/licenses/LICENSE-*)
foreach(path ${kvfold_licenses})
    get_filename_component(name ${path} NAME)
    string(REPLACE "LICENSE-" "" name ${name})
    install(FILES ${path} DESTINATION META-INF/licenses RENAME ${name}.txt)
endforeach()
