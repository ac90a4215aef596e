//! Threads with collections, moved between CPUs by the timer in the middle of what they do.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::boot::TICK_HZ;
use crate::pattern::Random;
use crate::{cpu, say, scheduler, thread};

const ROUNDS: usize = 400;
const RATE_HZ: u32 = 1000;

/// Three threads a CPU.
pub(super) fn run<A: Arch>(percent: usize) {
    let cpus = cpu::count();
    let rounds = ROUNDS * percent / 100;
    let preemptions =
        || cpu::all().map(|local| local.preemptions.load(Ordering::Relaxed)).sum::<usize>();
    let before = preemptions();
    let migrations = AtomicUsize::new(0);
    thread::on_each_cpu::<A>(&|_| A::set_timer(RATE_HZ));
    thread::crowd::<A>(3 * cpus, &|index| {
        let mut random = Random::new(index as u64 + 400);
        let mut map: BTreeMap<u64, (usize, String)> = BTreeMap::new();
        let mut last = A::cpu();
        for round in 0..rounds {
            for _ in 0..8 {
                let key = random.next_number() % 512;
                let len = random.below(100);
                let mut text = String::new(); // grows: reallocates
                (0..len).for_each(|i| text.push((b'a' + (key as usize + i) as u8 % 26) as char));
                text += &format!("-{key}");
                map.insert(key, (len, text));
                if let Some((key, (len, text))) = map.remove_entry(&(random.next_number() % 512)) {
                    check(key, len, &text);
                }
            }
            if round % 16 == 0 {
                scheduler::yield_now::<A>();
            }
            let now = A::cpu();
            if now != last {
                migrations.fetch_add(1, Ordering::Relaxed);
                last = now;
            }
        }
        let rest: Vec<_> = map.into_iter().collect();
        rest.iter().for_each(|(key, (len, text))| check(*key, *len, text));
    });
    thread::on_each_cpu::<A>(&|_| A::set_timer(TICK_HZ));
    let preempted = preemptions() - before;
    let migrated = migrations.load(Ordering::Relaxed);
    say!(A, "{preempted} preemptions, {migrated} migrations");
    assert!(preempted > 0, "no thread was preempted");
    assert!(cpus == 1 || migrated > 0, "no thread migrated");
}

fn check(key: u64, len: usize, text: &str) {
    let (letters, tail) = text.split_at(len);
    let right =
        (0..len).zip(letters.bytes()).all(|(i, b)| b == b'a' + (key as usize + i) as u8 % 26);
    assert!(
        right && tail.strip_prefix('-') == Some(&format!("{key}")),
        "a string is broken: {text}"
    );
}
