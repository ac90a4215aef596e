//! `cargo xtask bench`: see the package's `README.md`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use figures::engines::EngineId;
use figures::engines::pages::PageEngineId;
use figures::machine::Circumstances;
use figures::record::Record;
use figures::reports::{self, Report};
use figures::workloads::{self, Scale, Workload};
use figures::{engines, histogram, plot, run, table, team};

/// Measures the allocator beside its predecessor and its peers.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Workloads, groups of them (`pair`, `pages`) or reports (`init`, `sections`, `account`); every workload if none
    /// is named
    #[arg(value_name = "WORKLOAD")]
    named: Vec<String>,

    /// The same
    #[arg(long, short, value_delimiter = ',')]
    workload: Vec<String>,

    /// Engines; all of them if none is named
    #[arg(long, short, value_delimiter = ',')]
    engine: Vec<String>,

    /// How many rounds each engine gets
    #[arg(long, default_value_t = 51)]
    rounds: usize,

    /// Few and short rounds, for a look; recorded nowhere
    #[arg(long)]
    quick: bool,

    /// Time every call of ours on its own instead, and print quantiles
    #[arg(long)]
    histogram: bool,

    /// Name workloads, reports and engines, and do nothing
    #[arg(long)]
    list: bool,

    /// Record nothing
    #[arg(long)]
    no_record: bool,

    /// Draw the plot from what is recorded, and measure nothing
    #[arg(long)]
    plot: bool,

    /// Hold what is recorded against the aims, one row each, and measure nothing
    #[arg(long)]
    aims: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return Ok(());
    }
    let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "record"].iter().collect();
    if arguments.plot {
        return plot::draw(&Record::load(&directory)?, &directory.join("plot.svg"));
    }
    if arguments.aims {
        println!("{}", table::aims(&Record::load(&directory)?));
        return Ok(());
    }
    for engine in &arguments.engine {
        if !engine_names().any(|name| name == engine) {
            bail!("no engine `{engine}` here: {}", engine_names().collect::<Vec<_>>().join(", "));
        }
    }
    let (workloads, reports) = chosen(&arguments)?;
    for report in reports {
        (report.print)();
    }
    if workloads.is_empty() {
        return Ok(());
    }
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let rounds = if arguments.quick { arguments.rounds.min(7) } else { arguments.rounds };
    let wanted = |engine: &str| {
        arguments.engine.is_empty() || arguments.engine.iter().any(|name| name == engine)
    };
    team::bind(0);
    // A comparison with some of the engines left out would pass for one with all of them.
    let record = !(arguments.quick || arguments.no_record || !arguments.engine.is_empty());
    if arguments.histogram {
        let lines = histogram::print(&workloads, wanted, rounds, scale);
        return if record { histogram::record(&directory, lines) } else { Ok(()) };
    }
    let circumstances = Circumstances::now();
    println!(
        "{} · {} cores · {} · {} · {}",
        circumstances.cpu,
        circumstances.cores,
        circumstances.system,
        circumstances.rustc,
        circumstances.commit
    );
    if !arguments.engine.is_empty() {
        println!("some engines only: the best peer, and what is said of aims, is among those");
    }
    // What this run has measured, and what was recorded of the workloads that it has not come to.
    let mut known = Record::load(&directory)?;
    for workload in &workloads {
        let outcomes = run::interleave(workload, workload.contenders(wanted, scale), rounds);
        if outcomes.is_empty() {
            println!("\n{}: none of these engines can run it", workload.name);
            continue;
        }
        known.insert(workload, &circumstances, outcomes);
        known.judge();
        if let Some(entry) = known.get(workload.name) {
            table::print_outcomes(workload, &entry.outcomes);
        }
        if record {
            // Written each time, so that nothing is lost when a later workload fails.
            known.save(&directory)?;
        }
    }
    if record && engines::HAS_NATIVE_PEERS {
        plot::draw(&known, &directory.join("plot.svg"))?;
        println!("\naims, by all that is recorded\n{}", table::aims(&known));
    }
    Ok(())
}

fn engine_names() -> impl Iterator<Item = &'static str> {
    let pages = PageEngineId::ALL.iter().map(|id| id.name());
    let only_pages = pages.filter(|name| EngineId::ALL.iter().all(|id| id.name() != *name));
    EngineId::ALL.iter().map(|id| id.name()).chain(only_pages)
}

/// What the words on the command line mean.
fn chosen(arguments: &Arguments) -> Result<(Vec<&'static Workload>, Vec<&'static Report>)> {
    let mut words: Vec<&str> = Vec::new();
    words.extend(arguments.named.iter().chain(&arguments.workload).map(String::as_str));
    let known = |word: &str| {
        workloads::ALL.iter().any(|workload| workload.is_meant_by(word))
            || reports::ALL.iter().any(|report| report.name == word)
    };
    if let Some(word) = words.iter().find(|word| !known(word)) {
        bail!("no workload, group or report `{word}`: --list names them");
    }
    let workloads = workloads::ALL
        .iter()
        .filter(|workload| words.is_empty() || words.iter().any(|word| workload.is_meant_by(word)));
    let reports = reports::ALL.iter().filter(|report| words.contains(&report.name));
    Ok((workloads.collect(), reports.collect()))
}

fn list() {
    let rows: Vec<Vec<String>> = workloads::ALL
        .iter()
        .map(|workload| (workload.name, workload.about))
        .chain(reports::ALL.iter().map(|report| (report.name, report.about)))
        .map(|(name, about)| vec![name.to_owned(), about.to_owned()])
        .collect();
    table::print("workloads, and reports (the last ones)", &["name", "what"], &rows);
    println!("\nengines: {}", engine_names().collect::<Vec<_>>().join(", "));
    if !engines::HAS_NATIVE_PEERS {
        println!("(those written in C and C++ come with `--features peers`)");
    }
}
