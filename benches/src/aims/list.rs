//! The aims.

use super::{Aim, Figure, Goal, Limit};

/// The aims leave open whether with magazines or without: both are judged.
const OURS: &[&str] = &["thread", "thread-mag", "pinned", "pinned-mag"];
const PAGES: &[&str] = &["thread", "thread-block", "pinned", "pinned-block"];
const LOCKED: &[&str] = &["locked"];

const fn at_most(limit: f64, figure: Figure) -> Goal {
    Goal { figure, limit: Limit::AtMost(limit), unit: "" }
}

const fn at_least(limit: f64, figure: Figure) -> Goal {
    Goal { figure, limit: Limit::AtLeast(limit), unit: "" }
}

impl Goal {
    const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

/// Of the time of the best peer.
const fn best(workloads: &'static [&'static str], aim: f64, stretch: f64) -> Aim {
    Aim {
        workloads,
        engines: OURS,
        aim: at_most(aim, Figure::OverBestPeer),
        stretch: Some(at_most(stretch, Figure::OverBestPeer)),
    }
}

/// Of the time of 0.3.0.
const fn old(
    workloads: &'static [&'static str],
    engines: &'static [&'static str],
    aim: f64,
    stretch: Option<Goal>,
) -> Aim {
    Aim { workloads, engines, aim: at_most(aim, Figure::Over("0.3.0")), stretch }
}

/// Per cent of a region.
const fn share(workloads: &'static [&'static str], aim: f64, stretch: f64) -> Aim {
    Aim {
        workloads,
        engines: LOCKED,
        aim: at_least(aim, Figure::Median).unit("%"),
        stretch: Some(at_least(stretch, Figure::Median).unit("%")),
    }
}

/// Within three points.
const fn loss(workloads: &'static [&'static str], fresh: &'static str) -> Aim {
    let aim = at_most(3.0, Figure::Loss(fresh)).unit("points");
    Aim { workloads, engines: LOCKED, aim, stretch: None }
}

/// All of them, in the order in which they are set.
pub static AIMS: &[Aim] = &[
    best(&["pair-64"], 1.0, 0.8),
    best(&["burst-1k-lifo", "burst-1k-fifo", "burst-1k-random"], 1.0, 0.8),
    best(&["mixed"], 0.9, 0.8),
    best(&["churn-small"], 0.9, 0.8),
    best(&["churn-medium", "churn-large"], 0.9, 0.8),
    best(&["threads-churn"], 0.9, 0.8),
    best(&["handover"], 0.7, 0.5),
    Aim {
        workloads: &["realloc"],
        engines: OURS,
        aim: at_most(0.25, Figure::Over("jemalloc")),
        stretch: Some(at_most(1.0, Figure::Over("talc"))),
    },
    Aim {
        workloads: &["realloc-large"],
        engines: OURS,
        aim: at_most(1.0, Figure::Over("talc")),
        stretch: None,
    },
    old(
        &[
            "pair-8",
            "pair-64",
            "pair-512",
            "pair-2048",
            "pair-var-8",
            "pair-var-64",
            "pair-var-512",
            "pair-var-2048",
            "burst-1k-lifo",
            "burst-1k-fifo",
            "burst-1k-random",
            "burst-100k-lifo",
            "burst-100k-fifo",
            "burst-100k-random",
        ],
        LOCKED,
        0.85,
        None,
    ),
    old(
        &[
            "mixed",
            "churn-small",
            "churn-medium",
            "churn-large",
            "threads-churn",
            "handover",
            "handover-read",
            "handover-both",
            "handover-ring",
            "threads-exit",
            "realloc",
            "realloc-large",
            "zeroed-64",
            "zeroed-4096",
            "zeroed-65536",
        ],
        LOCKED,
        0.5,
        None,
    ),
    old(&["pages-pair"], &["pinned-block"], 0.4, None),
    old(&["pages-pair"], &["pinned"], 0.6, None),
    old(&["pages-bulk"], PAGES, 0.5, Some(at_most(12.0, Figure::Median).unit("ns"))),
    Aim {
        workloads: &["pages-threads"],
        engines: PAGES,
        aim: at_least(1.8, Figure::Speedup("pages-thread")),
        stretch: None,
    },
    share(&["space-small"], 92.0, 93.0),
    share(&["space-all"], 90.0, 93.0),
    loss(&["space-small-churned"], "space-small"),
    loss(&["space-all-churned"], "space-all"),
];
