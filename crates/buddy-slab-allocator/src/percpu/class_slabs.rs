//! The slabs of one class that a heap can allocate from.
//!
//! They form a chain through their links that begins with the *current* slab, which objects come
//! from; the others are *partial*: some of their objects are free. Slabs of which nothing is free
//! are *loose*: sealed, and on no chain, until an object of theirs comes back. The state of a
//! slab's descriptor names its place, so nothing is inferred from counters that other CPUs change.
//!
//! # Invariants
//! - C1: `source` is a group of the current slab; or the empty group, and then the chain is empty.
//! - C2: `recent` is a group of a slab in the chain, or the empty group.
//! - C3: only the current slab has objects set aside; of the partial ones the first may be empty
//!   (the first few, where one that is empty could not be released): none behind one that is not.

use core::ptr::NonNull;

use crate::slab::{Group, Slab};

/// On no chain, because nothing of it is free.
pub(super) const LOOSE: u8 = 0;
/// The slab that objects of its class come from.
pub(super) const CURRENT: u8 = 1;
/// In the chain of its class, behind the current slab.
pub(super) const PARTIAL: u8 = 2;

/// What a heap has of one class: two words.
pub(super) struct ClassSlabs {
    /// The group that objects come from.
    pub(super) source: NonNull<Group>,
    /// The group into which an object was freed last.
    pub(super) recent: NonNull<Group>,
}

/// The caller of all functions owns all slabs in the chain.
impl ClassSlabs {
    pub(super) const fn new() -> Self {
        Self { source: Group::empty(), recent: Group::empty() }
    }

    /// The slab that objects come from.
    #[inline]
    pub(super) fn current(&self) -> Option<NonNull<Slab>> {
        if self.source == Group::empty() {
            return None;
        }
        // SAFETY: C1.
        Some(unsafe { Slab::of_group(self.source) })
    }

    /// The first partial slab.
    pub(super) fn first_partial(&self) -> Option<NonNull<Slab>> {
        // SAFETY: alive, and the caller's.
        self.current().and_then(|current| unsafe { Slab::next(current) })
    }

    /// All slabs of the chain.
    pub(super) fn all(&self) -> impl Iterator<Item = NonNull<Slab>> {
        // SAFETY: alive, and the caller's.
        core::iter::successors(self.current(), |slab| unsafe { Slab::next(*slab) })
    }

    /// Puts a slab into the chain: as the current one if there is none, else behind it; an empty
    /// slab goes before the other partial ones, which go behind all that are empty. (So the one
    /// that is kept empty is found at once, and is the last to be used.) O(empty slabs), of which
    /// there is one at most, unless they could not be released.
    ///
    /// # Safety
    /// - `slab` is the caller's, of this class, not sealed, in no chain, and has nothing set
    ///   aside.
    pub(super) unsafe fn insert(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the chain's slabs and this one are the caller's.
        unsafe {
            let Some(current) = self.current() else {
                Slab::set_state(slab, CURRENT);
                self.source = Slab::cursor_group(slab);
                return;
            };
            let mut before = current;
            if !Slab::is_idle(slab) {
                while let Some(next) = Slab::next(before)
                    && Slab::is_idle(next)
                {
                    before = next;
                }
            }
            Slab::set_state(slab, PARTIAL);
            Slab::link_behind(slab, before);
        }
    }

    /// Takes a slab out of the chain, wherever it is; nothing of it stays set aside. If it was
    /// the current one, another is that now.
    ///
    /// # Safety
    /// - `slab` is in this chain.
    pub(super) unsafe fn remove(&mut self, slab: NonNull<Slab>) {
        // SAFETY: passed on; it is the caller's.
        unsafe {
            self.take_out(slab);
            Slab::set_state(slab, LOOSE);
        }
    }

    /// Takes the current slab, of which nothing is free, out of the chain and seals it.
    ///
    /// # Safety
    /// - `full` is the current slab, and all its objects are in use.
    pub(super) unsafe fn shelve(&mut self, full: NonNull<Slab>) {
        // SAFETY: passed on. Sealed before its state says loose: whoever reads the state
        // (`steal`) sees all of it.
        unsafe {
            self.take_out(full);
            Slab::set_sealed(full, true);
            Slab::set_state(full, LOOSE);
        }
    }

    /// # Safety
    /// - `slab` is in this chain.
    unsafe fn take_out(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the chain's slabs are the caller's.
        unsafe {
            if Slab::has_group(slab, self.recent) {
                self.recent = Group::empty();
            }
            if self.current() != Some(slab) {
                return Slab::unlink(slab);
            }
            Slab::put_back(slab);
            self.source = Group::empty();
            if let Some(next) = Self::take_successor(slab) {
                Slab::set_state(next, CURRENT);
                self.source = Slab::cursor_group(next);
            }
        }
    }

    /// Unlinks the current slab, and brings the one that is to follow it to the front: if
    /// possible one that is not empty.
    ///
    /// # Safety
    /// - `current` is the current slab of a chain of the caller's.
    unsafe fn take_successor(current: NonNull<Slab>) -> Option<NonNull<Slab>> {
        // SAFETY: the chain's slabs are the caller's.
        unsafe {
            let first = Slab::next(current)?;
            Slab::unlink(current);
            if !Slab::is_idle(first) {
                return Some(first);
            }
            let Some(second) = Slab::next(first) else { return Some(first) };
            Slab::unlink(first);
            Slab::link_behind(first, second);
            Some(second)
        }
    }
}
