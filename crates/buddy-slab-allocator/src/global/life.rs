//! A CPU's life: it comes up, ticks, sleeps, goes down.

use super::GlobalAllocator;
use crate::error::{AllocError, AllocResult};
use crate::percpu::{FaultLog, Heap};
use crate::platform::{Access, Platform};

/// How many groups that others freed into a tick takes in.
const COLLECTED_BY_TICK: usize = 1024;

/// How much of a heap is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Give {
    /// What others wait for, and surplus, of what lies in magazines a part.
    Surplus,
    /// The same, and all that lies in magazines: a CPU that sleeps has no ticks.
    Rest,
    /// Everything that is not in use.
    All,
}

/// How many idle slabs a tick releases.
const IDLE_RELEASED: usize = 16;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Says that CPU `cpu` runs from now on. Optional: a CPU that allocates is online.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if there is no such CPU.
    pub fn cpu_online(&self, cpu: usize) -> AllocResult {
        self.heap_of(cpu).map(|_| ())
    }

    /// Says that CPU `cpu` stops: what it keeps is given back, and what is still in use there is
    /// taken care of by others. Called on the CPU itself, or on another once it is idle.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if there is no such CPU, or it is neither the caller's nor
    /// idle.
    pub fn cpu_offline(&self, cpu: usize) -> AllocResult {
        self.rest(cpu, Give::All)
    }

    /// Says that CPU `cpu` has stopped without a word, perhaps inside the allocator. What it
    /// keeps is reclaimed as from an idle CPU; an allocation that it was in the middle of is lost.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if there is no such CPU.
    ///
    /// # Safety
    /// - The CPU executes nothing any more, until `cpu_online` is called for it.
    /// - It did not stop while it held one of the allocator's locks or was changing a list, or what it
    ///   notes of frees that follow each other.
    pub unsafe fn cpu_dead(&self, cpu: usize) -> AllocResult {
        let heap = self.heap_of(cpu)?;
        // SAFETY: the CPU has stopped (condition).
        if P::ACCESS == Access::Exclusive && unsafe { heap.gate.take_dead() } {
            heap.gate.give_back();
        }
        Ok(())
    }

    /// Says that this CPU is about to sleep: gives back all that lies in magazines, publishes the
    /// remote frees that it gathered, takes in what others freed, and lets others drain its heap
    /// until it allocates again. Not from a handler that may have interrupted the allocator on this
    /// CPU.
    ///
    /// # Complexity
    /// As [`tick`](Self::tick), and O(objects in magazines).
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if there is no such CPU, or (*pinned* and *thread*) it is not
    /// the caller's.
    pub fn idle(&self, cpu: usize) -> AllocResult {
        self.rest(cpu, Give::Rest)
    }

    /// To be called now and then, say from the timer: takes up to 16 objects of each class out of
    /// this CPU's magazines, publishes the remote frees that it gathered, takes in what others
    /// freed (a bounded part of it), gives surplus pages back. Does nothing if it interrupted the
    /// allocator.
    ///
    /// # Complexity
    /// Bounded by constants: see `docs/worst-case.md`. Takes the node's lock for what goes back.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub fn tick(&self, cpu: usize) -> AllocResult {
        let heap = self.heap_of(cpu)?;
        if P::ACCESS == Access::Locked {
            return self.give_seized(heap, Give::Surplus);
        }
        self.give_own(heap, Give::Surplus, false)
    }

    /// Gives everything back that this CPU keeps, and, if a request elsewhere is about to fail
    /// for want of an object that this CPU has at hand, that object: what
    /// [`Platform::drain_cpus`] makes every CPU do. Does nothing (and says so by `false`) if it
    /// interrupted the allocator.
    pub fn drain_current(&self) -> bool {
        let Some(mut session) = self.enter_own() else { return false };
        let heap = session.heap();
        let (local, env) = session.parts();
        local.drain(heap.inbox(), &env);
        self.give_wanted(local);
        let faults = local.faults.take();
        drop(session);
        self.report_all(&faults);
        true
    }

    fn rest(&self, cpu: usize, give: Give) -> AllocResult {
        let heap = self.heap_of(cpu)?;
        if P::ACCESS == Access::Exclusive {
            // The caller's own heap may be parked already: entering makes it the caller's again.
            if let Some(session) = self.enter_own()
                && core::ptr::eq(session.heap(), heap)
            {
                drop(session);
                return self.give_own(heap, give, true);
            }
            if !heap.gate.is_parked() {
                return Err(AllocError::InvalidParam);
            }
        }
        self.give_seized(heap, give)
    }

    fn heap_of(&self, cpu: usize) -> AllocResult<&Heap<PAGE_SIZE, P::Lock>> {
        self.ready()?;
        self.heaps.cpu(cpu).ok_or(AllocError::InvalidParam)
    }

    /// Works on the running CPU's heap, which must be `heap`.
    fn give_own(&self, heap: &Heap<PAGE_SIZE, P::Lock>, give: Give, park: bool) -> AllocResult {
        let Some(mut session) = self.enter_own() else {
            return Ok(()); // it interrupted the allocator, or another CPU drains it
        };
        if !core::ptr::eq(session.heap(), heap) {
            return Err(AllocError::InvalidParam);
        }
        let wait = session.wait();
        let faults = self.give(session.local(), heap, give, wait);
        if park {
            session.leave_parked();
        } else {
            drop(session);
        }
        self.report_all(&faults);
        Ok(())
    }

    /// Works on a heap that is nobody's at the moment, or has a lock.
    fn give_seized(&self, heap: &Heap<PAGE_SIZE, P::Lock>, give: Give) -> AllocResult {
        let mut faults = FaultLog::new();
        self.announced(|wait| {
            if self.seize(heap, wait) {
                // SAFETY: just seized.
                faults = self.give(unsafe { heap.local() }, heap, give, wait);
                // SAFETY: seized above.
                unsafe { self.let_go(heap) };
            }
        });
        self.report_all(&faults);
        Ok(())
    }

    fn give(
        &self,
        local: &mut crate::percpu::Local<PAGE_SIZE>,
        heap: &Heap<PAGE_SIZE, P::Lock>,
        give: Give,
        wait: crate::buddy::Wait,
    ) -> FaultLog {
        let env = self.env_of(heap, wait);
        match give {
            Give::All => local.drain(heap.inbox(), &env),
            _ if self.is_scarce(heap.node()) => local.drain(heap.inbox(), &env),
            Give::Surplus | Give::Rest => {
                match give {
                    Give::Rest => local.empty_magazines(&env),
                    _ => local.trim_magazines(&env),
                }
                local.remote.flush(&env, &mut local.faults);
                local.collect_some(heap.inbox(), COLLECTED_BY_TICK, &env);
                local.end_run(&env);
                local.release_idle(IDLE_RELEASED, &env);
                local.pages.trim(&env);
                local.blocks.trim(&env);
            }
        }
        self.core.drain_deferred(wait);
        local.faults.take()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use core::alloc::Layout;
    use std::alloc::{alloc, dealloc};
    use std::vec::Vec;

    use crate::buddy::Wait;
    use crate::slab::SizeClass;
    use crate::{GlobalAllocator, OsImpl};

    struct Os;

    impl OsImpl for Os {
        fn current_cpu_idx(&self) -> usize {
            0
        }

        fn virt_to_phys(&self, vaddr: usize) -> usize {
            vaddr
        }
    }

    const LAYOUT: Layout = Layout::new::<[u64; 8]>();

    /// A heap of one CPU, with memory of its own while the story lasts.
    fn with_heap(story: impl FnOnce(&GlobalAllocator, &dyn Fn() -> usize)) {
        const BYTES: usize = 64 << 20;
        let region = Layout::from_size_align(BYTES, 4096).unwrap();
        // SAFETY: the region is the heap's while it is used.
        unsafe {
            let at = alloc(region);
            let heap = GlobalAllocator::<4096>::new();
            heap.init(core::slice::from_raw_parts_mut(at, BYTES), 1, &Os).unwrap();
            story(&heap, &|| heap.class_totals(SizeClass::Bytes64).0);
            dealloc(at, region);
        }
    }

    /// A context that may not wait puts empty slabs back on the list, in front of others; each is
    /// found when it can be released.
    #[test]
    fn empty_slabs_that_could_not_be_released_are_found_later() {
        // SAFETY: the heap of CPU 0 is held where its parts are touched; what is freed was allocated.
        with_heap(|heap, slabs| unsafe {
            let mut kept = Vec::new();
            while slabs() < 2 {
                kept.push(heap.alloc(LAYOUT).unwrap());
            }
            let mut others = Vec::new();
            while slabs() < 8 {
                others.push(heap.alloc(LAYOUT).unwrap());
            }
            others.iter().for_each(|object| heap.dealloc(*object, LAYOUT));
            assert!(slabs() > 3, "some are idle");

            let cpu = heap.heaps.cpu(0).unwrap();
            assert!(heap.seize(cpu, Wait::Spin));
            cpu.local().release_idle(1, &heap.env_of(cpu, Wait::Try));
            heap.let_go(cpu);
            // What was full is first now, before all that are empty.
            heap.dealloc(kept.remove(0), LAYOUT);
            heap.shrink();
            heap.check_invariants();
            assert_eq!(slabs(), 2, "those of which something is in use");
            kept.iter().for_each(|object| heap.dealloc(*object, LAYOUT));
            heap.shrink();
            assert_eq!(slabs(), 0);
        });
    }

    /// Nobody looks whether a group is idle while frees go on in it; a drain does, and a tick.
    #[test]
    fn the_slab_that_a_run_of_frees_left_empty_is_given_back() {
        for tick_first in [false, true] {
            // SAFETY: the heap of CPU 0 is held where its parts are touched; what is freed was allocated.
            with_heap(|heap, slabs| unsafe {
                let mut objects = Vec::new();
                while slabs() < 8 {
                    objects.push(heap.alloc(LAYOUT).unwrap());
                }
                // Of the first group one stays: what is behind it is not found by going through those
                // that are empty.
                let kept = objects.pop().unwrap();
                objects.iter().for_each(|object| heap.dealloc(*object, LAYOUT));
                heap.check_invariants();
                if tick_first {
                    heap.tick(0).unwrap();
                    let cpu = heap.heaps.cpu(0).unwrap();
                    assert!(heap.seize(cpu, Wait::Spin));
                    assert!(!cpu.local().is_in_run());
                    heap.let_go(cpu);
                    heap.check_invariants();
                }
                heap.shrink();
                assert_eq!(slabs(), 1);
                heap.check_invariants();
                heap.dealloc(kept, LAYOUT);
            });
        }
    }
}
