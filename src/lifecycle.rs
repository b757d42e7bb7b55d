//! How the process lives and ends: its tasks, its two stops, its signals, its clock.
//!
//! ```text
//! running --first signal, or a task that dies--> draining --work done, or 20 s--> ending --tasks ended, or 5 s--> outcome
//!                                   soft stop |                      hard stop |
//!                                                second signal: the outcome at once
//! ```
//!
//! *Work* (polling, committing, delivering) begins nothing new at the soft stop, finishes what it has in hand, and is cut
//! at the hard stop. *Services* (the HTTP server) go on while work drains, so that the drain can be watched, and end at
//! the hard stop. Nothing is lost either way: what is not delivered waits in the ledger.
//!
//! Every task is spawned here. One that ends without having been asked to is a fault of the program, and a process that
//! lives on without one of its parts looks healthy and is not: it stops, and says which task it was.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::UnixMillis;

/// How long work may drain after the soft stop. Kubernetes kills 30 s after its SIGTERM; this leaves room for the end.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How long tasks may take to end after the hard stop: time for a flush to disk, not for the network.
pub const END_MAX: Duration = Duration::from_secs(5);

/// The process's tasks and stops. Clones share them.
#[derive(Clone, Default)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    work: TaskTracker,
    services: TaskTracker,
    tasks: Arc<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// The names of the tasks that run, in the order in which they were spawned.
    running: Mutex<Vec<Arc<str>>>,
    /// The first task that died.
    fault: Mutex<Option<Fault>>,
    died: Notify,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked: every task has ended. What could not be drained in time waits in the ledger.
    Stopped,
    /// A second signal came: the process is to exit at once, whatever still runs.
    Interrupted,
    /// Through a fault of the program.
    Failed(Fault),
}

/// What went wrong with a task.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ended without having been asked to.
    #[error("task {0} ended before it was asked to")]
    Ended(Arc<str>),
    /// It panicked; the panic's message is on stderr.
    #[error("task {0} panicked")]
    Panicked(Arc<str>),
    /// They did not end in time after the hard stop.
    #[error("did not end within {} s of the hard stop: {}", END_MAX.as_secs(), .0.join(", "))]
    Stuck(Vec<Arc<str>>),
}

impl Lifecycle {
    /// A process that runs, without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The soft stop: begin nothing new, finish what is in hand.
    pub fn soft_stop(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// The hard stop: end now.
    pub fn hard_stop(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Spawns a task that works until the soft stop.
    pub fn spawn(&self, name: impl Into<Arc<str>>, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(&self.soft, &self.work, name.into(), work);
    }

    /// Spawns a task that serves until the hard stop, while work drains.
    pub fn spawn_service(&self, name: impl Into<Arc<str>>, service: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(&self.hard, &self.services, name.into(), service);
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns: the task is tracked, and missed when it dies"
    )]
    fn spawn_until(
        &self,
        stop: &CancellationToken,
        tracker: &TaskTracker,
        name: Arc<str>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.running().push(name.clone());
        let ending = Ending { name, stop: stop.clone(), tasks: self.tasks.clone() };
        tokio::spawn(tracker.track_future(async move {
            let _ending = ending;
            task.await;
        }));
    }

    /// Runs until a signal or the death of a task, then stops. `next_signal` names the signal it has waited for.
    pub async fn run(&self, mut next_signal: impl AsyncFnMut() -> &'static str) -> Outcome {
        tokio::select! {
            name = next_signal() => tracing::info!(signal = name, "stopping; a second signal exits at once"),
            () = self.tasks.died.notified() => {}
        }
        tokio::select! {
            outcome = self.stop() => outcome,
            name = next_signal() => {
                tracing::warn!(signal = name, "exiting at once; what is not delivered waits in the ledger");
                Outcome::Interrupted
            }
        }
    }

    /// Stops everything in order: soft stop, drain, hard stop, end.
    async fn stop(&self) -> Outcome {
        self.soft.cancel();
        self.work.close();
        self.services.close();
        if tokio::time::timeout(DRAIN_MAX, self.work.wait()).await.is_err() {
            let waiting = DRAIN_MAX.as_secs();
            tracing::warn!(drained_secs = waiting, "not all could be drained; it waits in the ledger");
        }
        self.hard.cancel();
        let ended = async {
            self.work.wait().await;
            self.services.wait().await;
        };
        let stuck = match tokio::time::timeout(END_MAX, ended).await {
            Ok(()) => None,
            Err(_) => Some(Fault::Stuck(self.tasks.running().clone())),
        };
        match self.tasks.fault().take().or(stuck) {
            Some(fault) => Outcome::Failed(fault),
            None => Outcome::Stopped,
        }
    }
}

impl Tasks {
    fn running(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives in a task and notices its end, however it comes.
struct Ending {
    name: Arc<str>,
    stop: CancellationToken,
    tasks: Arc<Tasks>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut running = self.tasks.running();
        if let Some(position) = running.iter().position(|name| *name == self.name) {
            running.remove(position);
        }
        drop(running);
        let fault = if std::thread::panicking() {
            Fault::Panicked(self.name.clone())
        } else if !self.stop.is_cancelled() {
            Fault::Ended(self.name.clone())
        } else {
            return;
        };
        tracing::error!(error = %fault, "stopping");
        self.tasks.fault().get_or_insert(fault);
        self.tasks.died.notify_one();
    }
}

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts catching the signals. To be called within the runtime, before anything that would be sorry to be killed.
    ///
    /// # Errors
    /// Where the system refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Where the time of day comes from.
#[derive(Clone, Debug)]
pub struct Clock(Hands);

#[derive(Clone, Debug)]
enum Hands {
    System,
    Runtime { start: UnixMillis, origin: Instant },
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Hands::System)
    }

