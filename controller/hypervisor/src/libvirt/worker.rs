//! Threads for calls that may hang.
//!
//! libvirt's calls block, and a hung libvirtd blocks them until the keepalive gives up. Each host has lanes of its
//! own, each with a few threads: a call waits for its answer no longer than its deadline; its thread is left to come
//! back whenever it does. A task whose caller has gone before it was begun is never begun.
//!
//! Four threads for a lane and one connection for a lane: libvirtd takes five requests of one client at a time, and
//! beyond that stops reading from it, keepalive included.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use evenkeel_engine::port::{Fault, PortError, PortResult};
use tokio::sync::oneshot;

/// Threads of one lane.
const THREADS: usize = 4;
/// An idle thread ends after this long.
const IDLE: Duration = Duration::from_secs(30);

type Task = Box<dyn FnOnce() + Send>;

/// A few threads that take tasks in order.
#[derive(Debug)]
pub(crate) struct Lane {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Instant, Task)>,
    idle: usize,
    threads: usize,
    /// Until when each running task was meant to be done.
    running: HashMap<u64, Instant>,
    next: u64,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("queued", &self.queue.len())
            .field("threads", &self.threads)
            .field("running", &self.running)
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

impl Lane {
    /// A lane without threads yet; they are started when there is work.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                state: Mutex::default(),
                wake: Condvar::new(),
            }),
        }
    }

    /// Runs a call and waits for it at most this long.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let (answer, answered) = oneshot::channel();
        self.submit(limit, move || {
            if !answer.is_closed() {
                let _ = answer.send(guarded(call));
            }
        })?;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(late(limit)),
        }
    }

    /// The same for a thread that may wait.
    pub(crate) fn call_blocking<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let begin_by = Instant::now() + limit;
        self.submit(limit, move || {
            if Instant::now() < begin_by {
                let _ = answer.send(guarded(call));
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
        task: impl FnOnce() + Send + 'static,
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
        if state.idle >= state.queue.len() {
            self.shared.wake.notify_one();
            return Ok(());
        }
        if state.threads < THREADS {
            state.threads += 1;
            let shared = self.shared.clone();
            let started = thread::Builder::new()
                .name(self.shared.name.clone())
                .spawn(move || shared.work());
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

    /// Takes no more tasks, forgets those not begun, lets the threads go.
    pub(crate) fn close(&self) {
        let forgotten = {
            let mut state = lock(&self.shared.state);
            state.closed = true;
            std::mem::take(&mut state.queue)
        };
        drop(forgotten);
        self.shared.wake.notify_all();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some((until, task)) = state.queue.pop_front() {
                let id = state.next;
                state.next += 1;
                state.running.insert(id, until);
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(task));
                state = lock(&self.state);
                state.running.remove(&id);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (back, waited) = self
                .wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
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
        format!("no answer within {} s", limit.as_secs_f32()),
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
        let lane = Lane::new("t");
        let (release, held) = mpsc::channel::<()>();
        let slow = lane.call(SHORT, move || {
            let _ = held.recv();
            Ok(())
        });
        assert_eq!(slow.await.unwrap_err().fault, Fault::TimedOut);
        assert_eq!(lane.call(SHORT, || Ok(7)).await.unwrap(), 7);
        drop(release);
    }

    #[tokio::test]
    async fn when_all_hang_the_next_is_refused_at_once_and_never_begun() {
        let lane = Lane::new("t");
        let begun = Arc::new(AtomicUsize::new(0));
        let mut releases = Vec::new();
        for _ in 0..THREADS {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            let begun = begun.clone();
            let slow = lane.call(SHORT, move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = held.recv();
                Ok(())
            });
            assert_eq!(slow.await.unwrap_err().fault, Fault::TimedOut);
        }
        let before = Instant::now();
        let refused = lane
            .call(Duration::from_secs(5), || Ok(()))
            .await
            .unwrap_err();
        assert_eq!(refused.fault, Fault::TimedOut);
        assert!(before.elapsed() < Duration::from_secs(1));
        drop(releases);
        assert_eq!(
            lane.call(Duration::from_secs(5), || Ok(1)).await.unwrap(),
            1
        );
        assert_eq!(begun.load(Ordering::SeqCst), THREADS);
    }

    #[tokio::test]
    async fn a_task_whose_caller_left_is_not_begun() {
        let lane = Lane::new("t");
        let mut releases = Vec::new();
        for _ in 0..THREADS {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            lane.submit(Duration::from_secs(5), move || {
                let _ = held.recv();
            })
            .unwrap();
        }
        let begun = Arc::new(AtomicUsize::new(0));
        let seen = begun.clone();
        let left = lane.call(SHORT, move || {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        assert_eq!(left.await.unwrap_err().fault, Fault::TimedOut);
        drop(releases);
        assert_eq!(
            lane.call(Duration::from_secs(5), || Ok(1)).await.unwrap(),
            1
        );
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let lane = Lane::new("t");
        let error = lane
            .call::<()>(Duration::from_secs(5), || panic!("deliberately"))
            .await
            .unwrap_err();
        assert_eq!(error.fault, Fault::Other);
        assert!(error.message.contains("deliberately"));
    }
}
