//! Figures of tests, as `cargo xtask siege` reads them.

use std::fmt::Write as _;

/// Prints figures of a test, each by its name with the part of the siege before a point: `figure storm.attempts 10000000`.
pub fn print(figures: &[(&str, u64)]) {
    // The name of the test that runs is in the line before.
    let mut lines = String::from("\n");
    for (name, value) in figures {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "figure {name} {value}");
    }
    // In one piece, so that nothing comes between.
    print!("{lines}");
}
