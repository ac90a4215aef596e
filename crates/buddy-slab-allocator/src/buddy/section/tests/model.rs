//! Random operations against a trivial model: one flag for each page.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Alloc { count: usize, align: u8, kind: Kind },
    AllocOrder { order: u8 },
    AllocAt { at: usize, count: usize },
    Free { which: usize },
    Grow { which: usize, by: usize },
    Shrink { which: usize, by: usize },
    Reserve { at: usize, count: usize },
    Slab { which: usize },
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..40_usize, 2 => 40..600_usize, 1 => 600..6000_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<usize>;
    prop_oneof![
        6 => (count(), 0..8_u8)
            .prop_map(|(count, align)| Step::Alloc { count, align, kind: Kind::Pages }),
        6 => (count(), prop_oneof![9 => Just(0), 1 => 0..8_u8])
            .prop_map(|(count, align)| Step::Alloc { count, align, kind: Kind::Object }),
        3 => (0..12_u8).prop_map(|order| Step::AllocOrder { order }),
        3 => (index(), count()).prop_map(|(at, count)| Step::AllocAt { at, count }),
        9 => index().prop_map(|which| Step::Free { which }),
        3 => (index(), count()).prop_map(|(which, by)| Step::Grow { which, by }),
        3 => (index(), count()).prop_map(|(which, by)| Step::Shrink { which, by }),
        1 => (index(), 1..9_usize).prop_map(|(at, count)| Step::Reserve { at, count }),
        1 => index().prop_map(|which| Step::Slab { which }),
    ]
}

/// Which pages are taken, and the blocks that they form.
struct Model {
    taken: Vec<bool>,
    live: Vec<(usize, usize)>,
}

impl Model {
    fn is_free(&self, from: usize, to: usize) -> bool {
        from < to && self.taken.get(from..to).is_some_and(|pages| pages.iter().all(|page| !page))
    }

    fn set(&mut self, from: usize, to: usize, taken: bool) {
        for page in &mut self.taken[from..to] {
            assert_ne!(*page, taken, "a page changes hands once");
            *page = taken;
        }
    }

    fn admit(&mut self, taken: Taken, count: usize) {
        self.set(taken.pfn.index(), taken.pfn.index() + count, true);
        self.live.push((taken.pfn.index(), count));
    }

    /// Whether a run of free pages in one zone would serve the request.
    fn has_block<const P: usize>(&self, section: &Section<P>, order: u8) -> bool {
        let size = 1_usize << order;
        let first = section.start() / P;
        let start = first.next_multiple_of(size) - first;
        (start..self.taken.len()).step_by(size).any(|at| {
            self.is_free(at, at + size)
                && section.zone_of(pfn(at)) == section.zone_of(pfn(at + size - 1))
        })
    }

