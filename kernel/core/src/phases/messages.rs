//! Messages between CPUs: boxes that are made on one CPU and dropped in a handler of another, which
//! answers by a box of its own.

use crate::arch::Arch;
use crate::handlers::{self, Message};
use crate::pattern::Random;
use crate::{cpu, say, scheduler, thread};

const MESSAGES: usize = 300;
const ANSWER_LIMIT_NS: u64 = 30_000_000_000;

/// Each CPU writes to all others (or, alone, to itself) and waits for the answers.
pub(super) fn run<A: Arch>(percent: usize) {
    let cpus = cpu::count();
    let per_cpu = MESSAGES * percent / 100;
    thread::on_each_cpu::<A>(&|index| {
        let mut random = Random::new(index as u64 + 300);
        let mut answered = 0;
        let start = A::now_ns();
        for sent in 0..per_cpu {
            let to = if cpus == 1 { 0 } else { (index + 1 + random.below(cpus - 1)) % cpus };
            let message = Message::new(index, 1 + random.below(64), random.next_number());
            handlers::send::<A>(to, message);
            // A few in flight.
            while answered + 8 <= sent {
                answered += collect(index);
                wait::<A>(index, start);
            }
        }
        while answered < per_cpu {
            answered += collect(index);
            wait::<A>(index, start);
        }
        assert!(answered == per_cpu, "{answered} answers to {per_cpu} messages");
    });
    say!(A, "{} messages, as many answers", per_cpu * cpus);
}

fn collect(index: usize) -> usize {
    handlers::answers(index).map(|answer| answer.verify()).count()
}

fn wait<A: Arch>(index: usize, start: u64) {
    assert!(A::now_ns() - start < ANSWER_LIMIT_NS, "CPU {index} waits for answers in vain");
    scheduler::yield_now::<A>();
}
