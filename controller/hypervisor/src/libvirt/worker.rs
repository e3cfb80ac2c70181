//! Threads for calls that may hang.
//!
//! libvirt's calls block, and a hung libvirtd blocks them until the keepalive gives up, or longer. Each host has lanes
//! of its own, each with a few threads: a call waits for its answer no longer than its deadline; its thread is left to
//! come back whenever it does. A task whose caller has gone before it was begun is never begun.
//!
//! Each thread has a tool of its own: its connection. libvirt's client library before 10.3 can't be trusted with two
//! threads calling over one connection at a time: when it closes under them it loses a wake-up and reads from a stack
//! that is gone (CVE-2024-4418, met here with 9.0 as a crash on every thaw of a frozen libvirtd). And libvirtd stops
//! reading from a client, keepalive included, that has more than five requests under way.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use evenkeel_engine::port::{Fault, PortError, PortResult};
use tokio::sync::oneshot;

/// Threads of one lane.
const THREADS: usize = 4;
/// An idle thread ends after this long, and puts its tool away.
const IDLE: Duration = Duration::from_secs(30);

/// What a thread does, with its tool if it has one yet.
type Task<T> = Box<dyn FnOnce(&mut Option<T>) + Send>;

/// A few threads that take tasks in order.
pub(crate) struct Lane<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    name: String,
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    queue: VecDeque<(Instant, Task<T>)>,
    /// Threads of an earlier generation end after their present task and count no more.
    generation: u64,
    idle: usize,
    threads: usize,
    /// Until when each running task was meant to be done.
    running: HashMap<u64, Instant>,
    next: u64,
    closed: bool,
}

impl<T> fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("Lane")
            .field("name", &self.shared.name)
            .field("queued", &state.queue.len())
            .field("threads", &state.threads)
            .field("running", &state.running)
            .finish_non_exhaustive()
    }
}

/// A mutex's content, also after a panic in another thread: every critical section here leaves it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call, a panic in it turned into an error.
pub(crate) fn guarded<T>(call: impl FnOnce() -> PortResult<T>) -> PortResult<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(PortError::new(
            Fault::Other,
            format!("the libvirt adapter panicked: {what}"),
        ))
    })
}

impl<T: 'static> Lane<T> {
    /// A lane without threads yet; they are started when there is work.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    generation: 0,
                    idle: 0,
                    threads: 0,
                    running: HashMap::new(),
                    next: 0,
                    closed: false,
                }),
                wake: Condvar::new(),
            }),
        }
    }

    /// Runs a call and waits for it at most this long.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&mut Option<T>) -> PortResult<R> + Send + 'static,
    ) -> PortResult<R> {
        let (answer, answered) = oneshot::channel();
        self.submit(limit, move |tool| {
            if !answer.is_closed() {
                let _ = answer.send(guarded(|| call(tool)));
            }
        })?;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(late(limit)),
        }
    }

    /// The same for a thread that may wait.
    pub(crate) fn call_blocking<R: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&mut Option<T>) -> PortResult<R> + Send + 'static,
    ) -> PortResult<R> {
        let (answer, answered) = mpsc::sync_channel(1);
        let begin_by = Instant::now() + limit;
        self.submit(limit, move |tool| {
            if Instant::now() < begin_by {
                let _ = answer.send(guarded(|| call(tool)));
            }
        })?;
        match answered.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ended()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(late(limit)),
        }
    }

    /// Queues a task that ought to be done within `limit`. Refused at once where all threads are overdue.
    pub(crate) fn submit(
        &self,
        limit: Duration,
        task: impl FnOnce(&mut Option<T>) + Send + 'static,
    ) -> PortResult<()> {
        let now = Instant::now();
        let mut state = lock(&self.shared.state);
        if state.closed {
            return Err(ended());
        }
        let crowded = state.threads >= THREADS && state.idle == 0;
        if crowded
            && state.running.len() >= THREADS
            && state.running.values().all(|until| *until < now)
        {
            return Err(PortError::new(
                Fault::TimedOut,
                format!("{THREADS} earlier calls to this host still wait for their answers"),
            ));
        }
        state.queue.push_back((now + limit, Box::new(task)));
        if state.idle < state.queue.len() && state.threads < THREADS {
            state.threads += 1;
            let shared = self.shared.clone();
            let generation = state.generation;
            let started = thread::Builder::new()
                .name(self.shared.name.clone())
                .spawn(move || shared.work(generation));
            if let Err(error) = started {
                state.threads -= 1;
                if state.threads == 0 {
                    state.queue.clear();
                    return Err(PortError::new(
                        Fault::Other,
                        format!("no thread for a call: {error}"),
                    ));
                }
            }
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Lets the present threads go, each after its present task, for their tools are broken. New ones take over.
    pub(crate) fn retire(&self) {
        self.shared.retire(false);
    }

    /// Takes no more tasks, forgets those not begun, lets the threads go.
    pub(crate) fn close(&self) {
        self.shared.retire(true);
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        self.shared.retire(true);
    }
}

impl<T> Shared<T> {
    fn retire(&self, close: bool) {
        let forgotten = {
            let mut state = lock(&self.state);
            state.closed |= close;
            state.generation += 1;
            state.idle = 0;
            state.threads = 0;
            state.running.clear();
            std::mem::take(&mut state.queue)
        };
        // Their callers hear that the connection is given up.
        drop(forgotten);
        self.wake.notify_all();
    }

    fn work(&self, generation: u64) {
        let mut tool = None;
        let mut state = lock(&self.state);
        // Whoever is of an earlier generation was taken out of the counts already.
        while state.generation == generation {
            if let Some((until, task)) = state.queue.pop_front() {
                let id = state.next;
                state.next += 1;
                state.running.insert(id, until);
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(|| task(&mut tool)));
                state = lock(&self.state);
                if state.generation == generation {
                    state.running.remove(&id);
                }
                continue;
            }
            state.idle += 1;
            let (back, waited) = self
                .wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            if state.generation != generation {
                break;
            }
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                break;
            }
        }
        drop(state);
        // Putting it away may take a while.
        drop(tool);
    }
}

