//! The remote protocol under every interleaving that loom explores.
//!
//! The model slab has the real groups and inboxes; its free words are the owner's alone, and a
//! slab is released by touching the groups in a way that loom checks against every earlier
//! access: a publisher or pusher that is not done yet fails the model.

extern crate std;

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use loom::sync::Arc;
use loom::thread;

use super::inbox::Inbox;
use super::remote_word::RemoteWord;

/// A slab of `N` groups, of which the model's objects are bits.
struct ModelSlab {
    groups: Vec<NonNull<RemoteWord>>,
    free: Vec<usize>,
    used: usize,
}

/// Lets the model's threads share groups.
#[derive(Clone, Copy)]
struct Shared(NonNull<RemoteWord>);
// SAFETY: groups are made of atomics.
unsafe impl Send for Shared {}

impl Shared {
    /// Frees `mask` as another CPU does; returns the doubles.
    fn free(self, mask: usize, inbox: &Inbox) -> usize {
        // SAFETY: the objects are in use, so the group is alive.
        let old = unsafe { self.0.as_ref() }.publish(mask);
        if old == 0 {
            // SAFETY: the publish found the word zero.
            unsafe { inbox.push(self.0) };
        }
        old & mask
    }
}

impl ModelSlab {
    /// All objects of `used_masks` are handed out, group by group.
    fn new(used_masks: &[usize]) -> Self {
        let group = |tag| NonNull::from(Box::leak(Box::new(RemoteWord::new(tag))));
        Self {
            groups: (0..used_masks.len()).map(group).collect(),
            free: used_masks.iter().map(|mask| !mask).collect(),
            used: used_masks.iter().map(|mask| mask.count_ones() as usize).sum(),
        }
    }

    fn group(&self, index: usize) -> Shared {
        Shared(self.groups[index])
    }

    /// What `remote::collect` does; returns the doubles.
    fn collect(&mut self, group: NonNull<RemoteWord>) -> usize {
        // SAFETY: popped off the inbox, so not released.
        let (bits, index) = unsafe { (group.as_ref().take(), group.as_ref().tag()) };
        assert_ne!(bits, 0, "a queued group has a bit pending");
        assert_eq!(self.groups[index], group, "the tag survives pushes");
        let returned = bits & !self.free[index];
        self.free[index] |= returned;
        self.used -= returned.count_ones() as usize;
        bits & !returned
    }

    fn quiescent(&self) -> bool {
        // SAFETY: not released.
        self.used == 0 && self.groups.iter().all(|group| unsafe { group.as_ref() }.pending() == 0)
    }

    /// Releases the slab's memory.
    fn release(self) {
        for group in self.groups {
            // SAFETY: leaked from a box by `new`; loom finds whoever else still uses it.
            let mut group = unsafe { Box::from_raw(group.as_ptr()) };
            group.release_memory();
        }
    }
}

/// Collects until the slab can be released, then releases it at once.
fn drain_and_release(mut slab: ModelSlab, inbox: &Inbox) -> usize {
    let mut doubles = 0;
    while !slab.quiescent() {
        for group in inbox.take_all() {
            doubles += slab.collect(group).count_ones() as usize;
        }
        thread::yield_now();
    }
    slab.release();
    doubles
}

#[test]
fn loom_two_cpus_free_into_one_group_and_the_owner_releases() {
    loom::model(|| {
        let slab = ModelSlab::new(&[0b11]);
        let inbox = Arc::new(Inbox::new());
        let workers = [0b01, 0b10].map(|mask| {
            let (group, inbox) = (slab.group(0), inbox.clone());
            thread::spawn(move || group.free(mask, &inbox))
        });
        assert_eq!(drain_and_release(slab, &inbox), 0);
        for worker in workers {
            assert_eq!(worker.join().unwrap(), 0);
        }
        assert!(inbox.is_empty());
    });
}

#[test]
fn loom_two_groups_on_one_inbox_lose_nothing() {
    loom::model(|| {
        let slab = ModelSlab::new(&[0b1, 0b1]);
        let inbox = Arc::new(Inbox::new());
        let workers = [0, 1].map(|index| {
            let (group, inbox) = (slab.group(index), inbox.clone());
            thread::spawn(move || group.free(0b1, &inbox))
        });
        assert_eq!(drain_and_release(slab, &inbox), 0);
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(inbox.is_empty());
    });
}

#[test]
fn loom_a_group_is_pushed_again_while_its_chain_is_walked() {
    loom::model(|| {
        let slab = ModelSlab::new(&[0b11, 0b1]);
        let inbox = Arc::new(Inbox::new());
        slab.group(1).free(0b1, &inbox);
        let worker = {
            let (group, inbox) = (slab.group(0), inbox.clone());
            thread::spawn(move || {
                group.free(0b01, &inbox);
                group.free(0b10, &inbox);
            })
        };
        assert_eq!(drain_and_release(slab, &inbox), 0);
        worker.join().unwrap();
        assert!(inbox.is_empty());
    });
}

