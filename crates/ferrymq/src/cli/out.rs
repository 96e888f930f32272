//! The only place that prints: stdout for data, stderr for everything else.
//!
//! **Invariant.** Every write's result is looked at, so that a closed pipe ends the command cleanly instead of
//! with a panic, as `println!` would.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Buffered stdout.
pub(crate) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Out {
    pub(crate) fn new() -> Out {
        Out { stdout: BufWriter::with_capacity(64 * 1024, io::stdout().lock()) }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stdout.write_all(bytes)?)
    }

    pub(crate) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// One value as indented JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    /// One value as JSON on one line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(value)?)
    }

    /// Rows under headings, as wide as they need to be.
    pub(crate) fn table<const N: usize>(
        &mut self,
        headings: [&str; N],
        rows: &[[String; N]],
    ) -> anyhow::Result<()> {
        let mut widths = headings.map(str::len);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.row(&headings.map(str::to_owned), &widths)?;
        rows.iter().try_for_each(|row| self.row(row, &widths))
    }

    fn row(&mut self, cells: &[String], widths: &[usize]) -> anyhow::Result<()> {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        self.line(padded.join("  ").trim_end())
    }

    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stdout.flush()?)
    }
}

/// A line on stderr. If that fails there is nobody left to tell.
pub(crate) fn note(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether an error only says that whoever read stdout has gone.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
