//! Tables for the terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::run::Outcome;
use crate::workloads::{Better, Workload};

/// A table with a heading, its first column on the left and figures on the right.
pub fn print(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title}\n{table}");
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
    print(&title, &["engine", "median", "to best peer", "min", "spread", "rounds"], &rows);
}
