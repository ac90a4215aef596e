//! Operations on a heap, and strategies that draw them.

use proptest::collection::vec;
use proptest::prelude::*;

/// One step of a test. Indices of live things and of CPUs count modulo what there is, so that
/// every sequence, also a shrunk one, means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the calls the variants name")]
pub enum Op {
    /// Allocates an object.
    Alloc { size: usize, align: usize, zeroed: bool },
    /// Frees the `nth` live object.
    Free { nth: usize },
    /// Frees the `nth` live object without telling its layout.
    FreeUnsized { nth: usize },
    /// Resizes the `nth` live object.
    Realloc { nth: usize, size: usize },
    /// Allocates pages; the alignment is `page_size << align_shift`.
    AllocPages { count: usize, align_shift: u32 },
    /// Allocates pages below 4 GiB physical.
    AllocLowmem { count: usize, align_shift: u32 },
    /// Frees the `nth` live run of pages.
    FreePages { nth: usize },
    /// Goes on on another CPU.
    SwitchCpu { cpu: usize },
    /// A CPU comes up.
    Online { cpu: usize },
    /// A CPU goes down.
    Offline { cpu: usize },
    /// A CPU idles.
    Idle { cpu: usize },
    /// A timer tick on a CPU.
    Tick { cpu: usize },
    /// Gives kept memory back.
    Shrink,
    /// Manages `pages` more pages.
    AddRegion { pages: usize },
    /// Allocates objects of `size` bytes until one is refused, then frees these again.
    Exhaust { size: usize },
    /// Frees everything live.
    FreeAll,
}

/// Sizes log-uniform from 8 B to 128 KiB, three in four of them below 2 KiB.
pub fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0usize..8,
        12 => log_uniform(3, 11),
        4 => log_uniform(11, 17),
    ]
}

/// Sizes log-uniform from 8 B to 128 KiB, all octaves alike.
pub fn wide_sizes() -> impl Strategy<Value = usize> {
    log_uniform(3, 17)
}

/// Log-uniform in `2^low ..= 2^high`.
pub fn log_uniform(low: u32, high: u32) -> impl Strategy<Value = usize> {
    (low..high, any::<usize>()).prop_map(|(exponent, noise)| {
        let base = 1usize << exponent;
        base + noise % (base + 1)
    })
}

/// Alignments: mostly what types ask for, now and then pages, rarely more.
pub fn alignments() -> impl Strategy<Value = usize> {
    prop_oneof![
        20 => (0u32..5).prop_map(|k| 1 << k),
        3 => (5u32..12).prop_map(|k| 1 << k),
        1 => (12u32..17).prop_map(|k| 1 << k),
    ]
}

/// Page counts: mostly a few, at times dozens.
pub fn page_counts() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1usize..4, 3 => 1usize..20, 1 => 16usize..80]
}

/// One operation, of the mix that the model tests use.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (sizes(), alignments(), prop::bool::weighted(0.2))
            .prop_map(|(size, align, zeroed)| Op::Alloc { size, align, zeroed }),
        24 => any::<usize>().prop_map(|nth| Op::Free { nth }),
        4 => any::<usize>().prop_map(|nth| Op::FreeUnsized { nth }),
        8 => (any::<usize>(), sizes()).prop_map(|(nth, size)| Op::Realloc { nth, size }),
        8 => (page_counts(), 0u32..3).prop_map(|(count, align_shift)| Op::AllocPages { count, align_shift }),
        2 => (page_counts(), 0u32..3).prop_map(|(count, align_shift)| Op::AllocLowmem { count, align_shift }),
        8 => any::<usize>().prop_map(|nth| Op::FreePages { nth }),
        16 => any::<usize>().prop_map(|cpu| Op::SwitchCpu { cpu }),
        1 => any::<usize>().prop_map(|cpu| Op::Online { cpu }),
        1 => any::<usize>().prop_map(|cpu| Op::Offline { cpu }),
        2 => any::<usize>().prop_map(|cpu| Op::Idle { cpu }),
        3 => any::<usize>().prop_map(|cpu| Op::Tick { cpu }),
        1 => Just(Op::Shrink),
        1 => (4usize..64).prop_map(|pages| Op::AddRegion { pages }),
        1 => wide_sizes().prop_map(|size| Op::Exhaust { size }),
        1 => Just(Op::FreeAll),
    ]
}

/// Only page operations.
pub fn page_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (page_counts(), 0u32..6).prop_map(|(count, align_shift)| Op::AllocPages { count, align_shift }),
        2 => (page_counts(), 0u32..3).prop_map(|(count, align_shift)| Op::AllocLowmem { count, align_shift }),
        9 => any::<usize>().prop_map(|nth| Op::FreePages { nth }),
        3 => any::<usize>().prop_map(|cpu| Op::SwitchCpu { cpu }),
        1 => (4usize..64).prop_map(|pages| Op::AddRegion { pages }),
        1 => Just(Op::Shrink),
    ]
}

/// Up to `length` operations of the general mix.
pub fn ops(length: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), length / 4..=length)
}

/// Up to `length` page operations.
pub fn page_ops(length: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(page_op(), length / 4..=length)
}
