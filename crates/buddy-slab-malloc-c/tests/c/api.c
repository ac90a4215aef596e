/* Every function of the C interface: what it returns, what it says in errno, its edges. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../include/buddyslab.h"
#include "check.h"

typedef struct nothrow nothrow;
void *_Znwm(size_t), *_Znam(size_t);
void *_ZnwmRKSt9nothrow_t(size_t, const nothrow *), *_ZnamRKSt9nothrow_t(size_t, const nothrow *);
void *_ZnwmSt11align_val_t(size_t, size_t), *_ZnamSt11align_val_t(size_t, size_t);
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t, size_t, const nothrow *);
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t, size_t, const nothrow *);
void _ZdlPv(void *), _ZdaPv(void *), _ZdlPvm(void *, size_t), _ZdaPvm(void *, size_t);
void _ZdlPvSt11align_val_t(void *, size_t), _ZdaPvSt11align_val_t(void *, size_t);
void _ZdlPvmSt11align_val_t(void *, size_t, size_t), _ZdaPvmSt11align_val_t(void *, size_t, size_t);
void _ZdlPvRKSt9nothrow_t(void *, const nothrow *), _ZdaPvRKSt9nothrow_t(void *, const nothrow *);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *, size_t, const nothrow *);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *, size_t, const nothrow *);

/* Where the library is preloaded, the linker does not see it. */
#ifdef PRELOADED
#pragma weak _Znwm
#pragma weak _Znam
#pragma weak _ZnwmRKSt9nothrow_t
#pragma weak _ZnamRKSt9nothrow_t
#pragma weak _ZnwmSt11align_val_t
#pragma weak _ZnamSt11align_val_t
#pragma weak _ZnwmSt11align_val_tRKSt9nothrow_t
#pragma weak _ZnamSt11align_val_tRKSt9nothrow_t
#pragma weak _ZdlPv
#pragma weak _ZdaPv
#pragma weak _ZdlPvm
#pragma weak _ZdaPvm
#pragma weak _ZdlPvSt11align_val_t
#pragma weak _ZdaPvSt11align_val_t
#pragma weak _ZdlPvmSt11align_val_t
#pragma weak _ZdaPvmSt11align_val_t
#pragma weak _ZdlPvRKSt9nothrow_t
#pragma weak _ZdaPvRKSt9nothrow_t
#pragma weak _ZdlPvSt11align_val_tRKSt9nothrow_t
#pragma weak _ZdaPvSt11align_val_tRKSt9nothrow_t
#pragma weak free_sized
#pragma weak free_aligned_sized
#endif

/* Numbers that the compiler must not see through. */
static volatile size_t too_large = PTRDIFF_MAX;
static volatile size_t all_ones = SIZE_MAX;
static void *volatile sink;

static int aligned(const void *p, size_t to) { return (uintptr_t)p % to == 0; }

static int all(const unsigned char *p, size_t n, unsigned char value) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != value) return 0;
    return 1;
}

