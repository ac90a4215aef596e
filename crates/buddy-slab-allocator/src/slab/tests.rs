//! A slab against a model, in memory full of garbage, for every class and page size.

extern crate std;

use core::ptr::NonNull;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::list::SlabList;
use super::remote::Collected;
use super::*;
use crate::units::Misuse;

/// Memory of the host, filled with garbage.
struct Memory {
    at: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(bytes, align).unwrap();
        // SAFETY: the size is not zero.
        let at = NonNull::new(unsafe { alloc(layout) }).expect("host memory");
        // SAFETY: just allocated.
        unsafe { at.write_bytes(0xA5, bytes) };
        Self { at, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.at.as_ptr(), self.layout) };
    }
}

/// A slab with its descriptor behind its pages.
struct Fixture {
    slab: NonNull<Slab>,
    _memory: Memory,
}

fn place(pages: u8) -> SlabPlace {
    SlabPlace {
        section: core::ptr::null_mut(),
        pfn: 7,
        page_count: u16::from(pages),
        in_band: false,
    }
}

fn fixture<const PAGE_SIZE: usize>(class: SizeClass) -> Fixture {
    let info = ClassTable::<PAGE_SIZE>::info(class);
    let bytes = usize::from(info.first.pages) * PAGE_SIZE;
    let descriptor_bytes = usize::from(info.first.descriptor_bytes);
    let memory = Memory::new(bytes + descriptor_bytes, PAGE_SIZE.max(Slab::ALIGN));
    // SAFETY: all of it is ours; whole pages come first, so the descriptor is aligned behind them.
    let slab = unsafe {
        let (at, first) = (memory.at.as_ptr().byte_add(bytes), memory.at.as_ptr());
        Slab::format(at, first, bytes, class, PAGE_SIZE, 3, place(info.first.pages)).unwrap()
    };
    Fixture { slab, _memory: memory }
}

/// Takes everything, gives back everything (even objects here, odd ones remotely), and checks
/// addresses, counts and misuse on the way.
fn exercise<const PAGE_SIZE: usize>(class: SizeClass) {
    let fixture = fixture::<PAGE_SIZE>(class);
    let (slab, size) = (fixture.slab, class.size());
    let info = ClassTable::<PAGE_SIZE>::info(class);
    // SAFETY: the slab is formatted, and this thread owns it.
    unsafe {
        assert_eq!(Slab::object_count(slab), usize::from(info.first.object_count));
        assert_eq!((Slab::owner(slab), Slab::class(slab)), (3, class));
        assert_eq!(Slab::place(slab), place(info.first.pages));
        Slab::check(slab);
        let objects: Vec<_> = core::iter::from_fn(|| Slab::alloc(slab)).collect();
        Slab::check(slab);
        assert!(Slab::is_full(slab) && !Slab::quiescent(slab));
        assert_eq!(objects.len(), Slab::object_count(slab));
        for (i, object) in objects.iter().enumerate() {
            let addr = object.addr().get();
            assert_eq!(addr, Slab::objects(slab).addr() + i * size, "ascending, dense");
            let natural = class.natural_align().min(PAGE_SIZE);
            assert!(addr.is_multiple_of(natural), "aligned");
            // Users write what they like.
            object.write_bytes(0xFF, size);
            let index = Slab::index_of(slab, addr).unwrap();
            assert_eq!((index.get(), Slab::object_ptr(slab, index)), (i, *object));
            assert_eq!(Slab::index_of(slab, addr + 1), Err(Misuse::Interior));
            assert_eq!(Slab::index_of(slab, addr + size / 2), Err(Misuse::Interior));
        }
        let end = Slab::objects(slab).addr() + objects.len() * size;
        for outside in [end, end + size, Slab::objects(slab).addr() - size, 0, 8, usize::MAX] {
            assert_eq!(Slab::index_of(slab, outside), Err(Misuse::Interior));
        }
        let inbox = Inbox::new();
        for (i, object) in objects.iter().enumerate() {
            let index = Slab::index_of(slab, object.addr().get()).unwrap();
            assert!(Slab::is_live(slab, index));
            if i % 2 == 0 {
                assert_eq!(Slab::free_local(slab, index), Ok(()));
                assert_eq!(Slab::is_empty(slab), objects.len() == 1);
                assert_eq!(Slab::free_local(slab, index), Err(Misuse::DoubleFree));
            } else {
                publish(slab, index, &inbox);
                assert_eq!(Slab::publish_remote(slab, index.group(), index.mask()).push, None);
            }
            assert!(Slab::is_free_hint(slab, index));
        }
        let mut freed = 0;
        for group in inbox.take_all() {
            assert_eq!(slab_of(group), slab);
            assert_eq!(Slab::remote_word(slab, group_number(group)), group);
            let collected = collect(group);
            assert_eq!((collected.doubles, collected.was_full), (0, false));
            freed += collected.freed.count_ones() as usize;
        }
        assert_eq!(freed, objects.len() / 2);
        assert!(Slab::is_empty(slab) && Slab::quiescent(slab) && inbox.is_empty());
        Slab::check(slab);
    }
}

