//! What happens when a caller frees what it should not: the fault is reported with its address,
//! with no lock held, and the heap stays as it was.

use core::mem;

use super::GlobalAllocator;
use crate::percpu::FaultLog;
use crate::platform::Platform;
use crate::sync::atomic::Ordering;
use crate::units::Misuse;

/// A call that would have damaged the heap, had it been believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MisuseReport {
    /// The address that was passed.
    pub addr: usize,
    /// What is wrong with it.
    pub kind: Misuse,
}

impl core::fmt::Display for MisuseReport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "bad free of {:#x}: {}", self.addr, self.kind)
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Sets what is called on misuse; `None` restores the default, which panics with the report
    /// where a panic cannot unwind, that is, aborts.
    ///
    /// The handler runs in the context of the bad call, with no lock held. (Or of the one that finds
    /// it: where frees are gathered first, for other CPUs or in [magazines](Platform::MAGAZINES).)
    /// If it returns, the bad call has no effect, but for what a magazine handed out before. It
    /// should not allocate: a damaged program may be near its end.
    pub fn set_misuse_handler(&self, handler: Option<fn(&MisuseReport)>) {
        let pointer = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
        self.misuse.store(pointer, Ordering::Release);
    }

    /// How many faults were found so far.
    pub fn misuse_count(&self) -> usize {
        self.misuse_count.load(Ordering::Relaxed)
    }

    /// Reports one fault. Nothing may be held.
    #[cold]
    #[inline(never)]
    pub(super) fn report(&self, addr: usize, kind: Misuse) {
        self.misuse_count.fetch_add(1, Ordering::Relaxed);
        let report = MisuseReport { addr, kind };
        let pointer = self.misuse.load(Ordering::Acquire);
        if pointer.is_null() {
            abort_with(&report);
        }
        // SAFETY: only `set_misuse_handler` stores here, and only such functions.
        let handler = unsafe { mem::transmute::<*mut (), fn(&MisuseReport)>(pointer) };
        handler(&report);
    }

    /// Reports what a session noted. Nothing may be held.
    pub(super) fn report_all(&self, faults: &FaultLog) {
        if !faults.is_empty() {
            for (addr, kind) in faults.iter() {
                self.report(addr, kind);
            }
        }
    }
}

/// Panics where the panic cannot unwind into the allocator's caller: out of an `extern "C"`
/// function a panic aborts.
extern "C" fn abort_with(report: &MisuseReport) -> ! {
    panic!("{report}");
}
