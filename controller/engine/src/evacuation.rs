//! Guests that a drain has shut down instead of moved: when each is asked, given up, or started again. What was done is
//! kept in the guest's own metadata (`ShutdownMark`), written before the guest is asked, so that nobody is started of
//! whom it is not known that it was us who had it shut down.

use std::sync::Arc;

use evenkeel_crds::{
    kinds::guest::Restart,
    names::GuestName,
    quantity::Span,
    reason::{Cause, Reason},
    shared::Timestamp,
};
use uuid::Uuid;

use crate::{
    claim::Claims,
    life::{Place, failure},
    port::{Activity, DomainFacts, PortError, ShutdownMark, ShutdownStage, Why},
};

/// Reasons of a guest itself why it can't be moved while it runs.
pub(crate) fn is_of_the_guest(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DeviceNotMigratable | Reason::UnknownFeature | Reason::DiskNotMovable
    )
}

/// What drains want of a running guest: that it is shut down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `HostDrain/patch-rack-a`.
    pub(crate) by: String,
    pub(crate) timeout: Span,
    pub(crate) restart: bool,
    /// What has to leave the host first.
    pub(crate) waits: Option<String>,
}

/// A guest on a host that answers, seen nowhere else and not being moved.
#[derive(Debug, Clone)]
pub(crate) struct Case<'a> {
    pub(crate) name: &'a GuestName,
    pub(crate) host: &'a str,
    pub(crate) fleet: &'a str,
    pub(crate) facts: &'a DomainFacts,
    pub(crate) wanted: Option<&'a Wanted>,
    /// Whether a drain wants its host empty, whatever of this guest.
    pub(crate) drained: bool,
    /// Why it can't be started where it is now.
    pub(crate) in_the_way: Option<Cause>,
    pub(crate) now: Timestamp,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// It is noted, then asked.
    Ask(ShutdownMark),
    /// It is asked again: it may have been too busy to listen.
    AskAgain,
    /// It is noted how far it is.
    Note(ShutdownMark),
    /// Nothing is to be known of it any more.
    Forget,
    /// It is started, and nothing is to be known of it any more.
    Start,
}

/// What is done next and what is said meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) act: Option<Act>,
    pub(crate) cause: Option<Cause>,
}

impl Step {
    fn act(act: Act) -> Self {
        Self {
            act: Some(act),
            cause: None,
        }
    }

    fn wait(cause: Cause) -> Self {
        Self {
            act: None,
            cause: Some(cause),
        }
    }

    fn saying(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }
}

/// What is next for a guest.
pub(crate) fn decide(case: &Case<'_>) -> Step {
    let facts = case.facts;
    let mark = facts
        .shutdown_mark
        .as_ref()
        .filter(|mark| mark.fleet == case.fleet);
    match mark {
        None => ask(case),
        Some(mark) if mark.host.as_str() != case.host => Step::act(Act::Forget),
        Some(mark) if facts.activity.active() => active(case, mark),
        Some(mark) => stopped(case, mark),
    }
}

fn ask(case: &Case<'_>) -> Step {
    let Some(wanted) = case.wanted.filter(|_| case.facts.activity.active()) else {
        return Step::default();
    };
    let name = case.name;
    if let Some(others) = &wanted.waits {
        return Step::wait(Cause::new(
            Reason::ShutdownPending,
            format!("{name} is shut down for {} once {others}", wanted.by),
        ));
    }
    let mark = ShutdownMark {
        fleet: case.fleet.to_owned(),
        by: wanted.by.clone(),
        host: case.host.into(),
        time: case.now.to_string(),
        timeout: wanted.timeout.0.as_secs(),
        restart: wanted.restart,
        stage: ShutdownStage::Asked,
    };
    let cause = asked(name, &mark, mark.timeout);
    Step::act(Act::Ask(mark)).saying(cause)
}

fn asked(name: &GuestName, mark: &ShutdownMark, left: u64) -> Cause {
    Cause::new(
        Reason::ShuttingDown,
        format!(
            "{name} is asked to shut down for {}; it has {left} s left of {} s",
            mark.by, mark.timeout
        ),
    )
}

/// Seconds that it still has; nothing where its time is over. A time that can't be read, or that lies ahead of our
/// clock, has only begun.
fn left(mark: &ShutdownMark, now: Timestamp) -> Option<u64> {
    let since = mark.time.parse::<Timestamp>().map_or(0, |time| {
        u64::try_from(now.as_second() - time.as_second()).unwrap_or(0)
    });
    mark.timeout.checked_sub(since).filter(|left| *left > 0)
}

fn active(case: &Case<'_>, mark: &ShutdownMark) -> Step {
    let (name, host) = (case.name, case.host);
    match (mark.stage, left(mark, case.now), case.wanted) {
        // Somebody started it. If a drain still wants it off, it is asked anew.
        (ShutdownStage::Down, ..) => Step::act(Act::Forget),
        (ShutdownStage::Asked, Some(left), wanted) => {
            let rounded = left.div_ceil(30) * 30;
            let cause = asked(name, mark, rounded.min(mark.timeout));
            match wanted {
                Some(_) => Step::act(Act::AskAgain).saying(cause),
                None => Step::wait(cause),
            }
        }
        (ShutdownStage::Asked, None, Some(_)) => Step::act(Act::Note(ShutdownMark {
            stage: ShutdownStage::TimedOut,
            ..mark.clone()
        }))
        .saying(timed_out(name, host, mark)),
        (ShutdownStage::TimedOut, _, Some(wanted))
            if wanted.by == mark.by && wanted.timeout.0.as_secs() == mark.timeout =>
        {
            Step::wait(timed_out(name, host, mark))
        }
        (ShutdownStage::Asked | ShutdownStage::TimedOut, ..) => Step::act(Act::Forget),
    }
}

