/*
 * Tokens per second of one greedy answer, driven from C through kvfold.h alone: what a binding is measured against.
 *
 *   decode_rate MODEL.gguf [N_TOKENS=64] [REPEATS=3] [THREADS=0]
 *
 * Prints one line per repetition and the median. THREADS 0 leaves the choice to the library.
 */
#include "kvfold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static int by_value(const void * a, const void * b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static void fail(const char * what, char * answer) {
    fprintf(stderr, "decode_rate: %s: %s\n", what, answer ? answer : "no reason given");
    kvfold_free(answer);
    exit(1);
}

/* Tokens per second from the first text to the last, of the request that a streaming ChatModel makes. */
static double measure(kvfold_engine * engine, int n_tokens) {
    char             body[256];
    char *           answer  = NULL;
    kvfold_request * request = NULL;
    int              chunks  = 0;
    double           first = 0, last = 0;
    snprintf(body, sizeof(body),
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Once upon a time\"}], \"max_tokens\": %d, \"temperature\": 0,"
             " \"stream\": true}",
             n_tokens);
    if (kvfold_request_open(engine, "/v1/chat/completions", body, &request, &answer) != KVFOLD_OK) {
        fail("request", answer);
    }
    for (;;) {
        const int32_t status = kvfold_request_next(request, &answer);
        if (status == KVFOLD_DONE) {
            break;
        }
        if (status != KVFOLD_OK) {
            fail("next", answer);
        }
        if (strstr(answer, "\"content\":\"")) {
            last = seconds();
            if (chunks++ == 0) {
                first = last;
            }
        }
        kvfold_free(answer);
    }
    kvfold_request_close(request);
    if (chunks < 2) {
        fail("answer", NULL);
    }
    return (n_tokens - 1) / (last - first);
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: decode_rate MODEL.gguf [N_TOKENS] [REPEATS] [THREADS]\n");
        return 2;
    }
    const int       n_tokens = argc > 2 ? atoi(argv[2]) : 64;
    const int       repeats  = argc > 3 ? atoi(argv[3]) : 3;
    const int       threads  = argc > 4 ? atoi(argv[4]) : 0;
    const size_t    room     = strlen(argv[1]) + 256;
    char *          options  = malloc(room);
    double *        rates    = malloc(sizeof(double) * (size_t) (repeats > 0 ? repeats : 1));
    char *          answer   = NULL;
    kvfold_engine * engine   = NULL;
    if (n_tokens < 2 || repeats < 1 || !options || !rates) {
        fprintf(stderr, "decode_rate: at least 2 tokens and 1 repetition\n");
        return 2;
    }
    snprintf(options, room, "{\"model\": \"%s\", \"ignore-eos\": true, \"parallel\": 1, \"ctx-size\": %d", argv[1], n_tokens + 64);
    if (threads > 0) {
        snprintf(options + strlen(options), room - strlen(options), ", \"threads\": %d", threads);
    }
    strcat(options, "}");
    if (kvfold_open(options, NULL, NULL, &engine, &answer) != KVFOLD_OK) {
        fail("open", answer);
    }
    kvfold_free(answer);
    measure(engine, n_tokens < 8 ? n_tokens : 8); /* warm up */
    for (int i = 0; i < repeats; i++) {
        rates[i] = measure(engine, n_tokens);
        printf("%.3f tokens/s\n", rates[i]);
    }
    qsort(rates, (size_t) repeats, sizeof(double), by_value);
    printf("median %.3f tokens/s\n", rates[repeats / 2]);
    kvfold_close(engine);
    free(options);
    free(rates);
    return 0;
}
