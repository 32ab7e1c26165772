// How a server_response_reader says which tasks it has posted. Implemented in native/src/request.cpp.
#pragma once

#include <unordered_set>

// Called on the posting thread, after the tasks are registered as waiting and before they are queued.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids);