fn timed_out(name: &GuestName, host: &str, mark: &ShutdownMark) -> Cause {
    Cause::new(
        Reason::ShutdownTimedOut,
        format!(
            "{name} was asked to shut down on {host} and did not within {} s; it runs on",
            mark.timeout
        ),
    )
}

fn stopped(case: &Case<'_>, mark: &ShutdownMark) -> Step {
    let (name, facts) = (case.name, case.facts);
    match mark.stage {
        ShutdownStage::Asked
            if facts.activity == Activity::ShutOff && facts.why == Why::Shutdown =>
        {
            Step::act(Act::Note(ShutdownMark {
                stage: ShutdownStage::Down,
                ..mark.clone()
            }))
            .saying(Cause::new(
                Reason::ShuttingDown,
                format!("{name} has shut down for {}", mark.by),
            ))
        }
        ShutdownStage::Down if case.drained => Step::default(),
        ShutdownStage::Down if mark.restart => {
            let pending = |why: &str| {
                Cause::new(
                    Reason::RestartPending,
                    format!(
                        "{name} was shut down for {}, which is over: it is started on {}{why}",
                        mark.by, case.host
                    ),
                )
            };
            match &case.in_the_way {
                Some(cause) => Step::wait(pending(&format!(" once it can be: {}", cause.message))),
                None => Step::act(Act::Start).saying(pending("")),
            }
        }
        // Ended by somebody else, or too late to be sure that it was not; or it is to stay off.
        ShutdownStage::Asked | ShutdownStage::Down | ShutdownStage::TimedOut => {
            Step::act(Act::Forget)
        }
    }
}

/// Whether a guest that a drain shuts down is started again, as its Guest says.
pub(crate) fn restarts(restart: Option<Restart>) -> bool {
    restart == Some(Restart::AfterDrain)
}

/// What is to be done to one guest.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) guest: Uuid,
    pub(crate) place: Place,
    /// Every other host, for a start.
    pub(crate) others: Vec<Place>,
    pub(crate) act: Act,
    /// What its metadata said when that was decided.
    pub(crate) seen: Option<ShutdownMark>,
}

/// Does it, where the host's claim is ours and a fresh look shows what it was decided by; nothing where it shows
/// something else, which is decided anew.
///
/// # Errors
/// Why it was not done, or may not have been.
pub(crate) async fn act(claims: &Arc<Claims>, order: &Order) -> Result<(), Cause> {
    let Place {
        host, hypervisor, ..
    } = &order.place;
    let failed = |what: &'static str| move |error: PortError| failure(host, what, &error);
    let claim = claims.hold(host, hypervisor).await?;
    claim.prove().await?;
    let facts = hypervisor.look(order.guest).await;
    let facts = facts.map_err(failed("looking at the guest"))?;
    let Some(facts) = facts.filter(|facts| {
        facts.persistent && facts.mark.is_none() && !facts.job && facts.shutdown_mark == order.seen
    }) else {
        return Ok(());
    };
    let note = |mark: Option<ShutdownMark>| async move {
        let noted = hypervisor.set_shutdown_mark(order.guest, mark.as_ref());
        noted.await.map_err(failed("noting the shutdown"))
    };
    match &order.act {
        Act::Ask(_) | Act::AskAgain if !facts.activity.active() => Ok(()),
        Act::Ask(mark) => {
            note(Some(mark.clone())).await?;
            claim.prove().await?;
            let done = hypervisor.shutdown(order.guest).await;
            done.map_err(failed("asking the guest to shut down"))
        }
        Act::AskAgain => {
            let done = hypervisor.shutdown(order.guest).await;
            done.map_err(failed("asking the guest to shut down"))
        }
        Act::Note(mark) => match mark.stage == ShutdownStage::Down && facts.activity.active() {
            true => Ok(()),
            false => note(Some(mark.clone())).await,
        },
        Act::Forget => note(None).await,
        Act::Start if facts.activity.active() => Ok(()),
        Act::Start => {
            unfinished(order).await?;
            for other in &order.others {
                let there = other.hypervisor.glance(order.guest).await;
                let there =
                    there.map_err(|error| failure(&other.host, "looking for the guest", &error))?;
                if there.is_some() {
                    return Err(Cause::new(
                        Reason::DefinedTwice,
                        format!("{} has {} too: it is not started", other.host, facts.name),
                    ));
                }
            }
            claim.prove().await?;
            let started = hypervisor.start(order.guest).await;
            started.map_err(failed("starting the guest"))?;
            note(None).await
        }
    }
}

/// A move that is not finished decides about its guest itself.
async fn unfinished(order: &Order) -> Result<(), Cause> {
    let all = std::iter::once(&order.place).chain(&order.others);
    for Place {
        host, hypervisor, ..
    } in all
    {
        let journals = hypervisor.journals().await;
        let journals = journals.map_err(|error| failure(host, "reading the journals", &error))?;
        let names = order.guest.to_string();
        let unfinished = journals.iter().any(|entry| {
            crate::journal::Journal::parse(&entry.text).map_or_else(
                || entry.text.contains(&names),
                |journal| journal.guest == order.guest && journal.kept_until.is_none(),
            )
        });
        if unfinished {
            return Err(Cause::new(
                Reason::GuestBusy,
                format!("a move of the guest is not finished, says a journal on {host}"),
            ));
        }
    }
    Ok(())
}
