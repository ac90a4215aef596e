//! What is measured: workloads by name, and the engines each can be run with.

mod burst;
mod churn;
mod exit;
mod growth;
mod handover;
mod live;
mod pages;
mod pair;
pub mod space;

use talc::cell::TalcSyncCell;
use talc::source::Manual;

use crate::engines::pages::{PageEngineId, PageVisitor, Pages, TimedPages};
use crate::engines::{Engine, EngineId, Role, Timed, Visitor};
use space::{Filling, When};

/// One round of one engine: what it returns is in the workload's unit.
pub type Round = Box<dyn FnMut() -> f64>;

/// How much work a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// For figures.
    Full,
    /// For a look.
    Quick,
    /// For a test that everything runs.
    Tiny,
}

impl Scale {
    /// `full` operations, or as many as this scale makes of them; at least one.
    pub fn of(self, full: usize) -> usize {
        let divisor = match self {
            Self::Full => 1,
            Self::Quick => 4,
            Self::Tiny => 100,
        };
        (full / divisor).max(1)
    }
}

/// A workload on objects.
trait ObjectWorkload {
    /// Rounds with `E`, which is ready.
    fn prepare<E: Engine>(scale: Scale) -> Round;
}

/// A workload on pages.
trait PageWorkload {
    /// Rounds with `P`, which is ready.
    fn prepare<P: Pages>(scale: Scale) -> Round;
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Fewer nanoseconds.
    Less,
    /// More bytes.
    More,
}

/// How an engine is made to run a workload.
enum Kind {
    Objects {
        prepare: fn(EngineId, Scale) -> Round,
        prepare_timed: fn(EngineId, Scale) -> Option<Round>,
    },
    Pages {
        prepare: fn(PageEngineId, Scale) -> Round,
        prepare_timed: fn(PageEngineId, Scale) -> Option<Round>,
    },
    Space(Filling),
}

/// A workload with its name.
pub struct Workload {
    /// The name in tables and on the command line: the name of its group, or that and more.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What figures are in.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// How many rounds are enough, however many are asked for.
    pub most_rounds: usize,
    kind: Kind,
    /// Engines that cannot run it, and why.
    skips: &'static [(&'static str, &'static str)],
}

/// An engine that can run a workload, ready to do so.
pub struct Contender {
    /// The engine's name.
    pub engine: &'static str,
    /// Its part in the comparison.
    pub role: Role,
    /// Its rounds.
    pub round: Round,
}

struct Prepare<W>(Scale, std::marker::PhantomData<W>);

impl<W: ObjectWorkload> Visitor for Prepare<W> {
    type Output = Round;
    fn visit<E: Engine>(self) -> Round {
        E::start();
        E::enter_thread();
        W::prepare::<E>(self.0)
    }
}

impl<W: PageWorkload> PageVisitor for Prepare<W> {
    type Output = Round;
    fn visit<P: Pages>(self) -> Round {
        P::start();
        W::prepare::<P>(self.0)
    }
}

fn prepare_objects<W: ObjectWorkload>(engine: EngineId, scale: Scale) -> Round {
    engine.with(Prepare::<W>(scale, std::marker::PhantomData))
}

/// Only ours: they are what histograms are about, and every engine more takes long to compile.
fn prepare_objects_timed<W: ObjectWorkload>(engine: EngineId, scale: Scale) -> Option<Round> {
    use crate::engines::{OursLocked, OursPinned, OursThread, PinnedMagazines, ThreadMagazines};
    let prepare = Prepare::<W>(scale, std::marker::PhantomData);
    match engine {
        EngineId::Pinned => Some(Visitor::visit::<Timed<OursPinned>>(prepare)),
        EngineId::Thread => Some(Visitor::visit::<Timed<OursThread>>(prepare)),
        EngineId::PinnedMagazines => Some(Visitor::visit::<Timed<PinnedMagazines>>(prepare)),
        EngineId::ThreadMagazines => Some(Visitor::visit::<Timed<ThreadMagazines>>(prepare)),
        EngineId::Locked => Some(Visitor::visit::<Timed<OursLocked>>(prepare)),
        _ => None,
    }
}

