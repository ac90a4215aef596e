//! Every workload runs with each of our engines, and what comes out is a figure.

use figures::engines::EngineId;
use figures::engines::Role;
use figures::engines::pages::PageEngineId;
use figures::run::interleave;
use figures::workloads::{self, Scale, Workload};

fn is_ours(engine: &str) -> bool {
    let objects = EngineId::ALL.iter().any(|id| id.name() == engine && id.role() == Role::Ours);
    let pages = PageEngineId::ALL.iter().any(|id| id.name() == engine && id.role() == Role::Ours);
    objects || pages
}

/// Those that fill 256 MiB take seconds a round; `cargo xtask bench --quick space` runs them.
fn is_short(workload: &&Workload) -> bool {
    !workload.name.starts_with("space")
}

/// One test, since engines are statics with one main thread: CPU 0.
#[test]
fn every_workload_runs_with_every_engine_of_ours_and_the_floors() {
    for workload in workloads::ALL.iter().filter(is_short) {
        let wanted = |engine: &str| is_ours(engine) || engine.starts_with("floor");
        let contenders = workload.contenders(wanted, Scale::Tiny);
        let names: Vec<_> = contenders.iter().map(|contender| contender.engine).collect();
        assert!(["pinned", "thread", "locked"].iter().all(|engine| names.contains(engine)));
        let outcomes = interleave(workload, contenders, 2);
        assert_eq!(outcomes.len(), names.len(), "{}: an engine gave no figure", workload.name);
        for outcome in outcomes {
            let median = outcome.summary.median;
            assert!(median.is_finite() && median > 0.0, "{}: {outcome:?}", workload.name);
        }
    }
}