/// Frees one object remotely.
///
/// # Safety
/// - It is in use.
unsafe fn publish(slab: NonNull<Slab>, index: ObjectIndex, inbox: &Inbox) {
    // SAFETY: the caller's word; pushed as demanded.
    unsafe {
        let outcome = Slab::publish_remote(slab, index.group(), index.mask());
        assert_eq!(outcome.doubles, 0);
        if let Some(group) = outcome.push {
            inbox.push(group);
        }
    }
}

fn exercise_all<const PAGE_SIZE: usize>() {
    for class in SizeClass::ALL {
        if ClassTable::<PAGE_SIZE>::info(class).usable {
            exercise::<PAGE_SIZE>(class);
        }
    }
}

#[test]
fn every_class_works_with_every_page_size() {
    exercise_all::<256>();
    exercise_all::<512>();
    exercise_all::<1024>();
    exercise_all::<4096>();
    exercise_all::<16384>();
    exercise_all::<65536>();
}

#[test]
fn a_slab_without_room_for_an_object_is_refused() {
    let memory = Memory::new(256, 64);
    // SAFETY: the memory is ours.
    let slab = unsafe {
        let at = memory.at.as_ptr();
        Slab::format(at, at.byte_add(128), 128, SizeClass::Bytes160, 256, 0, place(1))
    };
    assert_eq!(slab, None);
}

#[test]
fn a_double_free_across_local_and_remote_is_seen_when_collected() {
    let fixture = fixture::<4096>(SizeClass::Bytes64);
    let (slab, inbox) = (fixture.slab, Inbox::new());
    // SAFETY: the slab is formatted, and this thread owns it.
    unsafe {
        let object = Slab::alloc(slab).unwrap();
        let index = Slab::index_of(slab, object.addr().get()).unwrap();
        publish(slab, index, &inbox);
        Slab::free_local(slab, index).unwrap();
        assert!(Slab::is_empty(slab));
        assert!(!Slab::quiescent(slab), "a pending bit keeps the slab");
        let collected: Vec<_> = inbox.take_all().map(|group| collect(group)).collect();
        let group = Slab::group(slab, 0);
        let expected = Collected { group, freed: 0, doubles: index.mask(), was_full: false };
        assert_eq!(collected, [expected]);
        assert!(Slab::quiescent(slab));
        Slab::check(slab);
    }
}

/// What is no object and was freed by another CPU stands for none: the slab does not look as if all
/// of it waited, nobody is handed it, and it keeps the slab while its word is queued.
#[test]
fn remote_frees_of_what_is_no_object_are_left_to_the_owner() {
    let fixture = fixture::<4096>(SizeClass::Bytes512);
    let slab = fixture.slab;
    let inbox = Inbox::new();
    // SAFETY: the slab is formatted, and this thread owns it.
    unsafe {
        let count = Slab::object_count(slab);
        let last = ObjectIndex::new(0, count as u32 - 1);
        let bogus = ObjectIndex::new(0, count as u32);
        assert!(!count.is_multiple_of(GROUP_OBJECTS), "a bit of no object");
        while Slab::alloc(slab).is_some() {}
        publish(slab, bogus, &inbox);
        for index in 0..count - 1 {
            publish(slab, ObjectIndex::new(0, index as u32), &inbox);
        }
        assert!(!Slab::all_freed(slab, 1), "one object is in use");
        let words: Vec<_> = inbox.take_all().collect();
        for word in words {
            while let (object, again) = take_one(word)
                && again
            {
                if object.is_none() {
                    inbox.push(word);
                    break;
                }
                assert_ne!(object, Some(Slab::object_ptr(slab, bogus)));
            }
        }
        let words: Vec<_> = inbox.take_all().collect();
        assert_eq!(words.len(), 1, "what is no object waits");
        let collected = collect(words[0]);
        assert_eq!((collected.freed, collected.doubles), (0, bogus.mask()));
        assert!(Slab::is_live(slab, last));
    }
}