static void sizes(void) {
    for (size_t size = 0; size < 300000; size = size < 70 ? size + 1 : size * 9 / 8 + 1) {
        unsigned char *p = malloc(size), *q = malloc(size);
        CHECK(p && q && p != q);
        CHECK(aligned(p, 16) && aligned(q, 16));
        CHECK(malloc_usable_size(p) >= size);
        memset(p, 0xA1, malloc_usable_size(p)); /* all of the usable size may be used */
        memset(q, 0xB2, size);
        CHECK(all(p, size, 0xA1));
        errno = 77;
        free(p);
        free(q);
        CHECK(errno == 77);
    }
    void *a = malloc(0), *b = malloc(0);
    CHECK(a && b && a != b);
    free(a);
    free(b);
    errno = 78;
    free(NULL);
    CHECK(errno == 78);
    CHECK(malloc_usable_size(NULL) == 0);
    errno = 0;
    CHECK((sink = malloc(too_large)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK((sink = malloc(all_ones)) == NULL && errno == ENOMEM);
}

static void callocs(void) {
    for (size_t size = 1; size < (9u << 20); size *= 3) {
        /* Dirty memory first, so that it is not zero by chance. */
        unsigned char *p = malloc(size);
        memset(p, 0xCC, size);
        free(p);
        p = calloc(1, size);
        CHECK(p && all(p, size, 0));
        memset(p, 0xCC, size);
        free(p);
        p = calloc(size, 1);
        CHECK(p && all(p, size, 0) && aligned(p, 16));
        free(p);
    }
    errno = 0;
    CHECK((sink = calloc(all_ones / 2 + 1, 2)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK((sink = calloc(1, all_ones)) == NULL && errno == ENOMEM);
    void *none = calloc(0, 5);
    CHECK(none);
    free(none);
}

static void reallocs(void) {
    unsigned char *p = realloc(NULL, 10);
    CHECK(p);
    size_t before = 10;
    memset(p, 0x5A, before);
    for (size_t size = 11; size < (40u << 20); size = size * 3 / 2) {
        p = realloc(p, size);
        CHECK(p && aligned(p, 16) && all(p, before, 0x5A));
        memset(p, 0x5A, size);
        before = size;
    }
    for (size_t size = before / 2; size > 0; size /= 3) {
        p = realloc(p, size);
        CHECK(p && all(p, size, 0x5A));
    }
    errno = 0;
    CHECK((sink = realloc(p, too_large)) == NULL && errno == ENOMEM);
    CHECK(p[0] == 0x5A); /* as it was */
    errno = 0;
    CHECK((sink = reallocarray(p, all_ones / 2 + 1, 2)) == NULL && errno == ENOMEM);
    CHECK(p[0] == 0x5A);
    p = reallocarray(p, 1000, 3);
    CHECK(p && malloc_usable_size(p) >= 3000 && p[0] == 0x5A);
    CHECK((sink = realloc(p, 0)) == NULL); /* freed, as glibc does */
    void *fresh = realloc(NULL, 0);
    CHECK(fresh);
    free(fresh);
    fresh = reallocarray(NULL, 4, 4);
    CHECK(fresh);
    free(fresh);
}

static void alignments(void) {
    long page = sysconf(_SC_PAGESIZE);
    for (size_t to = 1; to <= (64u << 20); to *= 2) {
        for (size_t size = 0; size < 200000; size = size * 7 + 13) {
            void *p = aligned_alloc(to, size); /* sizes that are no multiple, too */
            CHECK(p && aligned(p, to) && aligned(p, 16));
            memset(p, 1, size);
            p = realloc(p, size + 100); /* realloc keeps no alignment, and the content */
            CHECK(p && all(p, size, 1));
            free(p);
            p = memalign(to, size);
            CHECK(p && aligned(p, to));
            free_aligned_sized(p, to, size);
            void *q = NULL;
            errno = 79;
            int result = posix_memalign(&q, to, size);
            CHECK(errno == 79);
            if (to < sizeof(void *)) {
                CHECK(result == EINVAL && q == NULL);
            } else {
                CHECK(result == 0 && aligned(q, to));
                free(q);
            }
        }
    }
    void *q = &q;
    CHECK(posix_memalign(&q, 24, 8) == EINVAL && posix_memalign(&q, 0, 8) == EINVAL);
    CHECK(posix_memalign(&q, 64, too_large) == ENOMEM && q == &q);
    errno = 0;
    CHECK((sink = aligned_alloc(24, 48)) == NULL && errno == EINVAL);
    errno = 0;
    CHECK((sink = aligned_alloc(0, 48)) == NULL && errno == EINVAL);
    errno = 0;
    CHECK((sink = aligned_alloc(4096, too_large)) == NULL && errno == ENOMEM);
    void *p = memalign(24, 100); /* rounded up */
    CHECK(p && aligned(p, 32));
    free(p);
    errno = 0;
    CHECK((sink = memalign(all_ones, 1)) == NULL && errno == EINVAL);
    p = valloc(100);
    CHECK(p && aligned(p, page));
    free(p);
    p = pvalloc(page + 1);
    CHECK(p && aligned(p, page) && malloc_usable_size(p) >= (size_t)page * 2);
    free(p);
    p = pvalloc(0);
    CHECK(p && malloc_usable_size(p) >= (size_t)page);
    free(p);
    errno = 0;
    CHECK((sink = pvalloc(all_ones)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK((sink = valloc(all_ones)) == NULL && errno == ENOMEM);
}

static void sized(void) {
    void *p = malloc(100);
    free_sized(p, 100);
    p = calloc(10, 1000);
    free_sized(p, 10000);
    free_sized(NULL, 5);
    free_aligned_sized(NULL, 64, 5);
    p = aligned_alloc(4096, 10);
    free_aligned_sized(p, 4096, 10);
}

static void cxx(void) {
    for (size_t size = 0; size < 100000; size = size * 3 + 1) {
        void *p[] = {
            _Znwm(size), _Znam(size), _Znwm(size), _Znam(size),
            _ZnwmRKSt9nothrow_t(size, NULL), _ZnamRKSt9nothrow_t(size, NULL),
            _ZnwmSt11align_val_t(size, 128), _ZnamSt11align_val_t(size, 128),
            _ZnwmSt11align_val_t(size, 256), _ZnamSt11align_val_t(size, 256),
            _ZnwmSt11align_val_tRKSt9nothrow_t(size, 512, NULL),
            _ZnamSt11align_val_tRKSt9nothrow_t(size, 512, NULL),
        };
        for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
            CHECK(p[i] && aligned(p[i], i < 6 ? 16 : i < 8 ? 128 : i < 10 ? 256 : 512));
            memset(p[i], 3, size);
        }
        _ZdlPv(p[0]), _ZdaPv(p[1]), _ZdlPvm(p[2], size), _ZdaPvm(p[3], size);
        _ZdlPvRKSt9nothrow_t(p[4], NULL), _ZdaPvRKSt9nothrow_t(p[5], NULL);
        _ZdlPvSt11align_val_t(p[6], 128), _ZdaPvSt11align_val_t(p[7], 128);
        _ZdlPvmSt11align_val_t(p[8], size, 256), _ZdaPvmSt11align_val_t(p[9], size, 256);
        _ZdlPvSt11align_val_tRKSt9nothrow_t(p[10], 512, NULL);
        _ZdaPvSt11align_val_tRKSt9nothrow_t(p[11], 512, NULL);
    }
    _ZdlPv(NULL), _ZdaPv(NULL);
    CHECK(_ZnwmRKSt9nothrow_t(too_large, NULL) == NULL);
    CHECK(_ZnamSt11align_val_tRKSt9nothrow_t(too_large, 64, NULL) == NULL);
}

static void statistics(void) {
    struct mallinfo2 before = mallinfo2();
    void *p = malloc(50u << 20);
    memset(p, 1, 50u << 20);
    struct mallinfo2 with = mallinfo2();
    CHECK(with.uordblks >= before.uordblks + (50u << 20));
    CHECK(with.arena >= with.uordblks);
    free(p);
    struct mallinfo2 after = mallinfo2();
    CHECK(after.uordblks < with.uordblks);
    CHECK(mallopt(M_MMAP_THRESHOLD, 1) == 0);

    void *many[10000];
    for (int i = 0; i < 10000; i++) memset(many[i] = malloc(1000), 1, 1000);
    for (int i = 0; i < 10000; i++) free(many[i]);
    CHECK(malloc_trim(0) == 1);

    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(malloc_info(0, stream) == 0 && malloc_info(1, stream) == EINVAL);
    fclose(stream);
    CHECK(strstr(text, "<malloc version") && strstr(text, "</malloc>"));
    free(text);
}

/* More than a section holds: a mapping of its own. */
static void huge(void) {
    if (sizeof(size_t) < 8) return;
    size_t size = (size_t)5 << 30;
    char *p = malloc(size);
    if (!p) return; /* the machine may forbid it */
    CHECK(aligned(p, 16) && malloc_usable_size(p) >= size);
    p[0] = 1, p[size - 1] = 2;
    p = realloc(p, size + (1 << 20));
    CHECK(p && p[0] == 1 && p[size - 1] == 2);
    p = realloc(p, 1 << 20);
    CHECK(p && p[0] == 1);
    free(p);
    p = calloc(1, size);
    CHECK(p && p[0] == 0 && p[size - 1] == 0);
    free(p);
    p = aligned_alloc(1 << 21, size);
    CHECK(p && aligned(p, 1 << 21));
    free(p);
}

/* What is in use is in a core dump: the mapping around it is not marked "dd" (do not dump). */
static void dumps(void) {
    void *p = malloc(1000);
    uintptr_t from, to;
    char line[512];
    int here = 0, said = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
            here = from <= (uintptr_t)p && (uintptr_t)p < to;
        else if (here && !strncmp(line, "VmFlags:", 8)) {
            CHECK(strstr(line, " wr") && !strstr(line, " dd"));
            said++;
        }
    }
    CHECK(said == 1);
    if (f) fclose(f);
    free(p);
}

int main(void) {
    /* That it is this library's malloc at all. */
    CHECK(malloc_usable_size(sink = malloc(33)) == 48);
    free(sink);
    sizes();
    callocs();
    reallocs();
    alignments();
    sized();
    cxx();
    statistics();
    huge();
    dumps();
    return failures != 0;
}
