//! The picture that the README shows, drawn from what is recorded.
//!
//! A row for each workload, a dot for each engine, at its time over that of the best peer. There
//! is no background, and every colour is of middle brightness, so that light and dark pages both
//! do.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::record::Record;

const WIDTH: i32 = 760;
const ROW: i32 = 26;
const TOP: i32 = 84;
const LEFT: i32 = 190;
const RIGHT: i32 = 730;
/// The ends of the scale, as powers of two.
const LEAST: f64 = -1.0;
const MOST: f64 = 4.0;

const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);

/// The rows: a workload, and what the picture calls it.
const ROWS: [(&str, &str); 10] = [
    ("pair-64", "pair, 64 B"),
    ("burst-1k-fifo", "burst of 1,000"),
    ("mixed", "mixed sizes"),
    ("churn-small", "churn, 10,000 live"),
    ("churn-large", "churn up to 128 KiB"),
    ("threads-churn", "two threads churning"),
    ("handover", "producer to consumer"),
    ("realloc", "realloc growth"),
    ("pages-pair", "one page"),
    ("pages-bulk", "262,144 pages"),
];

/// How an engine is marked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A peer.
    Small,
    /// Ours.
    Large,
    /// Ours, with magazines.
    Ring,
}
use Mark::{Large, Ring, Small};

const ORANGE: RGBColor = RGBColor(0xE0, 0x8A, 0x1E);
const RED: RGBColor = RGBColor(0xD9, 0x4A, 0x3A);

/// The dots: an engine, its colour and its mark.
const DOTS: [(&str, RGBColor, Mark); 12] = [
    ("0.3.0", RGBColor(0x9A, 0x7B, 0x4F), Small),
    ("talc", RGBColor(0x8A, 0xA0, 0x3A), Small),
    ("rlsf", RGBColor(0x5F, 0x9E, 0x6E), Small),
    ("mimalloc", RGBColor(0x3F, 0x8F, 0xC5), Small),
    ("snmalloc", RGBColor(0x5A, 0x78, 0xD8), Small),
    ("jemalloc", RGBColor(0x8C, 0x6B, 0xD6), Small),
    ("rpmalloc", RGBColor(0xB8, 0x60, 0xB8), Small),
    ("system", GREY, Small),
    ("pinned", ORANGE, Large),
    ("thread", RED, Large),
    ("pinned-mag", ORANGE, Ring),
    ("thread-mag", RED, Ring),
];

/// Where a ratio lies between left and right; what is beyond the ends lies at them.
fn place(ratio: f64) -> i32 {
    let share = (ratio.log2().clamp(LEAST, MOST) - LEAST) / (MOST - LEAST);
    LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
}

/// Draws the plot of `record` into the file `path`.
///
/// # Errors
/// The file cannot be written.
pub fn draw(record: &Record, path: &Path) -> Result<()> {
    let rows: Vec<_> =
        ROWS.iter().filter_map(|&(workload, label)| Some((label, record.get(workload)?))).collect();
    let height = TOP + ROW * i32::try_from(rows.len())? + 34;
    let root = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    let text = |size: i32, color: RGBColor, across: HPos| {
        let style = TextStyle::from(("sans-serif", size).into_font());
        let style = TextStyle { color: color.to_backend_color(), ..style };
        style.pos(Pos::new(across, VPos::Center))
    };
    let drawn = (|| {
        let label = |words: String, at: (i32, i32), style: TextStyle<'static>| {
            root.draw(&Text::new(words, at, style))
        };
        let title = "time over that of the best peer (left of 1x is faster than all of them)";
        label(title.to_owned(), (10, 16), text(15, GREY, HPos::Left))?;
        let dot = |at: (i32, i32), color: RGBColor, mark: Mark| {
            let (size, style) = match mark {
                Small => (4, color.filled()),
                Large => (6, color.filled()),
                Ring => (5, color.stroke_width(3)),
            };
            root.draw(&Circle::new(at, size, style))
        };
        // Peers above, ours below.
        let mut ends = [16; 2];
        for (engine, color, mark) in DOTS {
            let row = usize::from(mark != Small);
            let (x, y) = (ends[row], 42 + 20 * row as i32);
            dot((x, y), color, mark)?;
            label(engine.to_owned(), (x + 10, y), text(13, color, HPos::Left))?;
            ends[row] += 26 + 7 * i32::try_from(engine.len()).unwrap_or(0);
        }
        let bottom = TOP + ROW * rows.len() as i32;
        for power in LEAST as i32..=MOST as i32 {
            let ratio = 2f64.powi(power);
            let x = place(ratio);
            let width = if power == 0 { 2 } else { 1 };
            let line = GREY.mix(if power == 0 { 0.9 } else { 0.35 }).stroke_width(width);
            root.draw(&PathElement::new(vec![(x, TOP), (x, bottom)], line))?;
            label(format!("{ratio}x"), (x, bottom + 14), text(13, GREY, HPos::Center))?;
        }
        for (index, (name, entry)) in rows.iter().enumerate() {
            let y = TOP + ROW * index as i32 + ROW / 2;
            label((*name).to_owned(), (LEFT - 14, y), text(14, GREY, HPos::Right))?;
            for (engine, color, mark) in DOTS {
                let outcome = entry.outcomes.iter().find(|outcome| outcome.engine == engine);
                if let Some(ratio) = outcome.and_then(|outcome| outcome.ratio) {
                    dot((place(ratio), y), color, mark)?;
                }
            }
        }
        root.present()
    })();
    drawn.map_err(|error| anyhow!("{error}")).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_logarithmic_and_ends_at_its_ends() {
        assert_eq!(place(0.5), LEFT);
        assert_eq!(place(16.0), RIGHT);
        assert_eq!(place(1000.0), RIGHT);
        assert_eq!(place(2.0) - place(1.0), place(4.0) - place(2.0));
    }

    #[test]
    fn every_row_is_a_workload() {
        for (name, _) in ROWS {
            assert!(crate::workloads::ALL.iter().any(|workload| workload.name == name), "{name}");
        }
    }
}
