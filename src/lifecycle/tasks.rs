//! The tasks of the process and how they stop.
//!
//! ```text
//! running --first signal, or a task that dies--> gatherers end, by 5 s --> delivery drains, by 15 s
//!         --> services end, by 17 s --> tasks that were cut end, by 18 s --> the ledger closes, by 20 s --> outcome
//!
//! second signal: the outcome at once
//! ```
//!
//! Tasks stop by duty, in the order of the flow. At its *soft stop* a task begins nothing new and finishes its work in
//! progress. At its *hard stop* it ends at once. Delivery drains after the gatherers have ended, so it has all records.
//! Services run until then, so the drain can be observed. Nothing is lost either way: undelivered records stay in the
//! ledger.
//!
//! Every task is spawned here. A task that ends before its stop is a fault of the program. A process without one of its
//! tasks would look healthy and not be healthy, so the process stops and names the task.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Maximum time of a whole stop. Kubernetes kills a process 30 s after its SIGTERM; a third of that is a reserve for a
/// busy machine.
pub const STOP_MAX: Duration = Duration::from_secs(20);

/// Time by which tasks must have ended, from the beginning of the stop. The rest of [`STOP_MAX`] is for the last sync
/// to a slow disk.
const END_MAX: Duration = Duration::from_secs(18);

/// The duty of a task. Tasks are stopped in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Brings events into the ledger: discovery and polling.
    Gather,
    /// Delivers records from the ledger.
    Deliver,
    /// Shows the state: HTTP and gauges.
    Serve,
}

impl Duty {
    const IN_ORDER: [Self; 3] = [Self::Gather, Self::Deliver, Self::Serve];

    /// Returns the time of the hard stop, from the beginning of the whole stop. A duty that ends sooner leaves its time
    /// to the next one.
    const fn time_max(self) -> Duration {
        Duration::from_secs(match self {
            // Enough for the commits under way: a few syncs on a slow disk.
            Self::Gather => 5,
            // The longest, because only delivery can use more time: the default timeout of an export that hangs, and
            // another attempt.
            Self::Deliver => 15,
            // A client may take 2 s to read its answer.
            Self::Serve => 17,
        })
    }
}

/// The two stops of a duty.
#[derive(Clone, Default, Debug)]
pub struct Stops {
    /// Begin nothing new, and finish the work in progress.
    pub soft: CancellationToken,
    /// End at once.
    pub hard: CancellationToken,
}

/// The tasks of the process and their stops. Clones share them.
#[derive(Clone, Default)]
pub struct Lifecycle {
    /// The tasks by duty, in order.
    duties: [DutyTasks; 3],
    running: Arc<RunningTasks>,
}

/// The tasks of one duty.
#[derive(Clone, Default)]
struct DutyTasks {
    stops: Stops,
    tracker: TaskTracker,
}

/// All tasks that run, and the first that died.
#[derive(Default)]
struct RunningTasks {
    /// The names of the tasks that run, in the order in which they were spawned.
    names: Mutex<Vec<Arc<str>>>,
    /// The first task that died.
    fault: Mutex<Option<TaskFault>>,
    died: Notify,
    /// Whether the process exits at once. Tasks then end wherever they are, without a fault.
    is_exiting: AtomicBool,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every task has ended as asked. Records that were not delivered in time stay in the ledger.
    Stopped,
    /// A second signal came. The process must exit at once, even if tasks still run.
    Interrupted,
    /// A task failed.
    Failed(TaskFault),
}

/// A fault of a task.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFault {
    /// The task ended before its stop.
    #[error("task {0} ended before its stop")]
    Ended(Arc<str>),
    /// The task panicked. The panic's message is on stderr.
    #[error("task {0} panicked")]
    Panicked(Arc<str>),
    /// These tasks did not end in time after the hard stop.
    #[error("tasks did not end within {} s of the stop: {}", END_MAX.as_secs(), .0.join(", "))]
    Stuck(Vec<Arc<str>>),
}

