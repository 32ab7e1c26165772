// Compiled for AVX-512, see native/CMakeLists.txt.
#include "attention/kernel.h"

namespace kvfold::attention {

const kernel avx512_kernel = { "avx512", scratch_floats, attend, merge };

} // namespace kvfold::attention
