//! Magazines in and out of a heap: they come where memory is plenty, and what lies in them goes back
//! to the groups on tick and under pressure.

use super::magazines::Magazines;
use super::{Env, Found, HeapTable, Local};
use crate::buddy::Kind;
use crate::slab::SizeClass;
use crate::sync::RawLock;
use crate::units::Misuse;

/// A heap has magazines while this many times their pages are free.
const PLENTY: usize = 64;

/// How many objects of a class a tick gives back at most.
const TRIMMED: usize = 16;

impl<const PAGE_SIZE: usize> Local<PAGE_SIZE> {
    const MAGAZINE_PAGES: usize = Magazines::BYTES.div_ceil(PAGE_SIZE);

    /// Gives the heap magazines if the platform wants them, it has none, and there is memory for
    /// them. Not a shared heap: handlers are served there, one at a time.
    pub(super) fn supply_magazines<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let wanted = env.magazines && self.magazines.is_none() && env.may_wait();
        if !wanted || HeapTable::<PAGE_SIZE, L>::is_shared_id(env.id) {
            return;
        }
        let plenty = Self::MAGAZINE_PAGES * PLENTY;
        if env.core.free_pages_up_to(plenty) == plenty
            && let Ok(page) = env.core.alloc(&env.request(Self::MAGAZINE_PAGES, Kind::Internal))
        {
            // SAFETY: fresh pages, as many as it takes, aligned to more than a word; this heap's until
            // `drain_magazines` gives them back.
            self.magazines = unsafe { Magazines::format(page.ptr()) };
        }
    }

    /// Gives back what lies in the magazines; they stay. O(objects).
    pub(crate) fn empty_magazines<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        if self.magazines.is_none() {
            return;
        }
        for class in SizeClass::ALL {
            self.give_objects_back(class, usize::MAX, env);
        }
    }

    /// Gives back what lies in the magazines, and, where the node's lock may be waited for, their
    /// pages. O(objects).
    pub(super) fn drain_magazines<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.empty_magazines(env);
        if self.magazines.is_none() || !env.may_wait() {
            return;
        }
        let block = core::mem::replace(&mut self.magazines, Magazines::none()).block();
        let page = env.core.lookup(block.addr().get());
        debug_assert!(page.is_some(), "magazines lie in a section");
        if let Some(page) = page {
            Self::give_pages_back(page, Self::MAGAZINE_PAGES, env);
        }
    }

    /// Gives back half of what lies in each magazine, up to [`TRIMMED`] objects, the last freed first.
    /// O(classes).
    pub(crate) fn trim_magazines<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        if self.magazines.is_none() {
            return;
        }
        for class in SizeClass::ALL {
            let half = self.magazines.of_class(class).len().div_ceil(2);
            self.give_objects_back(class, half.min(TRIMMED), env);
        }
    }

    /// Frees up to `most` objects that lie in the magazine of a class.
    fn give_objects_back<L: RawLock>(
        &mut self,
        class: SizeClass,
        most: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        for _ in 0..most {
            let Some(object) = self.magazines.pop(class) else { break };
            let addr = object.addr().get();
            if let Err(kind) = self.free_for_good(class, addr, env) {
                self.faults.note(addr, kind);
            }
        }
    }

    /// Frees an object that lay in a magazine: now its page and its bit are looked at.
    fn free_for_good<L: RawLock>(
        &mut self,
        class: SizeClass,
        addr: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), Misuse> {
        if self.free_in_run(Some(class), addr) {
            return Ok(());
        }
        let Some(mark) = env.core.slab_at(addr) else {
            // What has grown has pages of its own: as many as its class takes, since no class ends
            // within a page but those below one.
            let count = class.size().div_ceil(PAGE_SIZE);
            let page = env.core.claim(addr, count, Kind::Object)?;
            Self::give_pages_back(page, count, env);
            return Ok(());
        };
        let found = Found::by_mark::<PAGE_SIZE>(addr, mark, Some(class))?;
        // SAFETY: by its page's metadata it is an object of this class, and of this heap's slab or of
        // another's.
        unsafe {
            if found.label.owner() != env.id {
                return self.remote.add(found.remote(addr), env, &mut self.faults);
            }
            let (group, index) = (found.group(), found.index);
            let freed = self.free(class, group, index);
            self.finish_free(group, index, freed, env)
        }
    }

    /// The pages of the magazines themselves, and of what lies in them that has pages of its own.
    /// O(objects in magazines).
    pub(crate) fn magazine_pages(&self, in_slab: impl Fn(usize) -> bool) -> usize {
        if self.magazines.is_none() {
            return 0;
        }
        let grown = SizeClass::ALL.iter().map(|class| {
            let kept = self.magazines.of_class(*class).iter();
            kept.filter(|addr| !in_slab(**addr)).count() * class.size().div_ceil(PAGE_SIZE)
        });
        Self::MAGAZINE_PAGES + grown.sum::<usize>()
    }

    /// The equations of magazines, see `docs/invariants.md`. Not after a wrong free that nobody has found
    /// yet.
    pub(super) fn check_magazines<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>) {
        for class in SizeClass::ALL {
            for &addr in self.magazines.of_class(class) {
                assert_ne!(addr, 0, "M2: above the lowest place there are objects");
                let is_object = match env.core.slab_at(addr) {
                    Some(mark) => Found::by_mark::<PAGE_SIZE>(addr, mark, Some(class)).is_ok(),
                    None => env.core.lookup(addr).is_some_and(|page| {
                        let pages = class.size().div_ceil(PAGE_SIZE);
                        page.addr() == addr
                            && page.head().kind() == Kind::Object
                            && page.count() == pages
                    }),
                };
                assert!(is_object, "M1: it is an object of the class, or pages of its own");
            }
        }
    }
}