impl Lifecycle {
    /// Creates the lifecycle of a process without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the stops of a duty.
    pub fn stops(&self, duty: Duty) -> &Stops {
        &self.tasks_of(duty).stops
    }

    fn tasks_of(&self, duty: Duty) -> &DutyTasks {
        &self.duties[duty as usize]
    }

    /// Spawns a task that runs until its duty's soft stop.
    pub fn spawn(&self, duty: Duty, name: impl Into<Arc<str>>, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_part(duty, name, self.stops(duty).soft.clone(), task);
    }

    /// Spawns a task that may be stopped before its duty. `stop` is a child of the duty's soft stop.
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place that spawns: the task is tracked, and its death is noticed"
    )]
    pub fn spawn_part(
        &self,
        duty: Duty,
        name: impl Into<Arc<str>>,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let name = name.into();
        self.running.names().push(name.clone());
        let guard = TaskGuard { name, stop, running: self.running.clone() };
        tokio::spawn(self.tasks_of(duty).tracker.track_future(async move {
            let _guard = guard;
            task.await;
        }));
    }

    /// Runs until a signal or the death of a task, then stops. `next_signal` waits for a signal and returns its name.
    /// `announce` is called before the first task ends, and `close` is awaited after the last one has ended.
    pub async fn run(
        &self,
        mut next_signal: impl AsyncFnMut() -> &'static str,
        announce: impl FnOnce(),
        close: impl Future<Output = ()>,
    ) -> RunOutcome {
        tokio::select! {
            name = next_signal() => tracing::info!(signal = name, "stopping; a second signal exits at once"),
            () = self.running.died.notified() => {}
        }
        announce();
        tokio::select! {
            outcome = self.stop(close) => outcome,
            name = next_signal() => {
                self.running.is_exiting.store(true, Ordering::Relaxed);
                tracing::warn!(signal = name, "exiting at once; undelivered records stay in the ledger");
                RunOutcome::Interrupted
            }
        }
    }

    /// Stops one duty after the other, then awaits `close`.
    async fn stop(&self, close: impl Future<Output = ()>) -> RunOutcome {
        let begun = Instant::now();
        for duty in Duty::IN_ORDER {
            let DutyTasks { stops, tracker } = self.tasks_of(duty);
            stops.soft.cancel();
            tracker.close();
            if timeout_at(begun + duty.time_max(), tracker.wait()).await.is_err() {
                tracing::warn!(
                    after_seconds = duty.time_max().as_secs(),
                    tasks = self.running.names().join(", "),
                    "tasks did not finish in time; the next start continues their work, and nothing is lost"
                );
            }
            stops.hard.cancel();
        }
        let ended = async {
            for duty in &self.duties {
                duty.tracker.wait().await;
            }
        };
        let stuck = match timeout_at(begun + END_MAX, ended).await {
            Ok(()) => None,
            Err(_) => Some(TaskFault::Stuck(self.running.names().clone())),
        };
        if timeout_at(begun + STOP_MAX, close).await.is_err() {
            tracing::warn!("the last sync did not finish in time; acknowledged writes are on disk");
        }
        match self.running.fault().take().or(stuck) {
            Some(fault) => RunOutcome::Failed(fault),
            None => RunOutcome::Stopped,
        }
    }
}

impl RunningTasks {
    fn names(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.names.lock()
    }

    fn fault(&self) -> MutexGuard<'_, Option<TaskFault>> {
        self.fault.lock()
    }
}

/// Held by a task. Its drop notices the end of the task, a panic included.
struct TaskGuard {
    name: Arc<str>,
    stop: CancellationToken,
    running: Arc<RunningTasks>,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let mut names = self.running.names();
        if let Some(position) = names.iter().position(|name| *name == self.name) {
            names.remove(position);
        }
        drop(names);
        let fault = if std::thread::panicking() {
            TaskFault::Panicked(self.name.clone())
        } else if !self.stop.is_cancelled() && !self.running.is_exiting.load(Ordering::Relaxed) {
            TaskFault::Ended(self.name.clone())
        } else {
            return;
        };
        tracing::error!(error = %fault, "stopping");
        self.running.fault().get_or_insert(fault);
        self.running.died.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;

