//! Drives a heap by operations and holds it against the oracle after each.

use std::alloc::Layout;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use crate::heap::Heap;
use crate::op::Op;
use crate::oracle::{self, Kind, Live, Oracle};

/// A heap, its shadow, and which CPUs are up.
pub struct Runner<'h, H: Heap> {
    heap: &'h H,
    oracle: Oracle,
    online: Vec<bool>,
    cpu: usize,
    /// Failures to allocate so far.
    pub refused: usize,
}

impl<'h, H: Heap> Runner<'h, H> {
    /// A runner on CPU 0 of a heap of which nothing is live. All CPUs count as up.
    pub fn new(heap: &'h H) -> Self {
        heap.switch_cpu(0);
        Self {
            heap,
            oracle: Oracle::new(heap.sections()),
            online: vec![true; heap.cpu_count()],
            cpu: 0,
            refused: 0,
        }
    }

    /// What is live.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Runs all of `ops`, checking the heap's own equations after each, then frees everything.
    ///
    /// # Panics
    /// When the heap has broken its word.
    pub fn run(mut self, ops: &[Op]) {
        for op in ops {
            self.step(op);
            self.heap.check_invariants();
        }
        self.oracle.verify_all();
        self.free_all();
        self.heap.check_invariants();
    }

    /// One operation.
    ///
    /// # Panics
    /// When the heap has broken its word.
    pub fn step(&mut self, op: &Op) {
        match *op {
            Op::Alloc { size, align, zeroed } => {
                self.alloc(size, align, zeroed);
            }
            Op::Free { nth } => self.free(nth, false),
            Op::FreeUnsized { nth } => self.free(nth, true),
            Op::Realloc { nth, size } => self.realloc(nth, size),
            Op::AllocPages { count, align_shift } => self.alloc_pages(count, align_shift, false),
            Op::AllocLowmem { count, align_shift } => self.alloc_pages(count, align_shift, true),
            Op::FreePages { nth } => self.free_pages(nth),
            Op::SwitchCpu { cpu } => self.switch(cpu),
            Op::Online { cpu } => self.bring_up(cpu % self.online.len()),
            Op::Offline { cpu } => {
                let cpu = cpu % self.online.len();
                if cpu != self.cpu && self.online[cpu] {
                    self.online[cpu] = false;
                    self.heap.cpu_offline(cpu);
                }
            }
            Op::Idle { cpu } => self.heap.idle(cpu % self.online.len()),
            Op::Tick { cpu } => self.heap.tick(cpu % self.online.len()),
            Op::Shrink => {
                self.heap.shrink();
            }
            Op::AddRegion { pages } => {
                if self.heap.add_region(pages * self.heap.page_size()) {
                    self.oracle.set_sections(self.heap.sections());
                }
            }
            Op::Exhaust { size } => self.exhaust(size),
            Op::FreeAll => self.free_all(),
        }
    }

    fn switch(&mut self, cpu: usize) {
        let cpu = cpu % self.online.len();
        self.bring_up(cpu);
        self.cpu = cpu;
        self.heap.switch_cpu(cpu);
    }

    fn bring_up(&mut self, cpu: usize) {
        if !self.online[cpu] {
            self.online[cpu] = true;
            self.heap.cpu_online(cpu);
        }
    }

    /// Allocates one object; whether there was one.
    pub fn alloc(&mut self, size: usize, align: usize, zeroed: bool) -> bool {
        let layout = Layout::from_size_align(size, align).expect("a layout of the strategy");
        let got = if zeroed { self.heap.alloc_zeroed(layout) } else { self.heap.alloc(layout) };
        let Some(ptr) = got else {
            self.refused += 1;
            return false;
        };
        if zeroed {
            // SAFETY: a fresh object of `size` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(ptr.as_ptr(), size) };
            assert!(bytes.iter().all(|&b| b == 0), "zeroed memory at {ptr:p} is not zero");
        }
        self.note_object(ptr, layout);
        true
    }

    fn note_object(&mut self, ptr: NonNull<u8>, layout: Layout) {
        let usable = self.heap.usable_size(ptr);
        let len = usable.unwrap_or(layout.size());
        assert!(len >= layout.size(), "usable size {len} is less than the layout's {layout:?}");
        let addr = ptr.as_ptr().expose_provenance();
        let live = Live { addr, len, kind: Kind::Object(layout) };
        // SAFETY: just handed out; the oracle checks where it lies before it writes.
        unsafe { self.oracle.insert(live, layout.align()) };
    }

