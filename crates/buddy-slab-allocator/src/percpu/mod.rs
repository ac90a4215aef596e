//! What a CPU keeps for itself: slabs by size class, pages at hand, remote frees not yet sent.
//!
//! A [`Heap`] is reached through its gate or its lock (see `platform`); whoever holds it works on
//! its [`Local`] part with plain loads and stores. Everything a `Local` needs from outside comes
//! in an [`Env`]. Neighbours: `slab` below (one slab at a time), `buddy` below (pages), `global`
//! above (which heap, and what to do when it has nothing).

mod block_cache;
mod faults;
mod found;
mod free_groups;
mod free_run;
mod gate;
mod heap;
mod idle;
mod list_index;
mod local;
mod magazine_drain;
mod magazines;
mod page_list;
mod remote;
mod slabs;
mod spans;
mod steal;

pub(crate) use block_cache::{BlockCache, BlockSize, max_cached_pages};
pub(crate) use faults::FaultLog;
pub(crate) use found::Found;
pub(crate) use gate::Gate;
pub(crate) use heap::{Heap, HeapTable};
pub(crate) use list_index::{ListIndex, max_kept_pages};
pub(crate) use local::Local;
pub(crate) use magazines::{MAX_MAGAZINE_BYTES, Pushed};
pub(crate) use page_list::{PageCounts, PageLists};
pub(crate) use remote::{MAX_WAITING_BYTES, RemoteObject, publish_to};
pub(crate) use steal::steal;

use crate::buddy::{Kind, PageCore, PageRequest, Wait};
use crate::sync::RawLock;
use crate::units::NodeId;

/// What surrounds a heap while it is held.
pub(crate) struct Env<'a, const PAGE_SIZE: usize, L: RawLock> {
    pub(crate) core: &'a PageCore<PAGE_SIZE, L>,
    pub(crate) heaps: &'a HeapTable<PAGE_SIZE, L>,
    /// The heap's number, by which its slabs name it.
    pub(crate) id: u16,
    pub(crate) node: NodeId,
    /// How long the shared lists' lock may be waited for.
    pub(crate) wait: Wait,
    /// Whether the zones' reserve may be used.
    pub(crate) use_reserve: bool,
    /// Whether the platform wants magazines.
    pub(crate) magazines: bool,
    pub(crate) page_counts: &'a PageCounts,
}

impl<const PAGE_SIZE: usize, L: RawLock> Env<'_, PAGE_SIZE, L> {
    /// An ordinary request for `count` pages.
    pub(crate) fn request(&self, count: usize, kind: Kind) -> PageRequest<'static> {
        let mut request = PageRequest::new(count, kind);
        request.node = self.node;
        request.wait = self.wait;
        request.use_reserve = self.use_reserve;
        request
    }

    /// Whether the caller is a handler that must not wait for anything.
    pub(crate) fn may_wait(&self) -> bool {
        !matches!(self.wait, Wait::Try)
    }
}