fn prepare_pages<W: PageWorkload>(engine: PageEngineId, scale: Scale) -> Round {
    engine.with(Prepare::<W>(scale, std::marker::PhantomData))
}

fn prepare_pages_timed<W: PageWorkload>(engine: PageEngineId, scale: Scale) -> Option<Round> {
    use crate::engines::pages::{LockedAddress, PinnedAddress, PinnedBlock};
    let prepare = Prepare::<W>(scale, std::marker::PhantomData);
    match engine {
        PageEngineId::PinnedBlock => Some(PageVisitor::visit::<TimedPages<PinnedBlock>>(prepare)),
        PageEngineId::Pinned => Some(PageVisitor::visit::<TimedPages<PinnedAddress>>(prepare)),
        PageEngineId::Locked => Some(PageVisitor::visit::<TimedPages<LockedAddress>>(prepare)),
        _ => None,
    }
}

type Skips = &'static [(&'static str, &'static str)];

const fn objects<W: ObjectWorkload>(name: &'static str, about: &'static str) -> Workload {
    objects_but::<W>(name, about, &[])
}

const fn objects_but<W: ObjectWorkload>(
    name: &'static str,
    about: &'static str,
    skips: Skips,
) -> Workload {
    Workload {
        name,
        about,
        unit: "ns",
        better: Better::Less,
        most_rounds: usize::MAX,
        kind: Kind::Objects {
            prepare: prepare_objects::<W>,
            prepare_timed: prepare_objects_timed::<W>,
        },
        skips,
    }
}

const fn on_pages<W: PageWorkload>(name: &'static str, about: &'static str) -> Workload {
    Workload {
        name,
        about,
        unit: "ns",
        better: Better::Less,
        most_rounds: usize::MAX,
        kind: Kind::Pages { prepare: prepare_pages::<W>, prepare_timed: prepare_pages_timed::<W> },
        skips: &[],
    }
}

const fn filling(name: &'static str, about: &'static str, most: usize, when: When) -> Workload {
    Workload {
        name,
        about,
        unit: "%",
        better: Better::More,
        most_rounds: 5,
        kind: Kind::Space(Filling { most, when }),
        skips: &[],
    }
}

/// A free walks the list of all holes.
const TOO_SLOW: (&str, &str) = ("linked_list_allocator", "a free walks all holes: minutes a round");

/// What another thread frees goes on that thread's lists, and never comes back.
const LEAKS: (&str, &str) = ("floor-list", "objects freed by another thread do not come back");

