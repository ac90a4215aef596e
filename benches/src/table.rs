//! Tables for the terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::aims::{self, Figure};
use crate::record::Record;
use crate::run::Outcome;
use crate::workloads::{Better, Workload};

/// A table with a heading, its first column on the left and figures on the right.
pub fn print(title: &str, header: &[&str], rows: &[Vec<String>]) {
    println!("\n{title}\n{}", text(header, rows));
}

/// The same without a heading, as text.
pub fn text(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// What came of one workload.
pub fn print_outcomes(workload: &Workload, outcomes: &[Outcome]) {
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let summary = &outcome.summary;
            vec![
                outcome.engine.clone(),
                format!("{:.2}", summary.median),
                outcome.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
                outcome.aim.as_ref().map_or_else(String::new, |aim| aim.aim.clone()),
                outcome.aim.as_ref().map_or_else(String::new, |aim| aim.verdict.to_string()),
                format!("{:.2}", summary.min),
                format!("{:.0} %", summary.spread * 100.0),
                summary.rounds.to_string(),
            ]
        })
        .collect();
    let better = match workload.better {
        Better::Less => "less is better",
        Better::More => "more is better",
    };
    let title = format!("{}: {} [{}, {better}]", workload.name, workload.about, workload.unit);
    let header = ["engine", "median", "to best peer", "aim", "verdict", "min", "spread", "rounds"];
    print(&title, &header, &rows);
}

/// The prototypes whose figures stand beside those of an aim.
const FLOORS: [&str; 5] = ["floor-list", "floor-bits", "floor-magazine", "floor", "floor-claim"];

/// One row for each aim, engine and workload, by what is recorded.
pub fn aims(record: &Record) -> String {
    let mut rows = Vec::new();
    for (workload, engine) in aims::all() {
        let Some(judgement) = aims::judge(record, workload, engine) else {
            let missing = ["", "", "", "", "", "not measured", ""].map(str::to_owned);
            rows.push([vec![workload.to_owned(), engine.to_owned()], missing.to_vec()].concat());
            continue;
        };
        let figure = aims::figure_of(workload, engine).unwrap_or(Figure::Median);
        let base = aims::base(record, workload, figure);
        let over = |median: f64| match &base {
            Some((_, base)) => format!("{:.2}x", median / base),
            None => format!("{median:.2}"),
        };
        let floors: Vec<String> = FLOORS
            .iter()
            .filter_map(|floor| {
                let name = floor.trim_start_matches("floor-");
                Some(format!("{name} {}", over(record.median(workload, floor)?)))
            })
            .collect();
        let against = |(name, median): &(String, f64)| format!("{name} {median:.2}");
        rows.push(vec![
            workload.to_owned(),
            engine.to_owned(),
            record.median(workload, engine).map_or_else(String::new, |own| format!("{own:.2}")),
            base.as_ref().map_or_else(String::new, against),
            format!("{:.2}", judgement.measured),
            judgement.aim,
            judgement.stretch.unwrap_or_default(),
            judgement.verdict.to_string(),
            floors.join(", "),
        ]);
    }
    let header = [
        "workload",
        "engine",
        "median",
        "against",
        "measured",
        "aim",
        "stretch",
        "verdict",
        "prototypes",
    ];
    text(&header, &rows)
}
