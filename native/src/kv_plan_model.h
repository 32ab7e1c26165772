#pragma once

#include <string>

// Why the plan of the last model that this thread loaded was refused; empty if it was not. Clears it.
std::string kvfold_take_plan_error();
