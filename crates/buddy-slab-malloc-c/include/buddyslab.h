/* What libbuddyslab has beyond the system's <stdlib.h> and <malloc.h>.
 *
 * malloc, calloc, realloc, reallocarray, free, aligned_alloc, posix_memalign, memalign, valloc,
 * pvalloc, malloc_usable_size, malloc_trim, mallinfo, mallinfo2, malloc_info, malloc_stats and
 * mallopt are declared by the system. Link with the flags of `pkg-config --libs buddyslab`, or
 * preload the library, and they are those of this library; so are C++'s new and delete.
 */
#ifndef BUDDYSLAB_H
#define BUDDYSLAB_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* C23: free of memory whose size is known: that which malloc, calloc or realloc was asked for. */
void free_sized(void *ptr, size_t size);

/* C23: free of what aligned_alloc returned, with the alignment and size that it was asked for. */
void free_aligned_sized(void *ptr, size_t alignment, size_t size);

#ifdef __cplusplus
}
#endif

#endif
