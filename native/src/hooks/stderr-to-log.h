// Redirects printf(), and fprintf() to stdout or stderr, to the log. Include it after every other header.
#pragma once

#include <cstdio>

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int kvfold_fprintf(FILE * stream, const char * format, ...);

#define fprintf(stream, ...) kvfold_fprintf(stream, __VA_ARGS__)
#define printf(...)          kvfold_fprintf(stdout, __VA_ARGS__)
