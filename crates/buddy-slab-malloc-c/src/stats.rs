//! What programs ask an allocator about itself: glibc's `mallinfo2` and its kin.

use core::ffi::c_int;

use buddy_slab_malloc::report::{self, Report};
use buddy_slab_malloc::{PAGE_SIZE, heap};

/// `struct mallinfo2`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Mallinfo2 {
    /// Bytes that the heap manages and that were ever in use: those in use, and those kept.
    pub arena: usize,
    /// Free blocks.
    pub ordblks: usize,
    /// Always 0, as are the other fields of this kind: there are no fast bins.
    pub smblks: usize,
    /// Mappings of their own.
    pub hblks: usize,
    /// Bytes in them.
    pub hblkhd: usize,
    /// Always 0.
    pub usmblks: usize,
    /// Always 0.
    pub fsmblks: usize,
    /// Bytes handed out: objects in use, and pages.
    pub uordblks: usize,
    /// Bytes free in slabs.
    pub fordblks: usize,
    /// Bytes that `malloc_trim` may give back: pages that threads keep.
    pub keepcost: usize,
}

/// `struct mallinfo`: the same in `int`s, which overflow.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Mallinfo([c_int; 10]);

/// `struct mallinfo2 mallinfo2(void)`
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    let Report { heap, current_bytes, huge_bytes, .. } = Report::take();
    let live: usize = heap.classes.iter().map(|class| class.size * class.objects_live).sum();
    let total: usize = heap.classes.iter().map(|class| class.size * class.objects_total).sum();
    let kept = heap.cached_pages * PAGE_SIZE;
    Mallinfo2 {
        arena: current_bytes - huge_bytes + kept,
        ordblks: heap.free_blocks.iter().flatten().sum(),
        smblks: 0,
        hblks: usize::from(huge_bytes != 0),
        hblkhd: huge_bytes,
        usmblks: 0,
        fsmblks: 0,
        uordblks: live + heap.large_pages * PAGE_SIZE,
        fordblks: total - live,
        keepcost: kept,
    }
}

/// `struct mallinfo mallinfo(void)`
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> Mallinfo {
    let info = mallinfo2();
    let fields = [
        info.arena,
        info.ordblks,
        info.smblks,
        info.hblks,
        info.hblkhd,
        info.usmblks,
        info.fsmblks,
        info.uordblks,
        info.fordblks,
        info.keepcost,
    ];
    Mallinfo(fields.map(|field| field as c_int))
}

/// `void malloc_stats(void)`: on the standard error output.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    report::write_to(libc::STDERR_FILENO);
}

/// `int malloc_info(int options, FILE *stream)`: glibc's form, with the totals only.
///
/// # Safety
/// - `stream` is open for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let info = mallinfo2();
    let format = c"<malloc version=\"1\">\n<system type=\"current\" size=\"%zu\"/>\n\
                   <total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n</malloc>\n";
    // SAFETY: the stream is the caller's; three sizes for three conversions.
    let written =
        unsafe { libc::fprintf(stream, format.as_ptr(), info.arena, info.ordblks, info.fordblks) };
    if written < 0 { -1 } else { 0 }
}

/// `int malloc_trim(size_t pad)`: 1 if anything went back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    c_int::from(heap::trim())
}

/// `int mallopt(int param, int value)`: glibc's parameters mean nothing here; 0 says so.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_param: c_int, _value: c_int) -> c_int {
    0
}
