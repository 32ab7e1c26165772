// How a thread of ggml's pool waits: it spins, which is fastest while every thread has a core, and then gives way.
// C, included by ggml-cpu.c.
#pragma once

#if defined(_WIN32)
#    include <windows.h>
#    define kvfold_yield() SwitchToThread()
#else
#    include <sched.h>
#    define kvfold_yield() sched_yield()
#endif

// some tens of microseconds; matrices of a decode step take longer, the gaps between them less
#define KVFOLD_SPIN_ROUNDS 1024u

static inline void kvfold_give_way(unsigned * rounds) {
    if (++*rounds > KVFOLD_SPIN_ROUNDS) {
        kvfold_yield();
    }
}
