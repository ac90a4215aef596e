//! A map of the heap as text: each cell a run of pages, each letter what most of it is.

use core::fmt;

use crate::buddy::RunKind;
use crate::global::GlobalAllocator;
use crate::platform::Platform;

/// Draws every section: `.` free, `#` slabs, `P` pages and large allocations, `:` kept by CPUs,
/// `x` the allocator's own; a cell shows what most of its pages are. [`GlobalAllocator::heap_map`]
/// makes it.
pub struct HeapMap<'a, const PAGE_SIZE: usize, P: Platform> {
    heap: &'a GlobalAllocator<PAGE_SIZE, P>,
    width: usize,
    rows: usize,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// A map of each section, `width` cells to a row and at most `rows` rows, to be printed.
    ///
    /// # Complexity
    /// Printing is O(blocks): free and allocated blocks are stepped over whole. No lock: under
    /// load a cell may be out of date.
    pub fn heap_map(&self, width: usize, rows: usize) -> HeapMap<'_, PAGE_SIZE, P> {
        HeapMap { heap: self, width: width.max(1), rows: rows.max(1) }
    }
}

/// By [`RunKind`].
const LETTERS: [char; 5] = ['.', '#', 'P', ':', 'x'];

impl<const PAGE_SIZE: usize, P: Platform> fmt::Display for HeapMap<'_, PAGE_SIZE, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.heap.core();
        let cells = self.width * self.rows;
        for number in 0..core.section_count() {
            let Some(section) = core.section(number) else { break };
            let pages = section.size / PAGE_SIZE;
            let per_cell = pages.div_ceil(cells).max(1);
            let (start, size, cell_bytes) = (section.start, section.size, per_cell * PAGE_SIZE);
            writeln!(f, "section {number} at {start:#x}, {size} bytes, {cell_bytes} a cell")?;
            let mut counts = [0usize; LETTERS.len()];
            let mut column = 0;
            let mut at = 0;
            // `run` pages from `at` on are all of one kind.
            let (mut kind, mut run) = (RunKind::Free, 0);
            while at < pages {
                if run == 0 {
                    (kind, run) = core.run_at(start + at * PAGE_SIZE);
                    run = run.clamp(1, pages - at);
                }
                let in_cell = (per_cell - at % per_cell).min(run);
                counts[kind as usize] += in_cell;
                at += in_cell;
                run -= in_cell;
                if at % per_cell == 0 || at == pages {
                    let most = (0..LETTERS.len()).max_by_key(|kind| counts[*kind]).unwrap_or(0);
                    write!(f, "{}", LETTERS[most])?;
                    counts = [0; LETTERS.len()];
                    column += 1;
                    if column == self.width || at == pages {
                        column = 0;
                        writeln!(f)?;
                    }
                }
            }
        }
        write!(f, ". free   # slabs   P pages   : kept by CPUs   x own structures")
    }
}
