//! The lease against a server in memory with real resource versions, on virtual time.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    error::Error,
    lease::{Contender, Guard, LeaseTimes, Lost},
};

#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    /// Answers to writes are lost after they took effect.
    loses_answers: bool,
    /// No request is answered.
    silent: bool,
}

type Shared = Arc<Mutex<Server>>;

fn client(server: &Shared) -> Client {
    let server = server.clone();
    Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(answer(&server, request).await) }
        }),
        "default",
    )
}

async fn answer(server: &Shared, request: http::Request<Body>) -> http::Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    // The way there and back takes a moment, and both orders happen.
    sleep(Duration::from_millis(
        u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 32,
    ))
    .await;
    if server.lock().unwrap().silent {
        std::future::pending::<()>().await;
    }
    let (code, text, lost) = {
        let mut server = server.lock().unwrap();
        let lost = server.loses_answers && parts.method != http::Method::GET;
        let (code, text) = server.decide(&parts.method, &body);
        (code, text, lost)
    };
    if lost {
        std::future::pending::<()>().await;
    }
    sleep(Duration::from_millis(
        u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 32,
    ))
    .await;
    http::Response::builder()
        .status(code)
        .body(Full::new(Bytes::from(text.to_string())))
        .unwrap()
}

impl Server {
    fn store(&mut self, mut lease: Value) -> (u16, Value) {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(lease.clone());
        (200, lease)
    }

    fn decide(&mut self, method: &http::Method, body: &[u8]) -> (u16, Value) {
        let refuse = |code: u16, reason: &str| {
            let details = json!({"name": "l", "kind": "leases"});
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason,
                "message": reason, "details": details});
            (code, status)
        };
        match *method {
            http::Method::GET => match &self.lease {
                Some(lease) => (200, lease.clone()),
                None => refuse(404, "NotFound"),
            },
            http::Method::POST if self.lease.is_some() => refuse(409, "AlreadyExists"),
            http::Method::POST => self.store(serde_json::from_slice(body).unwrap()),
            http::Method::PUT => {
                let new: Value = serde_json::from_slice(body).unwrap();
                match &self.lease {
                    None => refuse(404, "NotFound"),
                    Some(old)
                        if old["metadata"]["resourceVersion"]
                            != new["metadata"]["resourceVersion"] =>
                    {
                        refuse(409, "Conflict")
                    }
                    Some(_) => self.store(new),
                }
            }
            _ => refuse(405, "MethodNotAllowed"),
        }
    }
}

fn contender(server: &Shared, name: &str) -> Contender {
    Contender::new(client(server), "default", "l", name, LeaseTimes::default())
}