#[test]
fn loom_a_double_free_is_reported_once_and_frees_once() {
    loom::model(|| {
        let slab = ModelSlab::new(&[0b101]);
        let inbox = Arc::new(Inbox::new());
        let workers = [0, 1].map(|_| {
            let (group, inbox) = (slab.group(0), inbox.clone());
            thread::spawn(move || group.free(0b001, &inbox))
        });
        let mut slab = slab;
        let mut doubles = 0;
        while slab.used != 1 {
            for group in inbox.take_all() {
                doubles += slab.collect(group);
            }
            thread::yield_now();
        }
        for worker in workers {
            doubles += worker.join().unwrap();
        }
        // The third object keeps the slab alive until here.
        assert_eq!(slab.group(0).free(0b100, &inbox), 0);
        for group in inbox.take_all() {
            doubles += slab.collect(group);
        }
        assert_eq!(doubles, 1);
        assert!(slab.quiescent() && inbox.is_empty());
        slab.release();
    });
}

#[test]
fn loom_a_group_found_with_a_former_owner_is_passed_on() {
    loom::model(|| {
        let slab = ModelSlab::new(&[0b11]);
        let inboxes = Arc::new([Inbox::new(), Inbox::new()]);
        let worker = {
            // It read the owner before the slab was handed over.
            let (group, inboxes) = (slab.group(0), inboxes.clone());
            thread::spawn(move || {
                group.free(0b01, &inboxes[0]);
                group.free(0b10, &inboxes[0]);
            })
        };
        let former = {
            let inboxes = inboxes.clone();
            thread::spawn(move || {
                for group in inboxes[0].take_all() {
                    // SAFETY: taken off an inbox, and not collected.
                    unsafe { inboxes[1].push(group) };
                }
            })
        };
        let mut slab = slab;
        while slab.used == 2 {
            // Whoever is first: the new owner by way of the former, or both inboxes as below.
            for group in inboxes[1].take_all().chain(inboxes[0].take_all()) {
                slab.collect(group);
            }
            thread::yield_now();
        }
        worker.join().unwrap();
        former.join().unwrap();
        for inbox in &*inboxes {
            for group in inbox.take_all() {
                slab.collect(group);
            }
        }
        assert!(slab.quiescent(), "nothing is lost");
        slab.release();
    });
}

#[test]
fn loom_what_a_cpu_wrote_before_its_free_is_ordered_before_the_next_use() {
    loom::model(|| {
        let mut slab = ModelSlab::new(&[0b11]);
        let inbox = Arc::new(Inbox::new());
        let objects = Arc::new([0, 1].map(loom::cell::UnsafeCell::new));
        let workers = [0, 1].map(|index| {
            let (group, inbox, objects) = (slab.group(0), inbox.clone(), objects.clone());
            thread::spawn(move || {
                // SAFETY: the object is this thread's until it is published.
                objects[index].with_mut(|object| unsafe { *object = 7 });
                group.free(1 << index, &inbox);
            })
        });
        while slab.used != 0 {
            for group in inbox.take_all() {
                let free_before = slab.free[0];
                slab.collect(group);
                for (index, object) in objects.iter().enumerate() {
                    if (slab.free[0] & !free_before) >> index & 1 == 1 {
                        // SAFETY: collected, hence the owner's; loom checks that.
                        object.with_mut(|object| unsafe { assert_eq!(*object, 7) });
                    }
                }
            }
            thread::yield_now();
        }
        for worker in workers {
            worker.join().unwrap();
        }
        slab.release();
    });
}

#[test]
fn loom_a_rest_put_aside_and_what_another_cpu_takes_meanwhile_lose_nothing() {
    loom::model(|| {
        let mut slab = ModelSlab::new(&[0b1, 0b1]);
        let inbox = Arc::new(Inbox::new());
        slab.group(0).free(0b1, &inbox);
        slab.group(1).free(0b1, &inbox);
        // Short of memory: looks through what waits, and puts it back.
        let worker = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                for group in inbox.take_all() {
                    // SAFETY: taken off an inbox, and not collected.
                    unsafe { inbox.push(group) };
                }
            })
        };
        while slab.used != 0 {
            inbox.take_some(1, |group| assert_eq!(slab.collect(group), 0));
            thread::yield_now();
        }
        worker.join().unwrap();
        assert!(inbox.is_empty());
        slab.release();
    });
}
