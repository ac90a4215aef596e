//! `malloc`, `free` and their kin.

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};

use buddy_slab_malloc::{PAGE_SIZE, heap};

/// What every allocation is aligned to.
const ALIGN: usize = 16;

/// Says in `errno` what is wrong, and returns null.
#[cold]
fn fail(error: c_int) -> *mut c_void {
    // SAFETY: the calling thread's own `errno`.
    unsafe { *libc::__errno_location() = error };
    ptr::null_mut()
}

/// The allocation, or null and `ENOMEM`.
#[inline(always)]
fn or_fail(object: *mut u8) -> *mut c_void {
    if object.is_null() { fail(libc::ENOMEM) } else { object.cast() }
}

/// `void *malloc(size_t size)`
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    let object = heap::allocate_at_hand(size, ALIGN);
    if object.is_null() { malloc_slow(size) } else { object.cast() }
}

/// The rest of `malloc`, on its own so that the fast path has nothing to keep.
#[cold]
#[inline(never)]
fn malloc_slow(size: usize) -> *mut c_void {
    or_fail(heap::allocate(size, ALIGN))
}

/// `void *calloc(size_t count, size_t size)`
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => or_fail(heap::allocate_zeroed(bytes, ALIGN)),
        None => fail(libc::ENOMEM),
    }
}

/// `void free(void *ptr)`
///
/// # Safety
/// - `ptr` is null, or came from this library and was not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(ptr: *mut c_void) {
    if let Some(ptr) = NonNull::new(ptr.cast()) {
        // SAFETY: the caller's condition.
        unsafe { heap::release(ptr) }
    }
}

/// `void free_sized(void *ptr, size_t size)` (C23)
///
/// # Safety
/// - As for `free`; the size is that which was asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(ptr: *mut c_void, _size: usize) {
    // SAFETY: the caller's condition.
    unsafe { free(ptr) }
}

/// `void free_aligned_sized(void *ptr, size_t alignment, size_t size)` (C23)
///
/// # Safety
/// - As for `free`; alignment and size are those which were asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's condition.
    unsafe { free(ptr) }
}

/// `void *realloc(void *ptr, size_t size)`
///
/// # Safety
/// - As for `free`; after success only the result is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(ptr.cast::<u8>()) else { return malloc(size) };
    if size == 0 {
        // SAFETY: the caller's condition.
        unsafe { heap::release(old) };
        return ptr::null_mut();
    }
    // SAFETY: the caller's condition.
    or_fail(unsafe { heap::resize(old, size) })
}

/// `void *reallocarray(void *ptr, size_t count, size_t size)`
///
/// # Safety
/// - As for `realloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(ptr: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's condition.
        Some(bytes) => unsafe { realloc(ptr, bytes) },
        None => fail(libc::ENOMEM),
    }
}

/// An allocation at a multiple of `align`, which is a power of two.
#[inline]
fn aligned(align: usize, size: usize) -> *mut c_void {
    or_fail(heap::allocate(size, align.max(ALIGN)))
}

/// `void *aligned_alloc(size_t alignment, size_t size)`: any size, as since C17.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() { aligned(align, size) } else { fail(libc::EINVAL) }
}

/// `void *memalign(size_t alignment, size_t size)`: an alignment that is no power of two is
/// rounded up to one.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => aligned(align, size),
        None => fail(libc::EINVAL),
    }
}

/// `int posix_memalign(void **ptr, size_t alignment, size_t size)`: leaves `errno` alone.
///
/// # Safety
/// - `place` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let object = heap::allocate(size, align.max(ALIGN));
    if object.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's condition.
    unsafe { place.write(object.cast()) };
    0
}

/// Bytes of a page of the system.
fn system_page() -> usize {
    // SAFETY: asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(PAGE_SIZE)
}

/// `void *valloc(size_t size)`: at a page of the system.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    aligned(system_page(), size)
}

/// `void *pvalloc(size_t size)`: whole pages of the system.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = system_page();
    match size.max(1).checked_next_multiple_of(page) {
        Some(bytes) => aligned(page, bytes),
        None => fail(libc::ENOMEM),
    }
}

/// `size_t malloc_usable_size(void *ptr)`
///
/// # Safety
/// - As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: the caller's condition.
    NonNull::new(ptr.cast()).map_or(0, |ptr| unsafe { heap::usable_size(ptr) })
}
