// Compiled for any processor, see native/CMakeLists.txt.
#include "attention/kernel.h"

namespace kvfold::attention {

const kernel portable_kernel = { "portable", scratch_floats, attend, merge };

} // namespace kvfold::attention
