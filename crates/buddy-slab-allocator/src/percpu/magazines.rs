//! Magazines: stacks of objects that were freed on this CPU, for its next requests.
//!
//! A platform may ask for them (`Platform::MAGAZINES`). An object that is freed goes on the stack of its
//! class, whatever slab it is from, and the next request for that class takes it from there. Neither
//! looks at the slab, to which the object is in use all the while: so neither costs more than a table
//! of classes and a stack. Whose object it is, whether it is one at all, and whether it is free already,
//! comes out when it leaves the magazine for its slab (`magazine_drain`); at once only that it was freed
//! just before.
//!
//! A full magazine takes nothing: what else is freed goes to the groups, or to the remote batch, as
//! without. (Magazines: Bonwick and Adams, 2001. Theirs are exchanged with a depot; here the groups are
//! the depot.)
//!
//! # Invariants
//! - M1: what lies on a stack was freed as an object of the stack's class, and is in use to its slab,
//!   which so is alive; but for what was freed wrongly.
//! - M2: the lowest place of a stack holds nothing; `top` is that place or one above, up to `end`.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::slice;

use crate::slab::SizeClass;

/// The most objects of a class that are kept, and the most bytes of them (but for the largest
/// classes, of which there are two).
const MOST_OBJECTS: usize = 1024;
const MOST_BYTES: usize = 64 << 10;

/// How many objects of a class are kept.
const fn capacity(class: SizeClass) -> usize {
    let fit = MOST_BYTES / class.size();
    if fit < MOST_OBJECTS { fit } else { MOST_OBJECTS }
}

/// Of all magazines together: how many places they have, and how many bytes objects in all of them.
const SUMS: (usize, usize) = {
    let (mut places, mut object_bytes, mut index) = (0, 0, 0);
    while index < SizeClass::COUNT {
        let class = SizeClass::ALL[index];
        assert!(capacity(class) >= 2, "a magazine holds two objects of every class");
        places += capacity(class) + 1;
        object_bytes += capacity(class) * class.size();
        index += 1;
    }
    (places, object_bytes)
};

/// The most bytes of objects that the magazines of one CPU keep.
pub(crate) const MAX_MAGAZINE_BYTES: usize = SUMS.1;

/// A place for an object.
type Place = Option<NonNull<u8>>;

/// The objects of one class, the last freed on top.
#[derive(Clone, Copy)]
struct Stack {
    top: *mut Place,
    end: *mut Place,
}

/// What a block of magazines begins with; the places of all stacks follow.
#[repr(transparent)]
struct Block([Stack; SizeClass::COUNT]);

/// The block of whoever has none: all its stacks are empty, and full. Nobody writes it.
struct Nothing(UnsafeCell<Place>, Block);
// SAFETY: nobody writes it: a stack that is full takes nothing, and of an empty one nothing is taken.
unsafe impl Sync for Nothing {}
static NOTHING: Nothing = {
    const fn stack() -> Stack {
        Stack { top: NOTHING.0.get(), end: NOTHING.0.get() }
    }
    Nothing(UnsafeCell::new(None), Block([const { stack() }; SizeClass::COUNT]))
};

/// What became of an object that was to go on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It lies there.
    Kept,
    /// There is no room for it.
    Full,
    /// It was the last one to be put there: it was freed twice.
    Twice,
}

/// The magazines of one heap, if it has any.
///
/// # Invariants
/// - The block is [`NOTHING`]'s, or was made by [`format`](Self::format) and is this heap's alone.
pub(crate) struct Magazines(NonNull<Block>);

impl Magazines {
    /// Bytes of a block.
    pub(super) const BYTES: usize = size_of::<Block>() + SUMS.0 * size_of::<Place>();

    /// No magazines: they keep nothing.
    pub(super) const fn none() -> Self {
        Self(NonNull::from_ref(&NOTHING.1))
    }

    /// Whether there are none.
    pub(super) fn is_none(&self) -> bool {
        self.0 == Self::none().0
    }

    /// Empty magazines in a block at `at`.
    ///
    /// # Safety
    /// - `at` is aligned to a word and valid for [`BYTES`](Self::BYTES), ours alone for as long as
    ///   these are used.
    pub(super) unsafe fn format(at: NonNull<u8>) -> Self {
        let block = at.cast::<Block>();
        // SAFETY: there is room for the block and for all places behind it (condition).
        unsafe {
            let mut bottom = block.add(1).cast::<Place>();
            let stacks = SizeClass::ALL.map(|class| {
                bottom.write(None);
                let (top, end) = (bottom, bottom.add(capacity(class)));
                bottom = end.add(1);
                Stack { top: top.as_ptr(), end: end.as_ptr() }
            });
            block.write(Block(stacks));
        }
        Self(block)
    }

