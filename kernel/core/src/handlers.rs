//! Interrupt handlers: all of them allocate and free, and what one CPU's handler allocated another's
//! may free.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::cpu::{self, CpuLocal};
use crate::pattern::{self, Random};
use crate::scheduler;

/// How many objects the handlers hold between them.
const HELD: usize = 64;
/// What an object of a handler starts with: its size.
const HEADER: usize = 16;

/// Objects that handlers hold: each exchanges one for another, whoever put it there.
struct Exchange([AtomicPtr<usize>; HELD]);

impl Exchange {
    const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; HELD])
    }

    /// Takes an object out and frees it, or puts one in. A refused request is counted.
    fn work<A: Arch>(&self, random: &mut Random, local: &CpuLocal) {
        let place = &self.0[random.below(HELD)];
        let held = place.swap(ptr::null_mut(), Ordering::AcqRel);
        local.handler_work.fetch_add(1, Ordering::Relaxed);
        if !held.is_null() {
            free_held::<A>(held);
            return;
        }
        let size = HEADER + random.size(10);
        let Some(layout) = layout_of(size) else { return };
        let Ok(object) = A::heap().alloc(layout) else {
            local.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let object = object.as_ptr();
        // SAFETY: just allocated, and large enough.
        unsafe {
            object.cast::<usize>().write(size);
            pattern::fill(object.expose_provenance() + HEADER, size - HEADER, size as u64);
        }
        let other = place.swap(object.cast(), Ordering::AcqRel);
        if !other.is_null() {
            free_held::<A>(other);
        }
    }

    fn empty<A: Arch>(&self) {
        for place in &self.0 {
            let held = place.swap(ptr::null_mut(), Ordering::AcqRel);
            if !held.is_null() {
                free_held::<A>(held);
            }
        }
    }
}

fn layout_of(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, 16).ok()
}

/// Verifies and frees an object that was taken out of an exchange.
fn free_held<A: Arch>(object: *mut usize) {
    // SAFETY: `work` wrote the size and the pattern, and whoever takes an object out owns it.
    unsafe {
        let size = *object;
        pattern::verify(object.addr() + HEADER, size - HEADER, size as u64);
        if let (Some(layout), Some(object)) = (layout_of(size), NonNull::new(object.cast::<u8>())) {
            A::heap().dealloc(object, layout);
        }
    }
}

static FOR_TICKS: Exchange = Exchange::new();
static FOR_NMIS: Exchange = Exchange::new();
/// How many exchanges a timer interrupt makes.
static WORK_PER_TICK: AtomicUsize = AtomicUsize::new(0);

/// Sets how many allocations or frees each timer interrupt does.
pub fn set_work_per_tick(count: usize) {
    WORK_PER_TICK.store(count, Ordering::Relaxed);
}

/// Frees what handlers still hold. Their work is off.
pub fn empty<A: Arch>() {
    FOR_TICKS.empty::<A>();
    FOR_NMIS.empty::<A>();
}

/// The timer's handler: allocates and frees, lets the heap tick, and takes the CPU from the thread.
/// Interrupts are masked; the interrupt was acknowledged. When it returns, the CPU may be another.
pub fn on_tick<A: Arch>() {
    let local = A::local();
    let ticks = local.ticks.fetch_add(1, Ordering::Relaxed);
    let count = WORK_PER_TICK.load(Ordering::Relaxed);
    if count != 0 {
        let mut random = Random::new(local.seed.load(Ordering::Relaxed));
        for _ in 0..count {
            FOR_TICKS.work::<A>(&mut random, local);
        }
        local.seed.store(random.next_number(), Ordering::Relaxed);
    }
    answer_messages(local);
    if ticks.is_multiple_of(16)
        && let Err(error) = A::heap().tick(local.index())
    {
        panic!("tick: {error}");
    }
    scheduler::preempt::<A>(local);
}

/// The handler of an NMI: it may have interrupted the allocator, whatever that masks.
pub fn on_nmi<A: Arch>() {
    let local = A::local();
    let before = local.nmi_work.fetch_add(4, Ordering::Relaxed);
    let mut random = Random::new((before as u64) << 8 | local.index() as u64);
    for _ in 0..4 {
        FOR_NMIS.work::<A>(&mut random, local);
    }
}

