//! Rounds in which engines take turns, and what comes of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::aims::Judgement;
use crate::engines::Role;
use crate::stats::Summary;
use crate::workloads::{Better, Contender, Workload};

/// How long one engine may take with one workload, all rounds together.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds that are not cut short by patience.
const LEAST_ROUNDS: usize = 3;

/// What one engine did in one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The engine.
    pub engine: String,
    /// Its part in the comparison.
    pub role: String,
    /// Its rounds.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its median over that of the best peer.
    pub ratio: Option<f64>,
    /// How it stands to what it should be, where something is aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<Judgement>,
}

/// Lets the contenders take turns, `rounds` times, and returns what came of it, in their order.
///
/// Who begins changes with every round. One that has used up its time is left out, so that a slow
/// one does not hold up the others.
pub fn interleave(
    workload: &Workload,
    mut contenders: Vec<Contender>,
    rounds: usize,
) -> Vec<Outcome> {
    let count = contenders.len();
    let rounds = rounds.min(workload.most_rounds);
    let mut results = vec![Vec::with_capacity(rounds); count];
    let mut used = vec![Duration::ZERO; count];
    for round in 0..rounds {
        for turn in 0..count {
            let index = (round + turn) % count;
            if round >= LEAST_ROUNDS && used[index] > PATIENCE {
                continue;
            }
            let start = Instant::now();
            results[index].push((contenders[index].round)());
            used[index] += start.elapsed();
        }
    }
    let summaries: Vec<_> = results.iter().map(|results| Summary::of(results)).collect();
    let best = best_peer(
        workload.better,
        contenders.iter().zip(&summaries).filter_map(|(contender, summary)| {
            (contender.role == Role::Peer).then_some(summary.as_ref()?.median)
        }),
    );
    contenders
        .iter()
        .zip(summaries)
        .filter_map(|(contender, summary)| {
            let summary = summary?;
            Some(Outcome {
                engine: contender.engine.to_owned(),
                role: role_name(contender.role).to_owned(),
                summary,
                ratio: best.map(|best| summary.median / best),
                aim: None,
            })
        })
        .collect()
}

/// The median to beat.
fn best_peer(better: Better, medians: impl Iterator<Item = f64>) -> Option<f64> {
    match better {
        Better::Less => medians.min_by(f64::total_cmp),
        Better::More => medians.max_by(f64::total_cmp),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Ours => "ours",
        Role::Peer => "peer",
        Role::Floor => "floor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads;

    fn contender(engine: &'static str, role: Role, mut values: Vec<f64>) -> Contender {
        values.reverse();
        Contender { engine, role, round: Box::new(move || values.pop().expect("a round too many")) }
    }

    #[test]
    fn ratios_are_to_the_best_peer_and_neither_to_ours_nor_to_the_floor() {
        let contenders = vec![
            contender("ours", Role::Ours, vec![4.0, 2.0, 3.0]),
            contender("slow", Role::Peer, vec![9.0, 9.0, 9.0]),
            contender("fast", Role::Peer, vec![6.0, 7.0, 5.0]),
            contender("floor", Role::Floor, vec![1.0, 1.0, 1.0]),
        ];
        let outcomes = interleave(&workloads::ALL[0], contenders, 3);
        let ratios: Vec<_> = outcomes.iter().map(|outcome| outcome.ratio).collect();
        assert_eq!(ratios, [Some(0.5), Some(1.5), Some(1.0), Some(1.0 / 6.0)]);
    }

    #[test]
    fn where_more_is_better_the_best_peer_is_the_one_with_most() {
        let space = workloads::ALL.iter().find(|w| w.name == "space-all").expect("it exists");
        let contenders = vec![
            contender("ours", Role::Ours, vec![90.0]),
            contender("a", Role::Peer, vec![60.0]),
            contender("b", Role::Peer, vec![100.0]),
        ];
        let outcomes = interleave(space, contenders, 1);
        assert_eq!(outcomes[0].ratio, Some(0.9));
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let outcomes =
            interleave(&workloads::ALL[0], vec![contender("ours", Role::Ours, vec![4.0])], 1);
        assert_eq!(outcomes[0].ratio, None);
    }
}
