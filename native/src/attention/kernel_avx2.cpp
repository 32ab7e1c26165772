// Compiled for AVX2, FMA and F16C, see native/CMakeLists.txt.
#include "attention/kernel.h"

namespace kvfold::attention {

const kernel avx2_kernel = { "avx2", scratch_floats, attend, merge };

} // namespace kvfold::attention
