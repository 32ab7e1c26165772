# KVFOLD_CPU_FEATURES: what code for KVFOLD_CPU takes for granted, as the compiler says, in the names of /proc/cpuinfo. A loader reads it
# from the section .kvfold_cpu of the library, before anything of the library runs on a CPU that lacks one of them.

set(KVFOLD_CPU_FEATURES "")
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set(kvfold_macros
        SSE3=pni SSSE3=ssse3 SSE4_1=sse4_1 SSE4_2=sse4_2 POPCNT=popcnt LZCNT=abm MOVBE=movbe AVX=avx AVX2=avx2 F16C=f16c FMA=fma BMI=bmi1
        BMI2=bmi2 ADX=adx AES=aes PCLMUL=pclmulqdq SHA=sha_ni GFNI=gfni VAES=vaes VPCLMULQDQ=vpclmulqdq AVXVNNI=avx_vnni AVX512F=avx512f
        AVX512CD=avx512cd AVX512BW=avx512bw AVX512DQ=avx512dq AVX512VL=avx512vl AVX512IFMA=avx512ifma AVX512VBMI=avx512vbmi
        AVX512VBMI2=avx512_vbmi2 AVX512VNNI=avx512_vnni AVX512BITALG=avx512_bitalg AVX512VPOPCNTDQ=avx512_vpopcntdq
        AVX512BF16=avx512_bf16 AVX512FP16=avx512_fp16 AMX_TILE=amx_tile AMX_INT8=amx_int8 AMX_BF16=amx_bf16
        ARM_FEATURE_CRC32=crc32 ARM_FEATURE_ATOMICS=atomics ARM_FEATURE_DOTPROD=asimddp ARM_FEATURE_FP16_VECTOR_ARITHMETIC=asimdhp
        ARM_FEATURE_MATMUL_INT8=i8mm ARM_FEATURE_BF16_VECTOR_ARITHMETIC=bf16 ARM_FEATURE_SVE=sve ARM_FEATURE_SVE2=sve2)
    if(KVFOLD_CPU STREQUAL "native")
        if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
            set(kvfold_cpu_flag -mcpu=native)
        else()
            set(kvfold_cpu_flag -march=native)
        endif()
    else()
        set(kvfold_cpu_flag -march=${KVFOLD_CPU})
    endif()
    execute_process(COMMAND ${CMAKE_C_COMPILER} ${kvfold_cpu_flag} -dM -E -x c /dev/null
        OUTPUT_VARIABLE kvfold_defined RESULT_VARIABLE kvfold_result)
    if(NOT kvfold_result EQUAL 0)
        message(FATAL_ERROR "${CMAKE_C_COMPILER} does not know ${kvfold_cpu_flag}")
    endif()
    foreach(pair ${kvfold_macros})
        string(REGEX MATCH "^([^=]+)=(.+)$" unused ${pair})
        set(feature ${CMAKE_MATCH_2})
        if(kvfold_defined MATCHES "#define __${CMAKE_MATCH_1}(__)? 1")
            string(APPEND KVFOLD_CPU_FEATURES "${feature} ")
        endif()
    endforeach()
    string(STRIP "${KVFOLD_CPU_FEATURES}" KVFOLD_CPU_FEATURES)
endif()
