//! An object, found by the metadata of its page: never by what lies near it.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::RemoteObject;
use crate::buddy::PageMark;
use crate::slab::{ClassTable, Group, ObjectIndex, SizeClass, Slab, SlabLabel};
use crate::units::Misuse;

/// An object, as the metadata of its page describes it.
pub(crate) struct Found {
    pub(crate) label: SlabLabel,
    /// The first group of its slab.
    pub(crate) groups: NonNull<Group>,
    pub(crate) index: ObjectIndex,
}

impl Found {
    /// The object at `addr`, whose page has this mark. Touches nothing of its slab, but with the
    /// largest pages.
    #[inline(always)]
    pub(crate) fn by_mark<const PAGE_SIZE: usize>(
        addr: usize,
        mark: PageMark,
        expected: Option<SizeClass>,
    ) -> Result<Self, Misuse> {
        // SAFETY: slabs are marked with labels.
        let label = unsafe { SlabLabel::from_raw(mark.label) };
        if expected.is_some_and(|class| class != label.class()) {
            cold_path();
            return Err(Misuse::WrongSize);
        }
        let Some(index) = label.object_at(addr, PAGE_SIZE) else {
            cold_path();
            return Err(Misuse::Interior);
        };
        let groups = mark.descriptor.cast::<Group>();
        if ClassTable::<PAGE_SIZE>::IS_CAPPED
            // SAFETY: the slab is alive: an object of it is being freed.
            && index.get() >= unsafe { Slab::object_count(Slab::of_group(groups)) }
        {
            return Err(Misuse::Interior);
        }
        Ok(Self { label, groups, index })
    }

    /// The group it belongs to.
    #[inline(always)]
    pub(crate) fn group(&self) -> NonNull<Group> {
        // SAFETY: there is a group for every address in a slab's pages.
        unsafe { self.groups.add(self.index.group()) }
    }

    /// The same for the remote batch; `addr` is its address.
    #[inline(always)]
    pub(crate) fn remote(&self, addr: usize) -> RemoteObject {
        let size_bytes = self.label.class().size();
        RemoteObject { groups: self.groups, index: self.index, addr, size_bytes }
    }
}
