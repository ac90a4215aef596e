//! Measures the allocator beside its predecessor (0.3.0) and its peers, and prints the figures.
//!
//! | command | what it measures | module |
//! | --- | --- | --- |
//! | `init` | what initialising a huge region touches, and how long it takes | [`init`] |
//! | `sections` | what a page costs among 1 to 4,096 sections | [`sections`] |
//! | `utilisation` | how much of a region is handed out before the first failure | [`utilisation`] |
//! | `pair` | one allocation and its free: objects, pages, across threads | [`pair`], [`handover`] |
//!
//! Every figure comes from the run that prints it. Times are medians over rounds in which all
//! contenders take turns, so that what disturbs the machine disturbs all of them; read the ratios.

mod account;
mod engines;
mod handover;
mod init;
mod pair;
mod platforms;
mod rounds;
mod sections;
mod utilisation;

use clap::{Parser, ValueEnum};

/// Measures the allocator beside its predecessor and its peers.
#[derive(Parser)]
struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    figure: Figure,
}

/// The figures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    Init,
    Sections,
    Utilisation,
    Pair,
    All,
}

fn main() {
    let wanted = Arguments::parse().figure;
    let figures: [(Figure, fn()); 4] = [
        (Figure::Init, init::print),
        (Figure::Sections, sections::print),
        (Figure::Utilisation, utilisation::print),
        (Figure::Pair, pair::print),
    ];
    for (figure, print) in figures {
        if wanted == Figure::All || wanted == figure {
            print();
        }
    }
}
