/* The library opened while the program runs, on the system's malloc: both work side by side. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static void *(*other_malloc)(size_t);
static void (*other_free)(void *);

static void *thread(void *unused) {
    for (int i = 0; i < 1000; i++) {
        void *p = other_malloc(i * 7);
        memset(p, 1, i * 7);
        other_free(p);
    }
    return unused;
}

int main(int argc, char **argv) {
    (void)argc;
    for (int i = 0; i < 3; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) fprintf(stderr, "%s\n", dlerror());
        CHECK(library);
        if (!library) return 1;
        other_malloc = (void *(*)(size_t))dlsym(library, "malloc");
        other_free = (void (*)(void *))dlsym(library, "free");
        CHECK(other_malloc && other_malloc != malloc);
        pthread_t threads[4];
        for (int j = 0; j < 4; j++) pthread_create(&threads[j], NULL, thread, NULL);
        for (int j = 0; j < 4; j++) pthread_join(threads[j], NULL);
        thread(NULL);
        free(malloc(100));
        dlclose(library);
    }
    return failures != 0;
}
