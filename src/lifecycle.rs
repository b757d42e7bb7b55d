//! How the process lives and ends: its tasks, their stops, its signals, its clock.
//!
//! ```text
//! running --first signal, or a task that dies--> gatherers end, by 5 s --> delivery tasks drain, by 15 s --> services end, by 17 s
//!         --> whoever was cut ends, by 18 s --> the ledger closes, by 20 s --> outcome
//!
//! second signal: the outcome at once
//! ```
//!
//! Tasks stop in the order of the flow, each kind for itself: one whose *soft stop* comes begins nothing new and finishes
//! what it has in hand; at its *hard stop* it ends where it stands. A delivery task that drains has everything before it that
//! will come, and the drain can be watched, because services go on until it is over. Nothing is lost either way: what is
//! not delivered waits in the ledger.
//!
//! Every task is spawned here. One that ends without having been asked to is a fault of the program, and a process that
//! lives on without one of its parts looks healthy and is not: it stops, and says which task it was.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cognito_auth_core::event::UnixMillis;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stop may take in all, whatever is slow. Kubernetes kills 30 s after its SIGTERM; a third of that is left to
/// a machine that is busy.
pub const STOP_MAX: Duration = Duration::from_secs(20);

/// When tasks have to have ended, counted from the beginning of the stop. What is left of [`STOP_MAX`] is for a last sync
/// to a slow disk.
const END_MAX: Duration = Duration::from_secs(18);

/// What a task is there for. In this order tasks are stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Brings events into the ledger: discovery and polling.
    Gather,
    /// Takes them out of it.
    Deliver,
    /// Shows what goes on: HTTP, gauges.
    Serve,
}

impl Duty {
    const IN_ORDER: [Self; 3] = [Self::Gather, Self::Deliver, Self::Serve];

    /// When the hard stop comes, counted from the beginning of the whole stop. A duty that is done sooner leaves its time
    /// to the next.
    const fn time_max(self) -> Duration {
        Duration::from_secs(match self {
            // Only commits that were sent are waited for: a few syncs, on a disk that is slow.
            Self::Gather => 5,
            // The longest, because only here does time buy anything: the default timeout of one export that hangs, and
            // another try.
            Self::Deliver => 15,
            // An answer that is being read may take 2 s.
            Self::Serve => 17,
        })
    }
}

/// The two stops of a duty.
#[derive(Clone, Default, Debug)]
pub struct Stops {
    /// Begin nothing new, finish what is in hand.
    pub soft: CancellationToken,
    /// End now.
    pub hard: CancellationToken,
}

/// The process's tasks and stops. Clones share them.
#[derive(Clone, Default)]
pub struct Lifecycle {
    /// By duty, in order.
    crews: [Crew; 3],
    tasks: Arc<Tasks>,
}

/// The tasks of one duty.
#[derive(Clone, Default)]
struct Crew {
    stops: Stops,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Tasks {
    /// The names of the tasks that run, in the order in which they were spawned.
    running: Mutex<Vec<Arc<str>>>,
    /// The first task that died.
    fault: Mutex<Option<TaskFault>>,
    died: Notify,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// As asked: every task has ended. What could not be drained in time waits in the ledger.
    Stopped,
    /// A second signal came: the process is to exit at once, whatever still runs.
    Interrupted,
    /// Through a fault of the program.
    Failed(TaskFault),
}

/// What went wrong with a task.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFault {
    /// It ended without having been asked to.
    #[error("task {0} ended before it was asked to")]
    Ended(Arc<str>),
    /// It panicked; the panic's message is on stderr.
    #[error("task {0} panicked")]
    Panicked(Arc<str>),
    /// They did not end in time, although cut.
    #[error("did not end within {} s of the stop: {}", END_MAX.as_secs(), .0.join(", "))]
    Stuck(Vec<Arc<str>>),
}

impl Lifecycle {
    /// A process that runs, without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stops of a duty.
    pub fn stops(&self, duty: Duty) -> &Stops {
        &self.crew(duty).stops
    }

    fn crew(&self, duty: Duty) -> &Crew {
        &self.crews[duty as usize]
    }

    /// Spawns a task that works until its duty's soft stop.
    pub fn spawn(&self, duty: Duty, name: impl Into<Arc<str>>, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_part(duty, name, self.stops(duty).soft.clone(), task);
    }