    use super::*;

    /// A lifecycle with signals that the test sends, and a log of events.
    struct TestLifecycle {
        lifecycle: Lifecycle,
        signal: mpsc::Sender<&'static str>,
        signals: mpsc::Receiver<&'static str>,
        started: Instant,
        log: EventLog,
    }

    /// The events of a test, each with its time in seconds.
    #[derive(Clone, Default)]
    struct EventLog(Arc<Mutex<Vec<(u64, String)>>>);

    impl EventLog {
        fn note(&self, started: Instant, event: impl Into<String>) {
            self.0.lock().push((started.elapsed().as_secs(), event.into()));
        }
    }

    const NAMES: [(Duty, &str); 3] =
        [(Duty::Gather, "gatherer"), (Duty::Deliver, "delivery"), (Duty::Serve, "service")];

    impl TestLifecycle {
        fn new() -> Self {
            let (signal, signals) = mpsc::channel(2);
            let (lifecycle, log) = (Lifecycle::new(), EventLog::default());
            Self { lifecycle, signal, signals, started: Instant::now(), log }
        }

        /// Creates a lifecycle with a task for each duty. The task ends this many seconds after its soft stop, or at
        /// its hard stop.
        fn with_tasks(secs: [u64; 3]) -> Self {
            let test = Self::new();
            for ((duty, name), secs) in NAMES.into_iter().zip(secs) {
                let (stops, started, log) = (test.lifecycle.stops(duty).clone(), test.started, test.log.clone());
                test.lifecycle.spawn(duty, name, async move {
                    stops.soft.cancelled().await;
                    log.note(started, format!("{name} stops"));
                    let finished = stops.hard.run_until_cancelled(tokio::time::sleep(Duration::from_secs(secs))).await;
                    log.note(
                        started,
                        format!("{name} {}", if finished.is_some() { "has finished" } else { "was cut" }),
                    );
                });
            }
            test
        }

        async fn signal(&self) {
            self.signal.send("SIGTERM").await.unwrap();
        }

        /// Runs to the end, and returns the outcome and the time in seconds. Closing takes `close_secs`.
        async fn run(&mut self, close_secs: u64) -> (RunOutcome, u64) {
            let Self { lifecycle, signals, started, log, .. } = self;
            let next_signal = async || match signals.recv().await {
                Some(name) => name,
                None => pending().await,
            };
            let close = async {
                tokio::time::sleep(Duration::from_secs(close_secs)).await;
                log.note(*started, "closed");
            };
            let outcome = lifecycle.run(next_signal, || log.note(*started, "announced"), close).await;
            (outcome, started.elapsed().as_secs())
        }