/// The same in a group without any object, behind those of an in-band slab.
#[test]
fn a_slab_stays_while_a_word_without_objects_is_queued() {
    const PAGE: usize = if usize::BITS == 64 { 16384 } else { 4096 };
    let memory = Memory::new(PAGE, PAGE);
    let bytes = PAGE - Slab::descriptor_bytes(PAGE);
    // SAFETY: all of it is ours; the descriptor lies at its end.
    unsafe {
        let (first, at) = (memory.at.as_ptr(), memory.at.as_ptr().byte_add(bytes));
        let place = SlabPlace { in_band: true, ..place(1) };
        let class = SizeClass::Bytes8;
        let slab = Slab::format(at, first, bytes, class, PAGE, 3, place).unwrap();
        let number = PAGE / 8 / GROUP_OBJECTS - 1;
        assert!(number >= Slab::group_count(slab) && Slab::quiescent(slab));
        let inbox = Inbox::new();
        publish(slab, ObjectIndex::new(number, 0), &inbox);
        assert!(!Slab::quiescent(slab), "its word is queued");
        for word in inbox.take_all() {
            assert_eq!(collect(word).freed, 0);
        }
        assert!(Slab::quiescent(slab));
    }
}

/// Descriptors and objects further apart than a group can say are refused.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_descriptor_out_of_reach_is_known_beforehand() {
    let at = |addr: usize| core::ptr::without_provenance_mut::<u8>(addr);
    let (low, near, far) = (1 << 12, (1 << 12) + (60 << 30), (1 << 12) + (65 << 30));
    let reach = |a, b| Slab::can_reach(NonNull::new(at(a)).unwrap(), NonNull::new(at(b)).unwrap());
    assert!(reach(low, near) && reach(near, low));
    assert!(!reach(low, far) && !reach(far, low));
}

#[test]
fn lists_keep_their_links_through_removals() {
    let fixtures: Vec<_> = (0..4).map(|_| fixture::<4096>(SizeClass::Bytes512)).collect();
    let mut list = SlabList::new();
    // SAFETY: the slabs are this thread's, and on this list only.
    unsafe {
        for fixture in &fixtures {
            list.push_front(fixture.slab);
        }
        list.remove(fixtures[1].slab);
        list.remove(fixtures[3].slab);
        assert_eq!(list.front(), Some(fixtures[2].slab));
        assert_eq!(Slab::next(fixtures[2].slab), Some(fixtures[0].slab));
        list.push_front(fixtures[1].slab);
        list.remove(fixtures[0].slab);
        assert_eq!(list.front(), Some(fixtures[1].slab));
        assert_eq!(Slab::next(fixtures[1].slab), Some(fixtures[2].slab));
        list.remove(fixtures[1].slab);
        list.remove(fixtures[2].slab);
        assert!(list.is_empty());
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Alloc,
    FreeLocal(usize),
    Remote(usize),
    Collect,
    FreeAgain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Alloc),
        2 => any::<usize>().prop_map(Step::FreeLocal),
        2 => any::<usize>().prop_map(Step::Remote),
        1 => Just(Step::Collect),
        1 => any::<usize>().prop_map(Step::FreeAgain),
    ]
}

