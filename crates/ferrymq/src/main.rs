//! The `ferrymq` binary: command line and composition root.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;
mod serve;

use std::process::ExitCode;

/// Batches and frames are large, short-lived and freed by another task than took them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