#[tokio::test(start_paused = true)]
async fn contenders_never_hold_it_at_once() {
    let server = Shared::default();
    // Who acts, and how often somebody did.
    let acting = Arc::new(Mutex::new((None::<String>, 0u32, Vec::<u64>::new())));
    let mut tasks = Vec::new();
    for name in ["a", "b", "c"] {
        let (server, acting) = (server.clone(), acting.clone());
        tasks.push(tokio::spawn(async move {
            let mut contender = contender(&server, name);
            loop {
                let mut held = contender.acquire(|_| {}).await;
                let until = watch::Sender::new(Some(held.until()));
                let guard = Guard::new(until.subscribe());
                let draw = uuid::Uuid::new_v4().as_bytes()[0];
                let stay = Duration::from_millis(u64::from(draw) * 40);
                let end = Instant::now() + stay;
                {
                    let mut acting = acting.lock().unwrap();
                    acting.2.push(held.epoch);
                }
                let act = async {
                    while Instant::now() < end {
                        // Only while the guard lets us, which is what writes do.
                        let allowed = guard.call(Duration::from_millis(5), async {
                            let before = acting.lock().unwrap().0.replace(name.to_owned());
                            assert_eq!(before, None, "{name} found another one acting");
                            sleep(Duration::from_millis(3)).await;
                            acting.lock().unwrap().0 = None;
                            Ok(())
                        });
                        let _ = allowed.await;
                        sleep(Duration::from_millis(200)).await;
                    }
                };
                tokio::select! {
                    _ = contender.keep(&mut held, &until, |_| {}) => {}
                    () = act => {}
                }
                until.send_replace(None);
                acting.lock().unwrap().1 += 1;
                // One in four dies holding it.
                if !draw.is_multiple_of(4) {
                    let _ = contender.release(held).await;
                } else {
                    contender = self::contender(&server, name);
                }
                if acting.lock().unwrap().1 >= 1000 {
                    return;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let acting = acting.lock().unwrap();
    assert!(acting.1 >= 1000);
    assert!(
        acting.2.windows(2).all(|pair| pair[0] < pair[1]),
        "epochs rise"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_followed_after_the_duration_and_not_before() {
    let server = Shared::default();
    let dead = contender(&server, "a").look().await.unwrap().unwrap();
    let mut other = contender(&server, "b");
    let begun = Instant::now();
    let held = other.acquire(|_| {}).await;
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(12) && waited < Duration::from_secs(14),
        "{waited:?}"
    );
    assert!(held.epoch > dead.epoch);
    assert!(dead.until() < begun + Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let server = Shared::default();
    let mut first = contender(&server, "a");
    let held = first.acquire(|_| {}).await;
    first.release(held).await.unwrap();
    let begun = Instant::now();
    contender(&server, "b").acquire(|_| {}).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_holder_stops_when_no_renewal_gets_through() {
    let server = Shared::default();
    let mut holder = contender(&server, "a");
    let mut held = holder.acquire(|_| {}).await;
    let until = watch::Sender::new(Some(held.until()));
    let guard = Guard::new(until.subscribe());
    server.lock().unwrap().silent = true;
    let begun = Instant::now();
    let lost = holder.keep(&mut held, &until, |_| {}).await;
    assert!(matches!(lost, Lost::NotRenewed(_)));
    assert!(
        begun.elapsed() <= Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let refused = guard.call(Duration::from_secs(1), async { Ok(()) }).await;
    assert!(matches!(refused, Err(Error::NoLease)));
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_outlast_the_lease() {
    let until = watch::Sender::new(Some(Instant::now() + Duration::from_secs(2)));
    let guard = Guard::new(until.subscribe());
    let begun = Instant::now();
    let hung = guard.call(
        Duration::from_secs(10),
        std::future::pending::<kube::Result<()>>(),
    );
    assert!(matches!(hung.await, Err(Error::TimedOut(_))));
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn renewals_whose_answers_are_lost_are_picked_up() {
    let server = Shared::default();
    let mut holder = contender(&server, "a");
    let mut held = holder.acquire(|_| {}).await;
    server.lock().unwrap().loses_answers = true;
    assert!(matches!(
        holder.renew(&mut held).await,
        Err(Error::TimedOut(_))
    ));
    server.lock().unwrap().loses_answers = false;
    assert!(matches!(
        holder.renew(&mut held).await,
        Err(Error::Conflict(_))
    ));
    assert!(matches!(holder.renew(&mut held).await, Ok(Ok(()))));
    // And when it is given back meanwhile, it is free all the same.
    server.lock().unwrap().loses_answers = true;
    assert!(matches!(
        holder.renew(&mut held).await,
        Err(Error::TimedOut(_))
    ));
    server.lock().unwrap().loses_answers = false;
    holder.release(held).await.unwrap();
    assert!(contender(&server, "b").look().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_or_deleted_by_others_is_lost() {
    for deleted in [true, false] {
        let server = Shared::default();
        let mut holder = contender(&server, "a");
        let mut held = holder.acquire(|_| {}).await;
        {
            let mut server = server.lock().unwrap();
            if deleted {
                server.lease = None;
            } else {
                let lease = server.lease.as_mut().unwrap();
                lease["spec"]["holderIdentity"] = "b".into();
                lease["metadata"]["resourceVersion"] = "99".into();
            }
        }
        let lost = holder.renew(&mut held).await.unwrap();
        assert!(matches!(lost, Err(Lost::Taken(_))), "{lost:?}");
    }
}
