//! Threads that work together in rounds, and live as long as what they measure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use core_affinity::CoreId;

use crate::engines::Engine;
use crate::platforms::{CPU_COUNT, become_cpu};

/// When a member began and ended its part of a round.
type Span = (Instant, Instant);
/// What a member does in a round; its argument is the member's number.
type Work = Arc<dyn Fn(usize) + Send + Sync>;

/// Member 0 is the thread that made the team; the others wait for rounds.
pub struct Team {
    others: Vec<Member>,
}

struct Member {
    rounds: Option<Sender<(Work, Arc<Gate>)>>,
    spans: Receiver<Span>,
    thread: Option<JoinHandle<()>>,
}

/// Where members wait for each other before a round.
struct Gate {
    arrived: AtomicUsize,
    members: usize,
}

impl Gate {
    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut wait = Wait::new();
        while self.arrived.load(Ordering::Acquire) < self.members {
            wait.turn();
        }
    }
}

impl Team {
    /// A team of `count` for engine `E`, each with a CPU number of its own.
    ///
    /// # Panics
    /// If there are not so many CPU numbers.
    pub fn new<E: Engine>(count: usize) -> Self {
        Self::of(count, E::enter_thread, E::leave_thread)
    }

    /// A team of `count`, each with a CPU number of its own; all but the maker call `enter` before
    /// the first round and `leave` after the last.
    ///
    /// # Panics
    /// If there are not so many CPU numbers.
    pub fn of(count: usize, enter: fn(), leave: fn()) -> Self {
        assert!((1..=CPU_COUNT).contains(&count), "no such team");
        let others = (1..count)
            .map(|number| {
                let (rounds, receiver) = mpsc::channel::<(Work, Arc<Gate>)>();
                let (sender, spans) = mpsc::channel();
                let thread = thread::spawn(move || {
                    bind(number);
                    // SAFETY: one team lives at a time, and its members have different numbers.
                    unsafe { become_cpu(number) };
                    enter();
                    for (work, gate) in receiver {
                        if sender.send(span(&gate, &work, number)).is_err() {
                            break;
                        }
                    }
                    leave();
                });
                Member { rounds: Some(rounds), spans, thread: Some(thread) }
            })
            .collect();
        Self { others }
    }

    /// One round: every member does its work; nanoseconds from the first begin to the last end.
    ///
    /// # Panics
    /// If a member has panicked.
    pub fn round(&self, work: impl Fn(usize) + Send + Sync + 'static) -> f64 {
        let work: Work = Arc::new(work);
        let members = self.others.len() + 1;
        let gate = Arc::new(Gate { arrived: AtomicUsize::new(0), members });
        for member in &self.others {
            let rounds = member.rounds.as_ref().expect("a member has one until the team ends");
            rounds.send((work.clone(), gate.clone())).expect("a member lives");
        }
        let mut whole = span(&gate, &work, 0);
        for member in &self.others {
            let (begin, end) = member.spans.recv().expect("a member lives");
            whole = (whole.0.min(begin), whole.1.max(end));
        }
        (whole.1 - whole.0).as_nanos() as f64
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for member in &mut self.others {
            member.rounds = None;
            if let Some(thread) = member.thread.take() {
                // A member's panic has shown itself already.
                let _ = thread.join();
            }
        }
    }
}

fn span(gate: &Gate, work: &Work, number: usize) -> Span {
    gate.pass();
    let begin = Instant::now();
    work(number);
    (begin, Instant::now())
}

/// Waits for another thread: spins a while, then lets others run.
pub struct Wait(u32);

impl Wait {
    /// Not waited yet.
    pub fn new() -> Self {
        Self(0)
    }

    /// Waits a little.
    #[inline]
    pub fn turn(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(1 << 10) { thread::yield_now() } else { std::hint::spin_loop() }
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self::new()
    }
}

/// The cores of this process, asked before anybody is bound to one.
static CORES: LazyLock<Vec<CoreId>> =
    LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());

/// How many cores the program may use.
pub fn core_count() -> usize {
    CORES.len()
}

/// Binds the calling thread to core number `number`, or what takes its place where there are fewer.
/// The main thread is the first to be bound, to core 0.
pub fn bind(number: usize) {
    if !CORES.is_empty() {
        core_affinity::set_for_current(CORES[number % CORES.len()]);
    }
}
