//! Figures that are no contest of rounds: tables of their own.

mod account;
mod init;
mod sections;

/// A table that is printed on demand.
pub struct Report {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Measures and prints.
    pub print: fn(),
}

/// All reports.
pub static ALL: &[Report] = &[
    Report {
        name: "init",
        about: "what initialising a huge region touches, and how long it takes",
        print: init::print,
    },
    Report {
        name: "sections",
        about: "what a page costs among 1 to 4,096 sections",
        print: sections::print,
    },
    Report {
        name: "account",
        about: "where the bytes of a full region went",
        print: account::print,
    },
];