    /// The same for a task that may be stopped before its duty: `stop` is a child of the duty's soft stop.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns: the task is tracked, and missed when it dies"
    )]
    pub fn spawn_part(
        &self,
        duty: Duty,
        name: impl Into<Arc<str>>,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let crew = self.crew(duty);
        let name = name.into();
        self.tasks.running().push(name.clone());
        let ending = Ending { name, stop, tasks: self.tasks.clone() };
        tokio::spawn(crew.tasks.track_future(async move {
            let _ending = ending;
            task.await;
        }));
    }

    /// Runs until a signal or the death of a task, then stops. `next_signal` names the signal it has waited for;
    /// `announce` is done before anything ends; `close` is done last, when every task has ended.
    pub async fn run(
        &self,
        mut next_signal: impl AsyncFnMut() -> &'static str,
        announce: impl FnOnce(),
        close: impl Future<Output = ()>,
    ) -> RunOutcome {
        tokio::select! {
            name = next_signal() => tracing::info!(signal = name, "stopping; a second signal exits at once"),
            () = self.tasks.died.notified() => {}
        }
        announce();
        tokio::select! {
            outcome = self.stop(close) => outcome,
            name = next_signal() => {
                tracing::warn!(signal = name, "exiting at once; what is not delivered waits in the ledger");
                RunOutcome::Interrupted
            }
        }
    }

    /// Stops one duty after the other, then closes.
    async fn stop(&self, close: impl Future<Output = ()>) -> RunOutcome {
        let begun = Instant::now();
        for duty in Duty::IN_ORDER {
            let crew = self.crew(duty);
            crew.stops.soft.cancel();
            crew.tasks.close();
            if timeout_at(begun + duty.time_max(), crew.tasks.wait()).await.is_err() {
                tracing::warn!(
                    after_seconds = duty.time_max().as_secs(),
                    tasks = self.tasks.running().join(", "),
                    "not everything could be finished in time; nothing is lost, it is done after the next start"
                );
            }
            crew.stops.hard.cancel();
        }
        let ended = async {
            for crew in &self.crews {
                crew.tasks.wait().await;
            }
        };
        let stuck = match timeout_at(begun + END_MAX, ended).await {
            Ok(()) => None,
            Err(_) => Some(TaskFault::Stuck(self.tasks.running().clone())),
        };
        if timeout_at(begun + STOP_MAX, close).await.is_err() {
            tracing::warn!("the disk is too slow for a last sync; what was acknowledged is on it already");
        }
        match self.tasks.fault().take().or(stuck) {
            Some(fault) => RunOutcome::Failed(fault),
            None => RunOutcome::Stopped,
        }
    }
}

