//! Whether the process lives and is of use: `/healthz` and `/readyz`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{error::Error, kinds::Kind};

/// A watch that fails for so long is worth a restart of the process.
const BLIND: Duration = Duration::from_secs(300);
/// A failing watch fails at least this often; silence for longer means that it works.
const QUIET: Duration = Duration::from_secs(90);
/// Whoever waits for the lease or holds it hears of it at least this often.
const LEASE: Duration = Duration::from_secs(30);

/// What the parts of the controller say about themselves.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    installed: bool,
    lease: Option<Instant>,
    leading: bool,
    /// Per kind: the first and the last failure since it last worked.
    failing: [Option<(Instant, Instant)>; Kind::ALL.len()],
}

impl Health {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn installed(&self) {
        self.change(|state| state.installed = true);
    }

    pub(crate) fn lease_known(&self) {
        self.change(|state| state.lease = Some(Instant::now()));
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.change(|state| state.leading = leading);
    }

    pub(crate) fn watched(&self, kind: Kind) {
        self.change(|state| state.failing[kind as usize] = None);
    }

    /// True for the first failure in a row.
    pub(crate) fn watch_failed(&self, kind: Kind) -> bool {
        let now = Instant::now();
        self.change(|state| {
            let failing = &mut state.failing[kind as usize];
            let first = match *failing {
                Some((first, last)) if now.duration_since(last) < QUIET => first,
                _ => now,
            };
            *failing = Some((first, now));
            first == now
        })
    }

    /// Whether the process should go on; else why not.
    pub(crate) fn live(&self, now: Instant) -> Result<String, String> {
        self.change(|state| {
            for kind in Kind::ALL {
                if let Some((first, last)) = state.failing[kind as usize]
                    && now.saturating_duration_since(last) < QUIET
                    && last.duration_since(first) > BLIND
                {
                    let seconds = last.duration_since(first).as_secs();
                    return Err(format!(
                        "the watch of {} has failed for {seconds} s",
                        kind.word()
                    ));
                }
            }
            Ok(if state.leading {
                "leading"
            } else {
                "waiting for the lease"
            }
            .to_owned())
        })
    }

    /// Whether the process is of use: it acts, or would if the lease came to it.
    pub(crate) fn ready(&self, now: Instant) -> Result<String, String> {
        self.change(|state| {
            if !state.installed {
                return Err(
                    "the kinds are not installed, or the API server does not answer".to_owned(),
                );
            }
            match state.lease {
                Some(heard) if now.saturating_duration_since(heard) < LEASE => {
                    Ok("ready".to_owned())
                }
                _ => Err("nothing is known of the lease".to_owned()),
            }
        })
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>) -> String {
    // A probe takes a moment; whoever holds connections open must not take the others' place for long.
    let places = Arc::new(Semaphore::new(64));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return "no place for connections".to_owned();
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = health.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = answer(&health, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .keep_alive(false);
            let connection = server.serve_connection(TokioIo::new(stream), answer);
            let _ = timeout(Duration::from_secs(10), connection).await;
            drop(place);
        });
    }
}

fn answer(health: &Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let now = Instant::now();
    let (status, text) = match request.uri().path() {
        "/healthz" | "/livez" => told(health.live(now)),
        "/readyz" => told(health.ready(now)),
        _ => (StatusCode::NOT_FOUND, "not found".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
    *response.status_mut() = status;
    response
}

fn told(result: Result<String, String>) -> (StatusCode, String) {
    match result {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// Opens the port.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::Health(address, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_fails_for_long_is_not_alive_and_one_that_recovers_silently_is() {
        let health = Health::default();
        assert!(health.live(Instant::now()).is_ok());
        assert!(health.watch_failed(Kind::Host));
        assert!(!health.watch_failed(Kind::Host));
        let now = Instant::now();
        health.change(|state| state.failing[Kind::Host as usize] = Some((now, now + BLIND * 2)));
        assert!(health.live(now + BLIND * 2).is_err());
        assert!(health.live(now + BLIND * 2 + QUIET).is_ok());
        health.watched(Kind::Host);
        assert!(health.live(now + BLIND * 2).is_ok());
    }

    #[test]
    fn ready_once_the_kinds_are_there_and_the_lease_is_known() {
        let health = Health::default();
        assert!(health.ready(Instant::now()).is_err());
        health.installed();
        assert!(health.ready(Instant::now()).is_err());
        health.lease_known();
        assert!(health.ready(Instant::now()).is_ok());
        assert!(health.ready(Instant::now() + LEASE).is_err());
    }
}