/// All workloads, in the order of tables.
pub static ALL: &[Workload] = &[
    objects::<pair::Constant<8>>("pair-8", "one 8 B object, constant layout"),
    objects::<pair::Constant<64>>("pair-64", "one 64 B object, constant layout"),
    objects::<pair::Constant<512>>("pair-512", "one 512 B object, constant layout"),
    objects::<pair::Constant<2048>>("pair-2048", "one 2 KiB object, constant layout"),
    objects::<pair::Variable<8>>("pair-var-8", "one 8 B object, size unknown to the compiler"),
    objects::<pair::Variable<64>>("pair-var-64", "one 64 B object, size unknown"),
    objects::<pair::Variable<512>>("pair-var-512", "one 512 B object, size unknown"),
    objects::<pair::Variable<2048>>("pair-var-2048", "one 2 KiB object, size unknown"),
    objects::<burst::Burst<1000, { burst::LIFO }>>("burst-1k-lifo", "1,000 x 64 B, last out first"),
    objects::<burst::Burst<1000, { burst::FIFO }>>(
        "burst-1k-fifo",
        "1,000 x 64 B, first out first",
    ),
    objects::<burst::Burst<1000, { burst::RANDOM }>>(
        "burst-1k-random",
        "1,000 x 64 B, random order",
    ),
    objects_but::<burst::Burst<100_000, { burst::LIFO }>>(
        "burst-100k-lifo",
        "100,000 x 64 B, last out first",
        &[TOO_SLOW],
    ),
    objects_but::<burst::Burst<100_000, { burst::FIFO }>>(
        "burst-100k-fifo",
        "100,000 x 64 B, first out first",
        &[TOO_SLOW],
    ),
    objects_but::<burst::Burst<100_000, { burst::RANDOM }>>(
        "burst-100k-random",
        "100,000 x 64 B, random order",
        &[TOO_SLOW],
    ),
    objects::<burst::Mixed>("mixed", "1,000 objects of 8 B to 2 KiB, freed in random order"),
    objects::<churn::Churn<10_000, 8, 2048>>("churn-small", "10,000 live, 8 B to 2 KiB, replaced"),
    objects::<churn::Churn<1000, 2048, 32_768>>(
        "churn-medium",
        "1,000 live, 2 to 32 KiB, replaced",
    ),
    objects::<churn::Churn<1000, 8, 131_072>>(
        "churn-large",
        "1,000 live, 8 B to 128 KiB, replaced",
    ),
    objects::<churn::TwoThreads>("threads-churn", "two threads, each as churn-small; per thread"),
    objects_but::<handover::OneWay<false>>(
        "handover",
        "64 B objects, one thread allocates, another frees",
        &[LEAKS],
    ),
    objects_but::<handover::OneWay<true>>(
        "handover-read",
        "the same, and reads each before",
        &[LEAKS],
    ),
    objects_but::<handover::Circle<2>>(
        "handover-both",
        "two threads, each allocates for the other",
        &[LEAKS],
    ),
    objects_but::<handover::Circle<4>>(
        "handover-ring",
        "four threads in a ring, each for the next",
        &[LEAKS],
    ),
    objects_but::<exit::ThreadExit>(
        "threads-exit",
        "a thread starts, allocates 1,000, frees half, ends",
        &[LEAKS],
    ),
    objects::<growth::Growth<16>>("realloc", "16 B to 1 MiB by x1.5, per step"),
    objects::<growth::Growth<32_768>>("realloc-large", "32 KiB to 1 MiB by x1.5, per step"),
    objects::<pair::Zeroed<64>>("zeroed-64", "one zeroed object of 64 B"),
    objects::<pair::Zeroed<4096>>("zeroed-4096", "one zeroed object of 4 KiB"),
    objects::<pair::Zeroed<65_536>>("zeroed-65536", "one zeroed object of 64 KiB"),
    on_pages::<pages::Pair<0>>("pages-pair", "one page"),
    on_pages::<pages::Pair<9>>("pages-2m", "one block of 2 MiB"),
    on_pages::<pages::Bulk>("pages-bulk", "262,144 pages allocated, then freed; per page"),
    on_pages::<pages::RandomFrees>("pages-random", "262,144 pages freed in random order; per free"),
    on_pages::<pages::Churn>("pages-churn", "1,000 blocks of orders 0 to 9, replaced"),
    on_pages::<pages::Threads<1>>("pages-thread", "64 pages held, one thread; per pair"),
    on_pages::<pages::Threads<2>>("pages-threads", "the same on two threads; per pair of both"),
    filling(
        "space-small",
        "share of 256 MiB at the first failure, 8 B to 2 KiB",
        2 << 10,
        When::Fresh,
    ),
    filling("space-all", "the same, 8 B to 128 KiB", 128 << 10, When::Fresh),
    filling("space-small-churned", "as space-small, after long churn", 2 << 10, When::Churned),
    filling("space-all-churned", "as space-all, after long churn", 128 << 10, When::Churned),
];

