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

use core::ptr::{self, NonNull};
use core::slice;

use crate::slab::SizeClass;

/// The most objects of a class that are kept, and the most bytes of them.
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

/// A place for an object: its address, or 0. (What was freed comes with a pointer that its last user
/// had, perhaps for fewer bytes than the next one asks for. So the pointer is made anew, from the region,
/// whose provenance is exposed when it becomes a section.)
type Place = usize;

/// The objects of one class, the last freed on top.
#[derive(Clone, Copy)]
struct Stack {
    top: *mut Place,
    end: *mut Place,
}

/// What a block of magazines begins with; the places of all stacks follow.
#[repr(transparent)]
struct Block([Stack; SizeClass::COUNT]);

/// The block of whoever has none. Nobody writes it: a stack that is full takes nothing, and of an empty
/// one nothing is taken.
static NOTHING: Block = {
    const PLACE: &Place = &0;
    let place = ptr::from_ref(PLACE).cast_mut();
    Block([Stack { top: place, end: place }; SizeClass::COUNT])
};

// SAFETY: what is shared between threads is `NOTHING` alone, which nobody writes.
unsafe impl Sync for Block {}

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
/// - The block is [`NOTHING`], or was made by [`format`](Self::format) and is this heap's alone.
pub(crate) struct Magazines(NonNull<Block>);

impl Magazines {
    /// Bytes of a block.
    pub(super) const BYTES: usize = size_of::<Block>() + SUMS.0 * size_of::<Place>();

    /// No magazines: they keep nothing.
    pub(super) const fn none() -> Self {
        Self(NonNull::from_ref(&NOTHING))
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
                bottom.write(0);
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
            let object = NonNull::new(ptr::with_exposed_provenance_mut(*top))?;
            (*stack).top = top.sub(1);
            Some(object)
        }
    }

    /// Keeps an object that was freed as one of the class. O(1).
    ///
    /// # Safety
    /// - The object came from this allocator as one of the class, nobody uses it any more, and it was
    ///   not freed since; or its user broke the contract of `dealloc` (M1).
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, class: SizeClass, object: NonNull<u8>) -> Pushed {
        let (stack, object) = (self.stack(class), object.addr().get());
        // SAFETY: the block is ours, or full and only read; there is a place up to the end (M2).
        unsafe {
            let top = (*stack).top;
            if *top == object {
                return Pushed::Twice;
            }
            if top == (*stack).end {
                return Pushed::Full;
            }
            // INVARIANT: the condition.
            let top = top.add(1);
            *top = object;
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

    /// Magazines in memory of their own.
    fn with_magazines(story: impl FnOnce(&mut Magazines)) {
        let mut words = std::vec![0usize; Magazines::BYTES.div_ceil(size_of::<usize>())];
        // SAFETY: as long as that, aligned to words, and used for nothing else.
        story(&mut unsafe { Magazines::format(NonNull::from(&mut words[..]).cast()) });
    }

    /// Nobody looks at the objects.
    fn object(index: usize) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(8 * (index + 1))).unwrap()
    }

    fn push(magazines: &mut Magazines, class: SizeClass, index: usize) -> Pushed {
        // SAFETY: nobody uses what has such an address.
        unsafe { magazines.push(class, object(index)) }
    }

    #[test]
    fn what_was_freed_last_comes_first_and_no_more_than_fits_is_kept() {
        with_magazines(|magazines| {
            for class in SizeClass::ALL {
                for index in 0..capacity(class) {
                    assert_eq!(push(magazines, class, index), Pushed::Kept);
                }
                assert_eq!(push(magazines, class, capacity(class)), Pushed::Full);
            }
            for class in SizeClass::ALL {
                assert_eq!(magazines.of_class(class).len(), capacity(class));
                for index in (0..capacity(class)).rev() {
                    assert_eq!(magazines.pop(class), Some(object(index)));
                }
                assert_eq!(magazines.pop(class), None);
                assert!(magazines.of_class(class).is_empty());
            }
        });
    }

    #[test]
    fn no_magazines_keep_nothing() {
        let mut none = Magazines::none();
        for class in SizeClass::ALL {
            assert_eq!(push(&mut none, class, 1), Pushed::Full);
            assert_eq!(none.pop(class), None);
            assert!(none.of_class(class).is_empty());
        }
        assert!(none.is_none());
    }

    #[test]
    fn what_was_freed_last_is_not_kept_twice_even_if_there_is_no_room() {
        let class = SizeClass::ALL[SizeClass::COUNT - 1];
        with_magazines(|magazines| {
            let pushed: Vec<_> = [0, 0, 1, 1, 2].map(|index| push(magazines, class, index)).into();
            use Pushed::{Full, Kept, Twice};
            assert_eq!(pushed, [Kept, Twice, Kept, Twice, Full]);
            assert_eq!(magazines.of_class(class).len(), 2);
        });
    }
}
