// Memory of the host that follows use: a range of addresses whose pages are committed for cells that are about to be written.
// On Linux; elsewhere memory of the host is there as a whole.
#pragma once

#include "kv/memory/pages.h"

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

namespace kvfold {

// The type for keys and values in place of `type`; `type` itself where that is not ggml's for the host, or cannot be paged.
ggml_backend_buffer_type * host_buffer_type_for(ggml_backend_buffer_type * type);

// Null for buffers of other types. A tensor without memory of its own is in a buffer of size 0.
page_map * host_pages_of(const ggml_backend_buffer * buffer);

// Stands in for the system in buffers that are made from now on, until null is given. For tests.
void set_page_driver(page_driver * driver);

} // namespace kvfold
