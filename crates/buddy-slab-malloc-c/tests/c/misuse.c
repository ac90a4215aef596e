/* A bad free: with BSA_CHECK=abort the program ends, else it goes on whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void (*volatile release)(void *) = free;

int main(int argc, char **argv) {
    char *p = malloc(100), *q = malloc(100000), local[64];
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "twice")) release(p), release(p);
    else if (!strcmp(what, "inside")) release(p + 16);
    else if (!strcmp(what, "large")) release(q), release(q);
    else if (!strcmp(what, "foreign")) release(local);
    else if (!strcmp(what, "wild")) release((void *)(uintptr_t)0x1230);
    else return 64;
    p = malloc(100);
    memset(p, 1, 100);
    free(p);
    return 0;
}
