//! Faults on purpose: each must make the run fail, with the message that its test looks for.

use core::alloc::Layout;

use crate::arch::Arch;
use crate::options::Extra;
use crate::pattern::{Object, Pages};
use crate::say;

/// Commits the fault, if one was asked for.
pub(super) fn run<A: Arch>(extra: Extra) {
    let heap = A::heap();
    let Ok(object) = heap.alloc(Layout::new::<[u64; 8]>()) else { panic!("no object") };
    // SAFETY: allocated above with this layout, once; what comes after it is the fault on purpose,
    // which the heap reports without effect.
    unsafe { heap.dealloc(object, Layout::new::<[u64; 8]>()) };
    match extra {
        Extra::DoubleFree => {
            say!(A, "\n== a fault on purpose: an object is freed twice ==");
            // SAFETY: not upheld: that is the fault.
            unsafe { heap.dealloc(object, Layout::new::<[u64; 8]>()) };
        }
        Extra::PageAsObject => {
            say!(A, "\n== a fault on purpose: a page is freed as an object ==");
            let Ok(pages) = Pages::alloc::<A>(1, 0) else { panic!("no page") };
            let page = core::ptr::with_exposed_provenance_mut::<u8>(pages.addr);
            // SAFETY: not upheld: that is the fault.
            unsafe {
                heap.dealloc(core::ptr::NonNull::new_unchecked(page), Layout::new::<[u64; 8]>());
            }
        }
        Extra::Leak => {
            say!(A, "\n== a fault on purpose: an object is kept ==");
            match Object::alloc::<A>(Layout::new::<[u64; 8]>()) {
                // Dropping it does not free it.
                Ok(object) => object.verify(),
                Err(error) => panic!("{error}"),
            }
        }
        Extra::None | Extra::Nmi | Extra::Handlers | Extra::Count => {}
    }
}