    fn free(&mut self, nth: usize, untold: bool) {
        let Some(live) = self.oracle.remove_object(nth) else {
            return;
        };
        self.free_live(live, untold);
    }

    fn free_live(&mut self, live: Live, untold: bool) {
        match live.kind {
            Kind::Object(layout) => {
                let ptr = NonNull::new(with_exposed_provenance_mut(live.addr)).expect("not null");
                // SAFETY: it was live until now, with this layout.
                unsafe {
                    if untold {
                        self.heap.dealloc_unsized(ptr, layout);
                    } else {
                        self.heap.dealloc(ptr, layout);
                    }
                }
            }
            Kind::Pages(count) => self.heap.dealloc_pages(live.addr, count),
        }
    }

    fn realloc(&mut self, nth: usize, size: usize) {
        let size = size.max(1);
        let Some(live) = self.oracle.remove_object(nth) else {
            return;
        };
        let Kind::Object(layout) = live.kind else { unreachable!("objects only") };
        let ptr = NonNull::new(with_exposed_provenance_mut(live.addr)).expect("not null");
        // SAFETY: live, with this layout; the old pointer is used again only if nothing came back.
        match unsafe { self.heap.realloc(ptr, layout, size) } {
            Some(new) => {
                let kept = layout.size().min(size);
                // SAFETY: the new object holds at least `kept` bytes.
                unsafe { oracle::verify(new.as_ptr().expose_provenance(), kept, live.addr) };
                let layout = Layout::from_size_align(size, layout.align()).expect("as it was");
                self.note_object(new, layout);
            }
            None => {
                self.refused += 1;
                // SAFETY: the old object is still there, content included.
                unsafe {
                    oracle::verify(live.addr, live.len, live.addr);
                    self.oracle.insert(live, layout.align());
                }
            }
        }
    }

    fn alloc_pages(&mut self, count: usize, align_shift: u32, low: bool) {
        let page_size = self.heap.page_size();
        let align = page_size << align_shift;
        let got = if low {
            self.heap.alloc_pages_lowmem(count, align)
        } else {
            self.heap.alloc_pages(count, align)
        };
        let Some(addr) = got else {
            self.refused += 1;
            return;
        };
        let len = count * page_size;
        if low {
            assert!(
                (0..count).all(|i| self.heap.is_low(addr + i * page_size)),
                "low memory at {addr:#x} is not low"
            );
        }
        // SAFETY: just handed out; the oracle checks where it lies before it writes.
        unsafe { self.oracle.insert(Live { addr, len, kind: Kind::Pages(count) }, align) };
    }

    fn free_pages(&mut self, nth: usize) {
        if let Some(live) = self.oracle.remove_pages(nth) {
            self.free_live(live, false);
        }
    }

    /// Allocates objects of one size until one is refused, then frees these.
    fn exhaust(&mut self, size: usize) {
        // Small objects by the million would say no more.
        let size = size.max(512);
        let before = self.oracle.object_count();
        while self.alloc(size, 8, false) {}
        while self.oracle.object_count() > before {
            self.free(before, false);
        }
    }

    /// Frees everything live, spread over the CPUs that are up.
    pub fn free_all(&mut self) {
        let home = self.cpu;
        let cpus: Vec<usize> = (0..self.online.len()).filter(|&c| self.online[c]).collect();
        let mut turn = 0;
        loop {
            let live = match self.oracle.remove_object(turn) {
                Some(live) => live,
                None => match self.oracle.remove_pages(turn) {
                    Some(live) => live,
                    None => break,
                },
            };
            self.heap.switch_cpu(cpus[turn % cpus.len()]);
            self.free_live(live, turn % 3 == 0);
            turn += 1;
        }
        self.cpu = home;
        self.heap.switch_cpu(home);
    }

    /// With nothing live, takes every page one by one and gives them back; how many there were.
    ///
    /// # Panics
    /// When the heap has broken its word.
    pub fn count_pages_one_by_one(&mut self) -> usize {
        let before = self.oracle.page_run_count();
        let refused = self.refused;
        while self.refused == refused {
            self.alloc_pages(1, 0, false);
        }
        let count = self.oracle.page_run_count() - before;
        while self.oracle.page_run_count() > before {
            self.free_pages(before);
        }
        count
    }
}
