/* Threads, forks, signals and destructors, all at once or thousands of times. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static unsigned next(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Blocks that any thread leaves and any other takes: frees across threads. */
#define SLOTS 256
static _Atomic(unsigned char *) slots[SLOTS];
static atomic_int stop;

static void churn(unsigned *state, int steps) {
    for (int i = 0; i < steps; i++) {
        size_t size = next(state) % 8 ? next(state) % 600 + 2 : next(state) % 100000 + 2;
        unsigned char *p = malloc(size);
        if (!p) abort();
        p[0] = p[size - 1] = 0x7E;
        p[1] = (unsigned char)(size & 0xFF);
        unsigned char *q = atomic_exchange(&slots[next(state) % SLOTS], p);
        if (q && q[0] != 0x7E) abort();
        free(q);
    }
}

static void *churner(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    while (!stop) churn(&state, 100);
    return NULL;
}

static long resident_kib(void) {
    long pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    if (fscanf(f, "%ld %ld", &ignored, &pages) != 2) abort();
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void *once(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    churn(&state, 50);
    return NULL;
}

/* A child allocates on its own and in a thread of its own, and ends well. */
static void child(unsigned seed) {
    alarm(30);
    unsigned state = seed;
    churn(&state, 300);
    pthread_t thread;
    if (pthread_create(&thread, NULL, once, (void *)(uintptr_t)seed)) _exit(2);
    pthread_join(thread, NULL);
    /* What the other threads had at hand is to be had again. */
    for (int i = 0; i < SLOTS; i++) free(atomic_exchange(&slots[i], NULL));
    _exit(0);
}

static void forks(int count) {
    pthread_t threads[8];
    stop = 0;
    for (uintptr_t i = 0; i < 8; i++) pthread_create(&threads[i], NULL, churner, (void *)(i + 1));
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid == 0) child(i + 100);
        int status = -1;
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(status == 0);
        unsigned state = i;
        churn(&state, 50);
    }
    stop = 1;
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

static void many_threads(int count) {
    enum { AT_ONCE = 20 };
    pthread_t threads[AT_ONCE];
    long early = 0;
    for (int i = 0; i < count; i += AT_ONCE) {
        for (int j = 0; j < AT_ONCE; j++)
            CHECK(!pthread_create(&threads[j], NULL, once, (void *)(uintptr_t)(i + j + 1)));
        for (int j = 0; j < AT_ONCE; j++) pthread_join(threads[j], NULL);
        if (i >= count / 5 && !early) malloc_trim(0), early = resident_kib();
    }
    long untrimmed = resident_kib();
    malloc_trim(0);
    long growth = resident_kib() - early;
    CHECK(untrimmed < (64 << 10));
    fprintf(stderr, "%d threads: %ld KiB at a fifth, %+ld KiB since\n", count, early, growth);
    /* What is live differs from moment to moment by a few MiB, however many threads there were;
       2 KiB lost a thread would be 16. */
    CHECK(growth < (12 << 10));
}

/* More threads at a time than anybody has processors. */
static void *waits(void *gate) {
    unsigned state = 7;
    churn(&state, 20);
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    churn(&state, 20);
    return NULL;
}

static void threads_at_once(int count) {
    alarm(120);
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    pthread_mutex_lock(&gate);
    int started = 0;
    while (started < count && !pthread_create(&threads[started], &small, waits, &gate)) started++;
    CHECK(started > count / 2);
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    free(threads);
}

static pthread_key_t key;

/* Frees, allocates, and comes back as often as the C library lets it. */
static void destructor(void *p) {
    int rounds = *(int *)p;
    free(p);
    if (rounds < 3) {
        int *again = malloc(sizeof *again);
        *again = rounds + 1;
        pthread_setspecific(key, again);
    }
    free(malloc(100000));
}

static void *with_destructor(void *unused) {
    (void)unused;
    int *p = malloc(sizeof *p);
    *p = 0;
    pthread_setspecific(key, p);
    return NULL;
}

static void destructors(void) {
    pthread_key_create(&key, destructor);
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, with_destructor, NULL);
        pthread_join(thread, NULL);
    }
}

static atomic_int handled, refused;

static void handler(int signal) {
    (void)signal;
    static void *kept[64];
    static unsigned at;
    void **place = &kept[at++ % 64];
    free(*place);
    *place = malloc(at % 10 ? at % 500 : 50000);
    if (!*place) refused++;
    handled++;
}

static void signals(int millis) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
    struct timeval start, now;
    gettimeofday(&start, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    unsigned state = 3;
    do {
        churn(&state, 1000);
        gettimeofday(&now, NULL);
    } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_usec - start.tv_usec) / 1000 < millis);
    setitimer(ITIMER_REAL, &never, NULL);
    fprintf(stderr, "%d signals, %d requests refused\n", handled, refused);
    CHECK(handled > 10);
    /* While the thread gets its heap a handler has none to go to: a few, however many signals. */
    CHECK(refused <= 20 + handled / 100);
}

int main(int argc, char **argv) {
    int scale = argc > 2 ? atoi(argv[2]) : 1;
    const char *which = argc > 1 ? argv[1] : "";
    alarm(0);
    if (!strcmp(which, "forks")) forks(40 * scale);
    else if (!strcmp(which, "threads")) many_threads(10000 * scale);
    else if (!strcmp(which, "crowd")) threads_at_once(500 * scale);
    else if (!strcmp(which, "destructors")) destructors();
    else if (!strcmp(which, "signals")) signals(500 * scale);
    else return 64;
    return failures != 0;
}
