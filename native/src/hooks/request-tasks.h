// Which tasks belong to the request that is being posted. Implemented in serving/request.cpp.
#ifndef KVFOLD_REQUEST_TASKS_H
#define KVFOLD_REQUEST_TASKS_H

#include <unordered_set>
#include <vector>

struct server_task;
struct server_task_result;

// Called on the posting thread, after the tasks are registered as waiting and before they are queued. Throws if they cannot run.
// Where there are many, the request keeps some of `tasks` to itself.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids, std::vector<server_task> * tasks);

// Called on the thread that reads results, with the last one of a task: queues one of those that were kept.
void kvfold_task_ended(const server_task_result & result);

#endif