impl Tasks {
    fn running(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<TaskFault>> {
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
            TaskFault::Panicked(self.name.clone())
        } else if !self.stop.is_cancelled() {
            TaskFault::Ended(self.name.clone())
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

/// SIGHUP, caught from the moment this is made: read the configuration again.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Starts catching the signal, which would end the process otherwise. To be called within the runtime.
    ///
    /// # Errors
    /// Where the system refuses a handler.
    pub fn catch() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one; several that come meanwhile are one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
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

    use tokio::sync::mpsc;

    use super::*;

    /// A lifecycle with signals that the test sends, and what happened, in order.
    struct TestLifecycle {
        lifecycle: Lifecycle,
        signal: mpsc::Sender<&'static str>,
        signals: mpsc::Receiver<&'static str>,
        started: Instant,
        diary: Diary,
    }

    /// What happened, and after how many seconds.
    #[derive(Clone, Default)]
    struct Diary(Arc<Mutex<Vec<(u64, String)>>>);

    impl Diary {
        fn note(&self, started: Instant, what: impl Into<String>) {
            self.0.lock().unwrap().push((started.elapsed().as_secs(), what.into()));
        }
    }

    const NAMES: [(Duty, &str); 3] =
        [(Duty::Gather, "gatherer"), (Duty::Deliver, "delivery"), (Duty::Serve, "service")];

    impl TestLifecycle {
        fn new() -> Self {
            let (signal, signals) = mpsc::channel(2);
            let (lifecycle, diary) = (Lifecycle::new(), Diary::default());
            Self { lifecycle, signal, signals, started: Instant::now(), diary }
        }

        /// A world in which each duty has a task that takes so long after its soft stop, unless its hard stop comes first.
        fn with_tasks(secs: [u64; 3]) -> Self {
            let world = Self::new();
            for ((duty, name), secs) in NAMES.into_iter().zip(secs) {
                let (stops, started, diary) = (world.lifecycle.stops(duty).clone(), world.started, world.diary.clone());
                world.lifecycle.spawn(duty, name, async move {
                    stops.soft.cancelled().await;
                    diary.note(started, format!("{name} stops"));
                    let how = stops.hard.run_until_cancelled(tokio::time::sleep(Duration::from_secs(secs))).await;
                    diary.note(started, format!("{name} {}", if how.is_some() { "has finished" } else { "was cut" }));
                });
            }
            world
        }

        async fn signal(&self) {
            self.signal.send("SIGTERM").await.unwrap();
        }

        /// Runs to the end; with how many seconds that took. To close takes `close_secs`.
        async fn run(&mut self, close_secs: u64) -> (RunOutcome, u64) {
            let Self { lifecycle, signals, started, diary, .. } = self;
            let next_signal = async || match signals.recv().await {
                Some(name) => name,
                None => pending().await,
            };
            let close = async {
                tokio::time::sleep(Duration::from_secs(close_secs)).await;
                diary.note(*started, "closed");
            };
            let outcome = lifecycle.run(next_signal, || diary.note(*started, "announced"), close).await;
            (outcome, started.elapsed().as_secs())
        }

        fn happened(&self) -> Vec<String> {
            self.diary.0.lock().unwrap().iter().map(|(secs, what)| format!("{secs} {what}")).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_stops_the_duties_one_after_the_other_in_the_order_of_the_flow() {
        let mut world = TestLifecycle::with_tasks([2, 3, 1]);
        world.signal().await;
        assert_eq!(world.run(1).await, (RunOutcome::Stopped, 7));
        assert_eq!(
            world.happened(),
            [
                "0 announced",
                "0 gatherer stops",
                "2 gatherer has finished",
                "2 delivery stops",
                "5 delivery has finished",
                "5 service stops",
                "6 service has finished",
                "7 closed",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_too_long_is_cut_so_that_the_whole_stop_ends_in_time_and_still_well() {
        let mut world = TestLifecycle::with_tasks([3600; 3]);
        world.signal().await;
        assert_eq!(world.run(3600).await, (RunOutcome::Stopped, STOP_MAX.as_secs()));
        assert_eq!(
            world.happened(),
            [
                "0 announced",
                "0 gatherer stops",
                "5 gatherer was cut",
                "5 delivery stops",
                "15 delivery was cut",
                "15 service stops",
                "17 service was cut",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_that_is_done_soon_leaves_its_time_to_the_next() {
        let mut world = TestLifecycle::with_tasks([0, 14, 0]);
        world.signal().await;
        assert_eq!(world.run(0).await, (RunOutcome::Stopped, 14));
        assert!(world.happened().contains(&"14 delivery has finished".to_owned()), "{:?}", world.happened());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_hard_stop_is_named_and_the_rest_is_closed() {
        let mut world = TestLifecycle::new();
        world.lifecycle.spawn(Duty::Gather, "deaf", pending());
        world.signal().await;
        let (outcome, secs) = world.run(1).await;
        assert_eq!(outcome, RunOutcome::Failed(TaskFault::Stuck(vec!["deaf".into()])));
        assert_eq!((secs, world.happened()), (19, vec!["0 announced".to_owned(), "19 closed".to_owned()]));
        let RunOutcome::Failed(fault) = outcome else { unreachable!() };
        assert_eq!(fault.to_string(), "did not end within 18 s of the stop: deaf");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_stop_at_once_whatever_it_waits_for() {
        for duty in Duty::IN_ORDER {
            let mut world = TestLifecycle::new();
            world.lifecycle.spawn(duty, "slow", pending());
            world.signal().await;
            world.signal().await;
            assert_eq!(world.run(0).await, (RunOutcome::Interrupted, 0));
        }
        let mut world = TestLifecycle::new();
        world.signal().await;
        world.signal().await;
        assert_eq!(world.run(1).await, (RunOutcome::Interrupted, 0), "closing is cut too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_early_stops_the_others_as_a_signal_does_and_is_named() {
        for (duty, _) in NAMES {
            let mut world = TestLifecycle::with_tasks([0; 3]);
            world.lifecycle.spawn(duty, "brief", async {});
            let (outcome, _) = world.run(0).await;
            assert_eq!(outcome, RunOutcome::Failed(TaskFault::Ended("brief".into())));
            assert_eq!((&*world.happened()[0], world.happened().len()), ("0 announced", 8), "{:?}", world.happened());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_or_service_that_ends_before_its_turn_to_stop_is_a_fault() {
        for duty in [Duty::Deliver, Duty::Serve] {
            let mut world = TestLifecycle::with_tasks([1, 1, 0]);
            let first = world.lifecycle.stops(Duty::Gather).soft.clone();
            world.lifecycle.spawn(duty, "hasty", async move { first.cancelled().await });
            world.signal().await;
            let (outcome, _) = world.run(0).await;
            assert_eq!(outcome, RunOutcome::Failed(TaskFault::Ended("hasty".into())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_anywhere_is_a_failure_even_while_stopping() {
        let mut world = TestLifecycle::new();
        let stop = world.lifecycle.stops(Duty::Gather).soft.clone();
        world.lifecycle.spawn(Duty::Gather, "clumsy", async move {
            stop.cancelled().await;
            panic!("as this test wants");
        });
        world.signal().await;
        let (outcome, _) = world.run(0).await;
        assert_eq!(outcome, RunOutcome::Failed(TaskFault::Panicked("clumsy".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_spawned_while_its_duty_stops_is_waited_for() {
        let mut world = TestLifecycle::with_tasks([2, 0, 0]);
        let (lifecycle, diary, started) = (world.lifecycle.clone(), world.diary.clone(), world.started);
        world.lifecycle.spawn(Duty::Gather, "parent", async move {
            lifecycle.stops(Duty::Gather).soft.cancelled().await;
            lifecycle.spawn(Duty::Gather, "child", async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                diary.note(started, "child has finished");
            });
        });
        world.signal().await;
        assert_eq!(world.run(0).await, (RunOutcome::Stopped, 3));
        assert!(world.happened().contains(&"3 delivery stops".to_owned()), "{:?}", world.happened());
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
