// Which tasks belong to the request that is being posted. Implemented in serving/request.cpp.
#ifndef KVFOLD_REQUEST_TASKS_H
#define KVFOLD_REQUEST_TASKS_H

#include <unordered_set>

// Called on the posting thread, after the tasks are registered as waiting and before they are queued.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids);

#endif
