/* A clock of its own for one process: preloaded, it moves the wall clock by AMPHI_CLOCK_OFFSET seconds and lets every clock run
 * AMPHI_CLOCK_RATE times as fast, counted from the first look. Built by the fault cases that need it; the host's clock is never touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

typedef int (*clock_fn)(clockid_t, struct timespec *);

static clock_fn real;
static double offset, rate = 1.0;
static struct timespec first[16];

__attribute__((constructor)) static void begin(void) {
    const char *text;
    real = (clock_fn)dlsym(RTLD_NEXT, "clock_gettime");
    if ((text = getenv("AMPHI_CLOCK_OFFSET"))) offset = atof(text);
    if ((text = getenv("AMPHI_CLOCK_RATE"))) rate = atof(text);
    for (int id = 0; id < 16; id++) real(id, &first[id]);
}

static void shift(clockid_t id, struct timespec *at) {
    double nanos;
    if (id < 0 || id >= 16) return;
    nanos = ((double)(at->tv_sec - first[id].tv_sec) * 1e9 + (double)(at->tv_nsec - first[id].tv_nsec)) * rate + (double)first[id].tv_nsec;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) nanos += offset * 1e9;
    at->tv_sec = first[id].tv_sec + (time_t)(nanos / 1e9);
    nanos -= (double)((time_t)(nanos / 1e9)) * 1e9;
    if (nanos < 0) { nanos += 1e9; at->tv_sec -= 1; }
    at->tv_nsec = (long)nanos;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int done;
    if (!real) begin();
    done = real(id, at);
    /* Time used by a process is no clock. */
    if (done == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME || id == CLOCK_MONOTONIC_RAW))
        shift(id, at);
    return done;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