/// Runs steps against sets of live, pending and free objects.
fn against_model<const PAGE_SIZE: usize>(class: SizeClass, steps: &[Step]) {
    let fixture = fixture::<PAGE_SIZE>(class);
    let (slab, inbox) = (fixture.slab, Inbox::new());
    let pick = |set: &BTreeSet<ObjectIndex>, seed: usize| {
        (!set.is_empty()).then(|| *set.iter().nth(seed % set.len()).unwrap())
    };
    // SAFETY: the slab is formatted, this thread owns it, and the model knows what is in use.
    unsafe {
        let count = Slab::object_count(slab);
        let (mut live, mut pending) = (BTreeSet::new(), BTreeSet::new());
        let mut free: BTreeSet<_> = (0..count).map(|i| ObjectIndex::new(0, i as u32)).collect();
        for &step in steps {
            let was_full = free.is_empty();
            match step {
                Step::Alloc => match Slab::alloc(slab) {
                    Some(object) => {
                        let index = Slab::index_of(slab, object.addr().get()).unwrap();
                        assert!(free.remove(&index), "was free");
                        assert!(live.insert(index));
                    }
                    None => assert!(was_full),
                },
                Step::FreeLocal(seed) => {
                    let Some(index) = pick(&live, seed) else { continue };
                    assert_eq!(Slab::free_local(slab, index), Ok(()));
                    live.remove(&index);
                    free.insert(index);
                    assert_eq!(Slab::is_empty(slab), free.len() == count);
                }
                Step::Remote(seed) => {
                    let Some(index) = pick(&live, seed) else { continue };
                    publish(slab, index, &inbox);
                    live.remove(&index);
                    pending.insert(index);
                }
                Step::Collect => {
                    let mut freed = 0;
                    for word in inbox.take_all() {
                        let full = Group::free_bits(Slab::group(slab, group_number(word))) == 0;
                        let collected = collect(word);
                        assert_eq!((collected.doubles, collected.was_full), (0, full));
                        freed += collected.freed.count_ones() as usize;
                    }
                    assert_eq!(freed, pending.len());
                    free.append(&mut pending);
                }
                Step::FreeAgain(seed) => {
                    if let Some(index) = pick(&free, seed) {
                        assert_eq!(Slab::free_local(slab, index), Err(Misuse::DoubleFree));
                    }
                    if let Some(index) = pick(&pending, seed) {
                        let again = Slab::publish_remote(slab, index.group(), index.mask());
                        assert_eq!((again.doubles, again.push), (index.mask(), None));
                    }
                }
            }
            Slab::check(slab);
            assert_eq!(Slab::used(slab), live.len() + pending.len());
            assert_eq!(Slab::quiescent(slab), live.is_empty() && pending.is_empty());
            assert_eq!(inbox.is_empty(), pending.is_empty());
            let mut seen = BTreeSet::new();
            Slab::live_objects(slab, |index| assert!(seen.insert(index)));
            assert_eq!(seen, live);
        }
        inbox.take_all().for_each(drop);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_slab_agrees_with_the_model(
        // (The last one is no slab's with such pages.)
        class in 0..SizeClass::COUNT - 1,
        steps in proptest::collection::vec(step(), 1..600),
    ) {
        let class = SizeClass::ALL[class];
        against_model::<4096>(class, &steps);
        against_model::<65536>(class, &steps[..steps.len().min(100)]);
        if ClassTable::<512>::info(class).usable {
            against_model::<512>(class, &steps);
        }
    }
}

#[test]
fn an_inbox_is_taken_in_parts_and_nothing_is_left_out() {
    let words: Vec<NonNull<RemoteWord>> =
        (0..10).map(|i| NonNull::from(Box::leak(Box::new(RemoteWord::new(i % 4))))).collect();
    let inbox = Inbox::new();
    // SAFETY: each word is pushed once, and alive.
    let push = |words: &[NonNull<RemoteWord>]| words.iter().for_each(|&w| unsafe { inbox.push(w) });
    let mut seen = Vec::new();
    push(&words[..7]);
    inbox.take_some(3, |word| seen.push(word));
    assert_eq!(seen.len(), 3);
    assert!(!inbox.is_empty(), "the rest waits");
    push(&words[7..]);
    inbox.take_some(2, |word| seen.push(word));
    assert_eq!(seen.len(), 5);
    seen.extend(inbox.take_all());
    assert!(inbox.is_empty());
    inbox.take_some(2, |_| panic!("there is nothing"));
    let mut expected = words;
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}