    /// Where the block is.
    pub(super) fn block(&self) -> NonNull<u8> {
        self.0.cast()
    }

    #[inline(always)]
    fn stack(&self, class: SizeClass) -> *mut Stack {
        // SAFETY: within the block: there is a stack for every class.
        unsafe { self.0.as_ptr().cast::<Stack>().add(class.index()) }
    }

    /// Takes the object of a class that was freed last. O(1).
    #[inline(always)]
    pub(super) fn pop(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        let stack = self.stack(class);
        // SAFETY: the block is ours, or no object lies there and nothing is written; below an object
        // there is another place (M2).
        unsafe {
            let top = (*stack).top;
            let object = (*top)?;
            (*stack).top = top.sub(1);
            Some(object)
        }
    }

    /// Keeps an object that was freed as one of the class. O(1).
    #[inline(always)]
    pub(crate) fn push(&mut self, class: SizeClass, object: NonNull<u8>) -> Pushed {
        let stack = self.stack(class);
        // SAFETY: the block is ours, or full and only read; there is a place up to the end (M2).
        unsafe {
            let top = (*stack).top;
            if top == (*stack).end {
                return Pushed::Full;
            }
            if *top == Some(object) {
                return Pushed::Twice;
            }
            // INVARIANT: the caller's.
            let top = top.add(1);
            *top = Some(object);
            (*stack).top = top;
        }
        Pushed::Kept
    }

    /// What lies on the stack of a class.
    pub(super) fn of_class(&self, class: SizeClass) -> &[Place] {
        if self.is_none() {
            return &[];
        }
        // SAFETY: the block is ours; as many places below the top hold objects as it is away from
        // where an empty stack has it (M2).
        unsafe {
            let Stack { top, end } = *self.stack(class);
            let count = capacity(class) - end.offset_from_unsigned(top);
            slice::from_raw_parts(top.sub(count).add(1), count)
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    const PAGE: usize = 4096;

    /// Magazines in memory of their own, and memory for objects.
    fn with_magazines(story: impl FnOnce(&mut Magazines, &dyn Fn(usize) -> NonNull<u8>)) {
        let mut words = std::vec![0usize; Magazines::BYTES.div_ceil(size_of::<usize>())];
        let mut pages = std::vec![0u64; 64 * PAGE / size_of::<u64>()];
        // SAFETY: as long as that, aligned to words, and used for nothing else.
        let mut magazines = unsafe { Magazines::format(NonNull::from(&mut words[..]).cast()) };
        let first = NonNull::from(&mut pages[..]).cast::<u8>();
        let skew = first.addr().get().next_multiple_of(PAGE) - first.addr().get();
        // SAFETY: tests ask for offsets within the pages, less one of them.
        story(&mut magazines, &|offset| unsafe { first.byte_add(skew + offset) });
    }

    #[test]
    fn what_was_freed_last_comes_first_and_no_more_than_fits_is_kept() {
        with_magazines(|magazines, object| {
            for class in SizeClass::ALL {
                let kept: Vec<_> = (0..capacity(class)).map(|index| object(8 * index)).collect();
                for object in &kept {
                    assert_eq!(magazines.push(class, *object), Pushed::Kept);
                }
                assert_eq!(magazines.push(class, object(PAGE * 60)), Pushed::Full);
            }
            for class in SizeClass::ALL {
                assert_eq!(magazines.of_class(class).len(), capacity(class));
                for index in (0..capacity(class)).rev() {
                    assert_eq!(magazines.pop(class), Some(object(8 * index)));
                }
                assert_eq!(magazines.pop(class), None);
                assert!(magazines.of_class(class).is_empty());
            }
        });
    }

    #[test]
    fn no_magazines_keep_nothing() {
        let mut none = Magazines::none();
        let object = NonNull::from(&0u8);
        for class in SizeClass::ALL {
            assert_eq!(none.push(class, object), Pushed::Full);
            assert_eq!(none.pop(class), None);
            assert!(none.of_class(class).is_empty());
        }
        assert!(none.is_none());
    }

    #[test]
    fn what_was_freed_last_is_not_kept_twice() {
        let class = SizeClass::Bytes64;
        with_magazines(|magazines, object| {
            for offset in [0, 64, 128] {
                assert_eq!(magazines.push(class, object(offset)), Pushed::Kept);
            }
            assert_eq!(magazines.push(class, object(128)), Pushed::Twice);
            assert_eq!(magazines.of_class(class).len(), 3);
        });
    }
}
