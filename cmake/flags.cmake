# One place for compiler flags: warnings are errors, and only the files of an ISA are compiled with its flags.
set(LR_WARNINGS -Wall -Wextra -Wpedantic -Werror)
set(LR_OPTIMIZE -O3 CACHE STRING "How far the kernels are optimised; -O0 where nothing but compiling them is asked for")
set(LR_COMMON ${LR_OPTIMIZE} -fno-exceptions -fno-rtti -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math)
set(LR_AVX2 -mavx2 -mfma -mf16c)
set(LR_AVX512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 warns about the undefined source operands inside its own avx512fintrin.h.
  list(APPEND LR_AVX512 -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
set(LR_AVX512_BF16 ${LR_AVX512} -mavx512bf16)

set(LR_SANITIZE "" CACHE STRING "Sanitizers for the native tests, for example address,undefined")
if(LR_SANITIZE)
  list(APPEND LR_COMMON -fsanitize=${LR_SANITIZE} -fno-omit-frame-pointer -g -O1)
  add_link_options(-fsanitize=${LR_SANITIZE})
endif()