impl Workload {
    /// Whether `word` on a command line means this workload: its name, or the beginning of it up
    /// to a hyphen.
    pub fn is_meant_by(&self, word: &str) -> bool {
        self.name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Why `engine` cannot run it, if it cannot.
    pub fn skips(&self, engine: &str) -> Option<&'static str> {
        self.skips.iter().find(|(name, _)| *name == engine).map(|(_, why)| *why)
    }

    /// The engines that can run it and that `wanted` wants, ready to do so.
    pub fn contenders(&self, wanted: impl Fn(&str) -> bool, scale: Scale) -> Vec<Contender> {
        let wanted = |engine: &str| wanted(engine) && self.skips(engine).is_none();
        match &self.kind {
            Kind::Objects { prepare, .. } => EngineId::ALL
                .iter()
                .filter(|id| wanted(id.name()))
                .map(|id| Contender {
                    engine: id.name(),
                    role: id.role(),
                    round: prepare(*id, scale),
                })
                .collect(),
            Kind::Pages { prepare, .. } => PageEngineId::ALL
                .iter()
                .filter(|id| wanted(id.name()))
                .map(|id| Contender {
                    engine: id.name(),
                    role: id.role(),
                    round: prepare(*id, scale),
                })
                .collect(),
            Kind::Space(filling) => fillers(*filling, scale)
                .into_iter()
                .filter(|contender| wanted(contender.engine))
                .collect(),
        }
    }

    /// The same of ours only, every call of which is timed on its own.
    pub fn timed_contenders(&self, wanted: impl Fn(&str) -> bool, scale: Scale) -> Vec<Contender> {
        let contender = |engine, role, round: Option<Round>| {
            round.map(|round| Contender { engine, role, round })
        };
        match &self.kind {
            Kind::Objects { prepare_timed, .. } => EngineId::ALL
                .iter()
                .filter(|id| wanted(id.name()))
                .filter_map(|id| contender(id.name(), id.role(), prepare_timed(*id, scale)))
                .collect(),
            Kind::Pages { prepare_timed, .. } => PageEngineId::ALL
                .iter()
                .filter(|id| wanted(id.name()))
                .filter_map(|id| contender(id.name(), id.role(), prepare_timed(*id, scale)))
                .collect(),
            Kind::Space(filling) => {
                let round =
                    wanted("locked").then(|| space::prepare::<space::TimedHeap>(*filling, scale));
                contender("locked", Role::Ours, round).into_iter().collect()
            }
        }
    }
}

/// Those that can be given a region of their own, over and over. (`linked_list_allocator` can, but
/// would take hours: a free walks all holes.)
fn fillers(filling: Filling, scale: Scale) -> Vec<Contender> {
    let contender = |engine, role, round| Contender { engine, role, round };
    vec![
        contender(
            "locked",
            Role::Ours,
            space::prepare::<buddy_slab_allocator::GlobalAllocator>(filling, scale),
        ),
        contender(
            "0.3.0",
            Role::Peer,
            space::prepare::<predecessor::GlobalAllocator>(filling, scale),
        ),
        contender(
            "buddy_system_allocator",
            Role::Peer,
            space::prepare::<buddy_system_allocator::LockedHeap<32>>(filling, scale),
        ),
        contender("rlsf", Role::Peer, space::prepare::<space::Tlsf>(filling, scale)),
        contender(
            "talc",
            Role::Peer,
            space::prepare::<TalcSyncCell<Manual, talc::DefaultBinning>>(filling, scale),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_a_workload_or_a_group_of_them() {
        let meant = |word: &str| ALL.iter().filter(|w| w.is_meant_by(word)).count();
        assert_eq!(meant("pair-64"), 1);
        assert_eq!(meant("pair"), 8);
        assert_eq!(meant("pai"), 0);
        assert_eq!(meant("realloc"), 2);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn no_scale_makes_nothing_of_something() {
        assert_eq!(Scale::Full.of(1000), 1000);
        assert_eq!(Scale::Tiny.of(1000), 10);
        assert_eq!(Scale::Tiny.of(3), 1);
    }
}
