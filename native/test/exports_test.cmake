# The library exports the functions of kvfold.h and nothing else, and needs no library that a slim system lacks.

execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[A-Za-z] [^\n]+" symbols "${symbols}")
list(TRANSFORM symbols REPLACE "^[A-Za-z] " "")
list(SORT symbols)

file(READ ${HEADER} header)
string(REGEX MATCHALL "KVFOLD_API [a-z0-9_]+ [*]?[ ]*kvfold_[a-z_]+" declared "${header}")
list(TRANSFORM declared REPLACE ".*(kvfold_[a-z_]+)$" "\\1")
list(SORT declared)

if(NOT "${symbols}" STREQUAL "${declared}")
    message(FATAL_ERROR "exported:\n  ${symbols}\ndeclared in kvfold.h:\n  ${declared}")
endif()

if(READELF)
    execute_process(COMMAND ${READELF} -d ${LIBRARY} OUTPUT_VARIABLE dynamic COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCHALL "Shared library: \\[[^]]+\\]" needed "${dynamic}")
    foreach(entry ${needed})
        if(NOT entry MATCHES "\\[(libc|libm|libdl|libpthread|librt|ld-linux[^]]*|libcuda|libcublas|libvulkan)\\.so[^]]*\\]")
            message(FATAL_ERROR "the library is not self-contained: ${entry}")
        endif()
    endforeach()
endif()
list(LENGTH symbols count)
message(STATUS "${count} exported symbols")