/// A message between CPUs: a `Box`, made on one and dropped on another.
pub struct Message {
    next: *mut Message,
    /// Who sent it.
    pub from: usize,
    /// What it says.
    pub words: Box<[u64]>,
}

impl Message {
    /// A message of `len` words.
    pub fn new(from: usize, len: usize, seed: u64) -> Box<Self> {
        let Some(message) = Self::try_new(from, len, seed) else {
            panic!("no memory for a message")
        };
        message
    }

    /// [`new`](Self::new) for a handler, whose request may be refused.
    fn try_new(from: usize, len: usize, seed: u64) -> Option<Box<Self>> {
        let mut words = Vec::new();
        words.try_reserve_exact(len).ok()?;
        words.extend((0..len as u64).map(|i| seed.wrapping_mul(i + 1)));
        // SAFETY: the layout is not empty.
        let place = unsafe { alloc::alloc::alloc(Layout::new::<Self>()) }.cast::<Self>();
        if place.is_null() {
            return None;
        }
        let message = Self { next: ptr::null_mut(), from, words: words.into_boxed_slice() };
        // SAFETY: just allocated, by the layout that a box is freed with.
        unsafe {
            place.write(message);
            Some(Box::from_raw(place))
        }
    }

    /// Whether it says what it should.
    pub fn verify(&self) {
        let seed = self.words.first().copied().unwrap_or(0);
        for (i, word) in (1..).zip(&self.words) {
            assert!(*word == seed.wrapping_mul(i), "a message from CPU {} is broken", self.from);
        }
    }
}

/// Pushes a message on a list.
fn push(list: &AtomicPtr<Message>, message: Box<Message>) {
    let message = Box::into_raw(message);
    let mut head = list.load(Ordering::Relaxed);
    loop {
        // SAFETY: not on the list yet: still ours.
        unsafe { (*message).next = head };
        match list.compare_exchange_weak(head, message, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => head = other,
        }
    }
}

/// Takes all messages off a list.
fn take(list: &AtomicPtr<Message>) -> impl Iterator<Item = Box<Message>> {
    let mut at = list.swap(ptr::null_mut(), Ordering::Acquire);
    core::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: on the list are boxes that `push` gave up; the swap made them ours.
        let message = unsafe { Box::from_raw(at) };
        at = message.next;
        Some(message)
    })
}

/// Sends a message to CPU `index`.
pub fn send<A: Arch>(index: usize, message: Box<Message>) {
    if let Some(local) = cpu::get(index) {
        push(&local.inbox, message);
        A::notify(index);
    }
}

/// The answers that came to CPU `index`.
pub fn answers(index: usize) -> impl Iterator<Item = Box<Message>> {
    cpu::get(index).into_iter().flat_map(|local| take(&local.answers))
}

/// The handler of an interrupt from another CPU: messages, and requests to drain.
/// Interrupts are masked; the interrupt was acknowledged.
pub fn on_message<A: Arch>() {
    let local = A::local();
    answer_messages(local);
    if local.drain.load(Ordering::Acquire) {
        A::heap().drain_current();
        local.drain.store(false, Ordering::Release);
    }
}

/// Reads the messages to this CPU, drops them, answers each. One whose answer is refused, since this
/// handler interrupted the allocator, waits for the next interrupt, the timer's at the latest.
fn answer_messages(local: &CpuLocal) {
    for message in take(&local.inbox) {
        message.verify();
        let (from, len) = (message.from, message.words.len());
        let Some(answer) = Message::try_new(local.index(), len, from as u64 + 1) else {
            local.refused.fetch_add(1, Ordering::Relaxed);
            push(&local.inbox, message);
            continue;
        };
        drop(message); // here, in the handler, on another CPU than made it
        if let Some(sender) = cpu::get(from) {
            push(&sender.answers, answer);
        }
        local.handler_work.fetch_add(4, Ordering::Relaxed);
    }
}
