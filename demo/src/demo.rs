//! The demo: index, query, drop, account.
//!
//! A first round over the smallest file leaves behind whatever the standard library and the
//! progress bar allocate once and keep. What is held after it is the baseline; after the real
//! round, the index dropped, not one object more may be held in any class.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::DemoArgs;
use crate::corpus::{self, Corpus};
use crate::index::{self, Found, Index};
use crate::text::Bytes;
use crate::{heap, report};

/// Runs the demo; returns whether nothing of the index was left.
///
/// # Errors
/// No corpus, a region of another size than asked, or standard output that cannot be written.
pub fn run(args: &DemoArgs) -> io::Result<bool> {
    // The region was mapped before the command line could be parsed: see `boot`.
    if u64::try_from(heap::region_len()) != Ok(u64::from(args.region_mib) << 20) {
        let message = "--region-mib could not be read before the first allocation";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let out = &mut io::stdout();
    let thread_count = args.thread_count();
    let limit_bytes = u64::from(args.corpus_mib) << 20;
    let corpus = corpus::collect(args.path.as_deref(), limit_bytes)?;
    introduce(out, &corpus, thread_count)?;

    index_corpus(&smallest(&corpus), thread_count, args.quiet_progress).dismantle(thread_count);
    heap::settle();
    let before = heap::snapshot();

    let started = Instant::now();
    let index = index_corpus(&corpus, thread_count, args.quiet_progress);
    summarise(out, &index, started.elapsed())?;
    answer(out, &index, args)?;
    let full = heap::snapshot();
    report::describe(out, "with the index", &full)?;

    let started = Instant::now();
    index.dismantle(thread_count);
    let took = started.elapsed();
    heap::settle();
    let after = heap::snapshot();
    heap::check_invariants();
    report::describe(out, "after dropping it", &after)?;
    writeln!(out, "\nDropped in {:.3} s.", took.as_secs_f64())?;
    let clean = report::compare(out, &before, &after)?;
    for (title, snapshot) in [("before", &before), ("with", &full), ("after", &after)] {
        if !report::adds_up(snapshot) {
            writeln!(out, "The figures {title} the index do NOT add up: {snapshot:?}")?;
            return Ok(false);
        }
    }
    Ok(clean)
}

fn introduce(out: &mut dyn Write, corpus: &Corpus, thread_count: usize) -> io::Result<()> {
    writeln!(
        out,
        "One region of {}, {thread_count} threads; everything below lives in it.",
        Bytes::of(heap::region_len())
    )?;
    writeln!(out, "Corpus: {} files, {}", corpus.files.len(), Bytes(corpus.bytes))?;
    for root in &corpus.roots {
        writeln!(out, "  {}", root.display())?;
    }
    if corpus.left_out > 0 {
        writeln!(out, "  {} files left out: --corpus-mib takes in more", corpus.left_out)?;
    }
    Ok(())
}

/// The corpus that consists of the smallest file alone.
fn smallest(corpus: &Corpus) -> Corpus {
    let file = corpus.files.iter().min_by_key(|(_, len)| *len).cloned();
    Corpus {
        bytes: file.as_ref().map_or(0, |(_, len)| *len),
        files: file.into_iter().collect(),
        ..Corpus::default()
    }
}

fn index_corpus(corpus: &Corpus, thread_count: usize, quiet: bool) -> Index {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(corpus.bytes) };
    let template = "indexing [{bar:40}] {bytes}/{total_bytes}, {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let index = index::build(corpus, thread_count, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    index
}

fn summarise(out: &mut dyn Write, index: &Index, took: Duration) -> io::Result<()> {
    let totals = index.totals();
    let seconds = took.as_secs_f64();
    writeln!(
        out,
        "Indexed {} files ({} skipped), {}, {} lines, {} words, {} of them different, \
         in {seconds:.3} s ({:.1} MiB/s).",
        totals.files,
        totals.skipped,
        Bytes::of(totals.bytes),
        totals.lines,
        totals.words,
        totals.distinct,
        totals.bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9),
    )
}

fn answer(out: &mut dyn Write, index: &Index, args: &DemoArgs) -> io::Result<()> {
    writeln!(out, "\n== The {} most frequent words ==", args.top)?;
    list(out, &index.top_words(args.top))?;
    for prefix in &args.prefix {
        let (found, count) = index.with_prefix(prefix, 5);
        writeln!(out, "\n== {prefix}*: {count} words ==")?;
        list(out, &found)?;
    }
    Ok(())
}

fn list(out: &mut dyn Write, answers: &[Found]) -> io::Result<()> {
    for Found { word, count, files, first } in answers {
        writeln!(out, "{word:<24} {count:>8} in {files:>5} files")?;
        let shown: String = first.chars().take(100).collect();
        writeln!(out, "    {shown}")?;
    }
    Ok(())
}