fn ended() -> PortError {
    PortError::new(
        Fault::Unreachable,
        "the connection to this host is being given up",
    )
}

fn late(limit: Duration) -> PortError {
    PortError::new(
        Fault::TimedOut,
        format!("no answer within {:.1} s", limit.as_secs_f32()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_hung_call_blocks_nobody_else() {
        let lane = Lane::<u32>::new("t");
        let (release, held) = mpsc::channel::<()>();
        let slow = lane.call(SHORT, move |_| {
            let _ = held.recv();
            Ok(())
        });
        assert_eq!(slow.await.unwrap_err().fault, Fault::TimedOut);
        assert_eq!(lane.call(SHORT, |_| Ok(7)).await.unwrap(), 7);
        drop(release);
    }

    #[tokio::test]
    async fn when_all_hang_the_next_is_refused_at_once_and_never_begun() {
        let lane = Lane::<u32>::new("t");
        let begun = Arc::new(AtomicUsize::new(0));
        let mut releases = Vec::new();
        for _ in 0..THREADS {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            let begun = begun.clone();
            let slow = lane.call(SHORT, move |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = held.recv();
                Ok(())
            });
            assert_eq!(slow.await.unwrap_err().fault, Fault::TimedOut);
        }
        let before = Instant::now();
        let refused = lane
            .call(Duration::from_secs(5), |_| Ok(()))
            .await
            .unwrap_err();
        assert_eq!(refused.fault, Fault::TimedOut);
        assert!(before.elapsed() < Duration::from_secs(1));
        drop(releases);
        tokio::time::sleep(SHORT).await;
        assert_eq!(
            lane.call(Duration::from_secs(5), |_| Ok(1)).await.unwrap(),
            1
        );
        assert_eq!(begun.load(Ordering::SeqCst), THREADS);
    }

    #[tokio::test]
    async fn a_task_whose_caller_left_is_not_begun() {
        let lane = Lane::<u32>::new("t");
        let mut releases = Vec::new();
        for _ in 0..THREADS {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            lane.submit(Duration::from_secs(5), move |_| {
                let _ = held.recv();
            })
            .unwrap();
        }
        let begun = Arc::new(AtomicUsize::new(0));
        let seen = begun.clone();
        let left = lane.call(SHORT, move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        assert_eq!(left.await.unwrap_err().fault, Fault::TimedOut);
        drop(releases);
        assert_eq!(
            lane.call(Duration::from_secs(5), |_| Ok(1)).await.unwrap(),
            1
        );
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let lane = Lane::<u32>::new("t");
        let error = lane
            .call::<()>(Duration::from_secs(5), |_| panic!("deliberately"))
            .await
            .unwrap_err();
        assert_eq!(error.fault, Fault::Other);
        assert!(error.message.contains("deliberately"));
    }

    #[tokio::test]
    async fn a_retired_lane_works_with_new_threads_and_tools() {
        let lane = Lane::<u32>::new("t");
        let long = Duration::from_secs(5);
        lane.call(long, |tool| {
            *tool = Some(1);
            Ok(())
        })
        .await
        .unwrap();
        // Another thread may serve it as long as the first has not come to rest.
        while lane.call(long, |tool| Ok(*tool)).await.unwrap() != Some(1) {
            tokio::task::yield_now().await;
        }
        let mut releases = Vec::new();
        for _ in 0..THREADS {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            lane.submit(long, move |_| {
                let _ = held.recv();
            })
            .unwrap();
        }
        lane.retire();
        assert_eq!(lane.call(long, |tool| Ok(*tool)).await.unwrap(), None);
        drop(releases);
        lane.close();
        let refused = lane.call(long, |_| Ok(())).await.unwrap_err();
        assert_eq!(refused.fault, Fault::Unreachable);
    }
}
