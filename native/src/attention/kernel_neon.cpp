// Compiled for NEON, see native/CMakeLists.txt.
#include "attention/kernel.h"

namespace kvfold::attention {

const kernel neon_kernel = { "neon", scratch_floats, attend, merge };

} // namespace kvfold::attention
