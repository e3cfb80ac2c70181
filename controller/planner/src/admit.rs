//! The last look at a move before it starts, by the same rules by which it was planned.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::{Banned, Board};
use crate::capacity::When;
use crate::explain;
use crate::fit::fits;
use crate::model::{Fleet, GuestId, HostId, Ledger, Wish};
use crate::rules::Strictness;
use crate::view::View;
use crate::wishes::{self, Ask, For, at_source};

/// Whether this one move may start now: the guest is free, nothing speaks against the target, there is room at it for
/// the guest and for its disks in these pools, and a slot at both ends. The move itself is not in the ledger yet.
///
/// Of the wishes only what binds everybody counts: drained hosts and placements; where guests have to stay together,
/// those that wishes ask to leave are taken to leave. What holds only some (`Guest::held`) and a drain's own limits are the plan's
/// business and not looked at: an explicit move may pass the one, and the other belong to a wish.
///
/// # Errors
///
/// The first reason why not, safety first.
pub fn admit(
    fleet: &Fleet,
    wishes: &[Wish],
    ledger: &Ledger,
    guest: GuestId,
    target: HostId,
    pools: &BTreeMap<String, String>,
    now: Duration,
) -> Result<(), Cause> {
    let facts = &fleet.guests[guest.at()];
    let flight = ledger.in_flight.iter().find(|flight| flight.guest == guest);
    if let Some(flight) = flight {
        return Err(explain::busy(fleet, flight));
    }
    if facts.host == target {
        return Err(explain::already_there(fleet, facts));
    }
    if let Some(cause) = at_source(fleet, facts).or_else(|| facts.immovable.clone()) {
        return Err(cause);
    }
    let asked = wishes::sort(fleet, wishes, ledger);
    let view = View::new(fleet, wishes, ledger, &asked, &[guest], now);
    if let Some(rest) = view.rest(guest) {
        let left = explain::span(rest.until.saturating_sub(now));
        let message = format!("{} rests {left} more after {}", facts.name, rest.cause);
        return Err(Cause::new(Reason::BackingOff, message).hint(rest.cause.hint.clone()));
    }
    let banned = Banned::new();
    let board = Board::new(&view, &banned, 0);
    let by = RequestedBy::default();
    let ask = Ask {
        by: &by,
        also: Vec::new(),
        guest,
        target: Some(target),
        overrides: pools,
        kind: For::Explicit,
        strictness: Strictness::default(),
        room_for: None,
    };
    let mut refused = None;
    fits(
        &board,
        &ask,
        target,
        When::Now,
        &mut Vec::new(),
        &mut |refusal| {
            refused = Some(explain::refusal(&board, &ask, target, refusal));
            false
        },
    );
    if let Some(cause) = refused {
        return Err(cause);
    }
    let slots = |taken: u32, limit: u32, way: &str, host: HostId| {
        let name = &fleet.hosts[host.at()].name;
        let message = format!(
            "{taken} of {limit} moves {way} {name} are under way: {} waits",
            facts.name
        );
        if taken < limit {
            Ok(())
        } else {
            Err(Cause::new(Reason::SlotsTaken, message))
        }
    };
    let (under_way, most) = (ledger.in_flight.len(), fleet.limits.parallel);
    if let Some(most) = most.filter(|most| under_way >= *most as usize) {
        let message = format!(
            "{under_way} of {most} moves of the whole fleet are under way: {} waits",
            facts.name
        );
        return Err(Cause::new(Reason::ParallelLimit, message));
    }
    let source = facts.host;
    let most = (
        fleet.hosts[source.at()].max_outbound,
        fleet.hosts[target.at()].max_inbound,
    );
    slots(view.outbound[source.at()], most.0, "from", source)?;
    slots(view.inbound[target.at()], most.1, "to", target)
}
