//! The kernel's options, from its command line: words `name` or `name=value`.

/// What to do besides the ordinary phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// NMIs that allocate, at all CPUs, while they are inside the allocator.
    Nmi,
    /// Free an object twice: the run must fail.
    DoubleFree,
    /// Free a page as an object: the run must fail.
    PageAsObject,
    /// Keep an object: the run must fail.
    Leak,
    /// Only the handlers phase: with a build whose lock masks nothing and whose platform names no
    /// context, the run must fail.
    Handlers,
    /// Count instructions per allocation and free; nothing else.
    Count,
}

impl Extra {
    /// Whether the run must fail.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::DoubleFree | Self::PageAsObject | Self::Leak)
    }
}

/// The options of a run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What to do besides, or instead of, the ordinary phases.
    pub extra: Extra,
    /// How much work a phase does, in percent of the usual.
    pub work_percent: usize,
}

impl Options {
    /// Reads a command line.
    ///
    /// # Panics
    /// On a word that it does not know: a test that did not do what was asked would pass.
    pub fn parse(line: &str) -> Self {
        let mut options = Self { extra: Extra::None, work_percent: 100 };
        for word in line.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("nmi", "") => options.extra = Extra::Nmi,
                ("handlers", "") => options.extra = Extra::Handlers,
                ("count", "") => options.extra = Extra::Count,
                ("fault", "double-free") => options.extra = Extra::DoubleFree,
                ("fault", "page-as-object") => options.extra = Extra::PageAsObject,
                ("fault", "leak") => options.extra = Extra::Leak,
                ("work", percent) => match percent.parse() {
                    Ok(percent) => options.work_percent = percent,
                    Err(_) => panic!("work={percent} is no percentage"),
                },
                // The loader's own words: a path of the image.
                _ if word.starts_with('/') => {}
                _ => panic!("unknown option {word}"),
            }
        }
        options
    }
}
