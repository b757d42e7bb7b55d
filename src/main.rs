//! arguments -> runtime -> command -> exit code.

use std::process::ExitCode;

use clap::Parser as _;
use cognito_auth_exporter::cli::Arguments;

/// Threads that run tasks. They wait for answers, and for the ledger, which has threads of its own; what computes, decoding a
/// page and packing a batch, takes less than one of them at the largest budget. Tokio's default is one for every processor: 64
/// of them on a large node, each with memory of the allocator's, and every answer a chance to wake another one
/// (docs/performance.md).
const WORKERS: usize = 1;

fn main() -> ExitCode {
    // Whatever it makes (the ledger's engine makes files, too) is for its own user alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and a poll descriptor; without them nothing could be said or done");
    let code = runtime.block_on(arguments.execute());
    // What still runs is not waited for: a write to a pipe that nobody reads would never end. What must be on disk is.
    runtime.shutdown_background();
    code
}