        fn happened(&self) -> Vec<String> {
            self.log.0.lock().iter().map(|(secs, what)| format!("{secs} {what}")).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_stops_the_duties_one_after_the_other_in_the_order_of_the_flow() {
        let mut test = TestLifecycle::with_tasks([2, 3, 1]);
        test.signal().await;
        assert_eq!(test.run(1).await, (RunOutcome::Stopped, 7));
        assert_eq!(
            test.happened(),
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
        let mut test = TestLifecycle::with_tasks([3600; 3]);
        test.signal().await;
        assert_eq!(test.run(3600).await, (RunOutcome::Stopped, STOP_MAX.as_secs()));
        assert_eq!(
            test.happened(),
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
        let mut test = TestLifecycle::with_tasks([0, 14, 0]);
        test.signal().await;
        assert_eq!(test.run(0).await, (RunOutcome::Stopped, 14));
        assert!(test.happened().contains(&"14 delivery has finished".to_owned()), "{:?}", test.happened());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_hard_stop_is_named_and_the_rest_is_closed() {
        let mut test = TestLifecycle::new();
        test.lifecycle.spawn(Duty::Gather, "deaf", pending());
        test.signal().await;
        let (outcome, secs) = test.run(1).await;
        assert_eq!(outcome, RunOutcome::Failed(TaskFault::Stuck(vec!["deaf".into()])));
        assert_eq!((secs, test.happened()), (19, vec!["0 announced".to_owned(), "19 closed".to_owned()]));
        let RunOutcome::Failed(fault) = outcome else { unreachable!() };
        assert_eq!(fault.to_string(), "tasks did not end within 18 s of the stop: deaf");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_stop_at_once_whatever_it_waits_for() {
        for duty in Duty::IN_ORDER {
            let mut test = TestLifecycle::new();
            test.lifecycle.spawn(duty, "slow", pending());
            test.signal().await;
            test.signal().await;
            assert_eq!(test.run(0).await, (RunOutcome::Interrupted, 0));
        }
        let mut test = TestLifecycle::new();
        test.signal().await;
        test.signal().await;
        assert_eq!(test.run(1).await, (RunOutcome::Interrupted, 0), "closing is cut too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_because_the_process_exits_at_once_is_no_fault() {
        let mut test = TestLifecycle::new();
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        test.lifecycle.spawn(Duty::Gather, "slow", pending());
        let (guard, end) = (ended.clone().drop_guard(), cut.clone());
        test.lifecycle.spawn(Duty::Serve, "service", async move {
            let _guard = guard;
            end.cancelled().await;
        });
        test.signal().await;
        test.signal().await;
        assert_eq!(test.run(0).await, (RunOutcome::Interrupted, 0));
        cut.cancel();
        ended.cancelled().await;
        while test.lifecycle.running.names().len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*test.lifecycle.running.fault(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_early_stops_the_others_as_a_signal_does_and_is_named() {
        for (duty, _) in NAMES {
            let mut test = TestLifecycle::with_tasks([0; 3]);
            test.lifecycle.spawn(duty, "brief", async {});
            let (outcome, _) = test.run(0).await;
            assert_eq!(outcome, RunOutcome::Failed(TaskFault::Ended("brief".into())));
            assert_eq!((&*test.happened()[0], test.happened().len()), ("0 announced", 8), "{:?}", test.happened());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_or_service_that_ends_before_its_turn_to_stop_is_a_fault() {
        for duty in [Duty::Deliver, Duty::Serve] {
            let mut test = TestLifecycle::with_tasks([1, 1, 0]);
            let first = test.lifecycle.stops(Duty::Gather).soft.clone();
            test.lifecycle.spawn(duty, "hasty", async move { first.cancelled().await });
            test.signal().await;
            let (outcome, _) = test.run(0).await;
            assert_eq!(outcome, RunOutcome::Failed(TaskFault::Ended("hasty".into())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_anywhere_is_a_failure_even_while_stopping() {
        let mut test = TestLifecycle::new();
        let stop = test.lifecycle.stops(Duty::Gather).soft.clone();
        test.lifecycle.spawn(Duty::Gather, "clumsy", async move {
            stop.cancelled().await;
            panic!("as this test wants");
        });
        test.signal().await;
        let (outcome, _) = test.run(0).await;
        assert_eq!(outcome, RunOutcome::Failed(TaskFault::Panicked("clumsy".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_spawned_while_its_duty_stops_is_waited_for() {
        let mut test = TestLifecycle::with_tasks([2, 0, 0]);
        let (lifecycle, log, started) = (test.lifecycle.clone(), test.log.clone(), test.started);
        test.lifecycle.spawn(Duty::Gather, "parent", async move {
            lifecycle.stops(Duty::Gather).soft.cancelled().await;
            lifecycle.spawn(Duty::Gather, "child", async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                log.note(started, "child has finished");
            });
        });
        test.signal().await;
        assert_eq!(test.run(0).await, (RunOutcome::Stopped, 3));
        assert!(test.happened().contains(&"3 delivery stops".to_owned()), "{:?}", test.happened());
    }
}
