#pragma once

#include <string>

namespace kvfold {

// See kvfold_quantize().
void quantize(const std::string & path_in, const std::string & path_out, const std::string & options);

} // namespace kvfold
