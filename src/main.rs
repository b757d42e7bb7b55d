//! The program's entry point: arguments -> runtime -> command -> exit code.

use std::process::ExitCode;

use clap::Parser as _;
use cognito_auth_exporter::cli::Arguments;

/// Number of threads that run tasks. Tasks wait for answers, and for the ledger, which has its own threads. The work
/// that computes is decoding pages and packing batches, and it takes less than one thread at the largest budget.
/// Tokio's default is a thread for every processor. On a large node that would be 64 threads, each with memory of the
/// allocator, and every answer might wake another one (docs/performance.md).
const WORKERS: usize = 1;

fn main() -> ExitCode {
    // All files that the process creates are for its own user alone, those of the ledger's engine included.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and a poll descriptor; without them nothing could be said or done");
    let code = runtime.block_on(arguments.execute());
    // The runtime does not wait for running tasks, because a write to a pipe without a reader would never end.
    // Everything durable is on disk by now.
    runtime.shutdown_background();
    code
}