    /// A clock that shows `start` now and goes on with the runtime's time: paused where that is paused. For tests.
    pub fn runtime(start: UnixMillis) -> Self {
        Self(Hands::Runtime { start, origin: Instant::now() })
    }

    /// A clock that stands at `start` until it is set. Clones are set together. For tests.
    pub fn manual(start: UnixMillis) -> Self {
        Self(Hands::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// The time of day.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Hands::System => system_now(),
            Hands::Runtime { start, origin } => start.plus(origin.elapsed()),
            Hands::Manual(millis) => UnixMillis(millis.load(Ordering::SeqCst)),
        }
    }

    /// Sets a manual clock; another goes on as it was.
    pub fn set(&self, time: UnixMillis) {
        if let Hands::Manual(millis) = &self.0 {
            millis.store(time.0, Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
fn system_now() -> UnixMillis {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => UnixMillis(0).plus(after),
        Err(before) => UnixMillis(0).minus(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A lifecycle with signals that the test sends.
    struct World {
        lifecycle: Lifecycle,
        signal: mpsc::Sender<&'static str>,
        signals: Option<mpsc::Receiver<&'static str>>,
        started: Instant,
    }

    impl World {
        fn new() -> Self {
            let (signal, signals) = mpsc::channel(2);
            Self { lifecycle: Lifecycle::new(), signal, signals: Some(signals), started: Instant::now() }
        }

        async fn signal(&self) {
            self.signal.send("SIGTERM").await.unwrap();
        }

        /// Runs to the end; with how many seconds that took.
        async fn run(&mut self) -> (Outcome, u64) {
            let mut signals = self.signals.take().unwrap();
            let outcome = self
                .lifecycle
                .run(async || match signals.recv().await {
                    Some(name) => name,
                    None => pending().await,
                })
                .await;
            (outcome, self.started.elapsed().as_secs())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_stops_work_softly_and_services_after_it() {
        let mut world = World::new();
        let (soft, hard) = (world.lifecycle.soft_stop(), world.lifecycle.hard_stop());
        let order = Arc::new(Mutex::new(vec![]));
        world.lifecycle.spawn("work", {
            let order = order.clone();
            async move {
                soft.cancelled().await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                order.lock().unwrap().push("work drained");
            }
        });
        world.lifecycle.spawn_service("service", {
            let order = order.clone();
            async move {
                hard.cancelled().await;
                order.lock().unwrap().push("service ended");
            }
        });
        world.signal().await;
        assert_eq!(world.run().await, (Outcome::Stopped, 3));
        assert_eq!(*order.lock().unwrap(), ["work drained", "service ended"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_takes_too_long_is_cut_and_still_a_good_end() {
        let mut world = World::new();
        let hard = world.lifecycle.hard_stop();
        world.lifecycle.spawn("work", async move { hard.cancelled().await });
        world.signal().await;
        assert_eq!(world.run().await, (Outcome::Stopped, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_hard_stop_is_named() {
        let mut world = World::new();
        world.lifecycle.spawn("deaf", pending());
        world.signal().await;
        let (outcome, secs) = world.run().await;
        assert_eq!(outcome, Outcome::Failed(Fault::Stuck(vec!["deaf".into()])));
        assert_eq!(secs, 25);
        let Outcome::Failed(fault) = outcome else { unreachable!() };
        assert_eq!(fault.to_string(), "did not end within 5 s of the hard stop: deaf");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_drain_at_once() {
        let mut world = World::new();
        world.lifecycle.spawn("slow", pending());
        world.signal().await;
        world.signal().await;
        assert_eq!(world.run().await, (Outcome::Interrupted, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_early_stops_the_others_and_is_named() {
        let mut world = World::new();
        let soft = world.lifecycle.soft_stop();
        let (told, stopped) = oneshot::channel();
        world.lifecycle.spawn("steady", async move {
            soft.cancelled().await;
            told.send(()).unwrap();
        });
        world.lifecycle.spawn("brief", async {});
        let (outcome, _) = world.run().await;
        assert_eq!(outcome, Outcome::Failed(Fault::Ended("brief".into())));
        stopped.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_ends_while_work_drains_is_a_fault() {
        let mut world = World::new();
        let soft = world.lifecycle.soft_stop();
        world.lifecycle.spawn("work", {
            let soft = soft.clone();
            async move {
                soft.cancelled().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        world.lifecycle.spawn_service("service", async move { soft.cancelled().await });
        world.signal().await;
        let (outcome, _) = world.run().await;
        assert_eq!(outcome, Outcome::Failed(Fault::Ended("service".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_anywhere_is_a_failure_even_while_stopping() {
        let mut world = World::new();
        let soft = world.lifecycle.soft_stop();
        world.lifecycle.spawn("clumsy", async move {
            soft.cancelled().await;
            panic!("as this test wants");
        });
        world.signal().await;
        let (outcome, _) = world.run().await;
        assert_eq!(outcome, Outcome::Failed(Fault::Panicked("clumsy".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_show_the_time_they_are_given() {
        let runtime = Clock::runtime(UnixMillis(1_000));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(runtime.now(), UnixMillis(1_250));

        let manual = Clock::manual(UnixMillis(1_000));
        let shared = manual.clone();
        manual.set(UnixMillis(5));
        assert_eq!(shared.now(), UnixMillis(5));

        let year_2024 = UnixMillis(1_704_067_200_000);
        assert!(Clock::system().now() > year_2024);
    }
}
