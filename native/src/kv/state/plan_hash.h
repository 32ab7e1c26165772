// Of which plan a saved state is.
#pragma once

struct kvfold_plan;
class  llama_io_read_i;
class  llama_io_write_i;

// What a saved state begins with; reading throws std::runtime_error if it is of another plan.
void kvfold_plan_hash_write(const kvfold_plan & plan, llama_io_write_i & io);
void kvfold_plan_hash_read (const kvfold_plan & plan, llama_io_read_i  & io);
