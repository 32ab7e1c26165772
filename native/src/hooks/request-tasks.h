// Which tasks belong to the request that is being posted. Implemented in serving/request.cpp.
#ifndef KVFOLD_REQUEST_TASKS_H
#define KVFOLD_REQUEST_TASKS_H

#include <unordered_set>
#include <vector>

struct server_task;

// Called on the posting thread, after the tasks are registered as waiting and before they are queued. Throws if they cannot run.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids, std::vector<server_task> * tasks);

#endif