    fn apply<const P: usize>(&mut self, section: &Section<P>, step: Step) {
        let pick = |which: usize, len: usize| if len == 0 { None } else { Some(which % len) };
        let place = |at: usize| at % self.taken.len();
        // SAFETY (of all calls below): one thread; blocks are given back by their owner once.
        match step {
            Step::Alloc { count, align, kind } => match take_as(section, kind, count, align) {
                Some(taken) => {
                    assert_eq!(section.addr_of(taken.pfn) % (P << align), 0);
                    self.admit(taken, count);
                }
                None => {
                    let order = Order::for_pages(count).unwrap().get().max(align);
                    assert!(!self.has_block(section, order), "{count} pages were there");
                }
            },
            Step::AllocOrder { order: want } => {
                let order = order(want);
                // SAFETY: see above.
                let taken = Zone::FALLBACK
                    .iter()
                    .find_map(|zone| unsafe { section.alloc_order(*zone, order, Kind::Object) });
                // As the page core does where there is no such block.
                let taken = taken.or_else(|| take_as(section, Kind::Handle, order.pages(), want));
                match taken {
                    Some(taken) => self.admit(taken, order.pages()),
                    None => assert!(!self.has_block(section, want), "{order:?} was there"),
                }
            }
            Step::AllocAt { at, count } => {
                let at = place(at);
                // SAFETY: see above.
                let taken = unsafe { section.alloc_at(pfn(at), count, Kind::Handle) };
                assert_eq!(taken.is_some(), self.is_free(at, at + count));
                if let Some(taken) = taken {
                    assert_eq!(taken.pfn.index(), at);
                    self.admit(taken, count);
                }
            }
            Step::Reserve { at, count } => {
                let at = place(at);
                // SAFETY: see above.
                let reserved = unsafe { section.reserve(pfn(at), count) };
                assert_eq!(reserved, self.is_free(at, at + count));
                if reserved {
                    self.set(at, at + count, true);
                }
            }
            Step::Free { which } => {
                if let Some(which) = pick(which, self.live.len()) {
                    let (at, count) = self.live.swap_remove(which);
                    give(section, pfn(at), count);
                    self.set(at, at + count, false);
                }
            }
            Step::Grow { which, by } => {
                if let Some(which) = pick(which, self.live.len()) {
                    let (at, count) = self.live[which];
                    // SAFETY: see above.
                    let grown = unsafe { section.grow(pfn(at), count, count + by, 0) };
                    assert_eq!(grown, self.is_free(at + count, at + count + by));
                    if grown {
                        self.set(at + count, at + count + by, true);
                        self.live[which].1 += by;
                    }
                }
            }
            Step::Shrink { which, by } => {
                if let Some(which) = pick(which, self.live.len())
                    && self.live[which].1 > 1
                {
                    let (at, count) = self.live[which];
                    let new = count - (1 + by % (count - 1));
                    // SAFETY: see above.
                    unsafe { section.shrink(pfn(at), count, new) };
                    self.set(at + new, at + count, false);
                    self.live[which].1 = new;
                }
            }
            Step::Slab { which } => {
                if let Some(which) = pick(which, self.live.len()) {
                    let (at, count) = self.live[which];
                    let (descriptor, label) = (section.ptr_of(pfn(at)), 0x1234_5600);
                    if !section.can_mark(pfn(at), count, descriptor) {
                        return;
                    }
                    // SAFETY: see above.
                    unsafe { section.mark_slab(pfn(at), count, descriptor, label) };
                    check(section);
                    let mark = section.slab_mark(pfn(at + count - 1));
                    let label = label + count as u32 - 1;
                    assert_eq!(mark, Some(PageMark { descriptor, label }));
                    // SAFETY: see above.
                    unsafe { section.unmark_slab(pfn(at), count, Kind::Pages) };
                }
            }
        }
    }
}

fn run<const P: usize>(offset: usize, len: usize, border: Option<usize>, steps: Vec<Step>) {
    let arena = Arena::new(offset + len);
    let origin = arena.at(0).addr();
    let phys = |addr: usize| addr - origin + (4 << 30) - border.unwrap_or(0);
    let how = Make {
        offset,
        len,
        phys: border.map(|_| &phys as &dyn Fn(usize) -> usize),
        reserved: &[(offset + len / 3, 1)],
        ..Make::default()
    };
    let section = make::<P>(&arena, how).unwrap();
    let fresh = shape(section);
    let span = section.page_span();
    let mut model = Model { taken: std::vec![false; span], live: Vec::new() };
    let reserved = (origin + offset + len / 3) / P - section.start() / P;
    model.taken[reserved] = true;
    let mut late_reservations = false;
    for step in steps {
        late_reservations |= matches!(step, Step::Reserve { .. });
        model.apply(section, step);
        check(section);
        let free = model.taken.iter().filter(|page| !**page).count();
        assert_eq!(section.summary().free_pages, free);
    }
    while let Some((at, count)) = model.live.pop() {
        give(section, pfn(at), count);
    }
    check(section);
    assert_eq!(section.summary().free_pages, section.total_pages());
    // SAFETY: one thread.
    while Zone::ALL.iter().any(|zone| unsafe { section.give_runs_up(*zone) }) {}
    check(section);
    if !late_reservations {
        assert_eq!(shape(section), fresh, "everything merged again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_section_of_4_kib_pages_agrees_with_the_model(
        offset in 0..(5_usize << 20),
        border in proptest::option::of(0..(24_usize << 8)),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        run::<4096>(offset, 24 << 20, border.map(|pages| pages << 12), steps);
    }

    #[test]
    fn a_section_of_256_byte_pages_agrees_with_the_model(
        offset in 0..(4_usize << 20),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        run::<256>(offset, 1 << 20, None, steps);
    }

    #[test]
    fn a_section_of_64_kib_pages_agrees_with_the_model(
        offset in 0..(5_usize << 20),
        border in proptest::option::of(0..4096_usize),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        run::<{ 64 << 10 }>(offset, 300 << 20, border.map(|pages| pages << 16), steps);
    }

    #[test]
    fn a_section_of_2_mib_pages_agrees_with_the_model(
        border in proptest::option::of(0..512_usize),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        run::<{ 2 << 20 }>(0, 1 << 30, border.map(|pages| pages << 21), steps);
    }
}
