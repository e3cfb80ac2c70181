//! What holds for all moves together: whether anything may start, how many at once, what each may have, and how long
//! those that are over are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::{
    Fleet, FleetStatus,
    kinds::{fleet::FLEET_NAME, profile::AppliedProfile},
    names::MigrationName,
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{LABEL_WISH_KIND, Timestamp, find},
};
use evenkeel_planner as planner;

use super::{Pass, Reconciler, show::keep};
use crate::{
    moves::running,
    statuses::{Standing, conditions},
    view::View,
};

/// A move that is over: its guest, when that was, and its name.
type Over<'a> = (&'a str, Timestamp, &'a MigrationName);

impl Reconciler {
    fn fleet(&self) -> Option<&Arc<Fleet>> {
        let fleet = self.declared.fleets.get(FLEET_NAME)?;
        fleet.metadata.deletion_timestamp.is_none().then_some(fleet)
    }

    /// Why nothing may start, whoever asks for it.
    pub(super) fn suspended(&self) -> Option<Cause> {
        let spec = &self.fleet()?.spec;
        spec.suspend.then(|| {
            Cause::new(
                Reason::Suspended,
                "the fleet is suspended: nothing new starts",
            )
            .hint("`evenkeel resume`, or `suspend: false` in the Fleet")
        })
    }

    /// Aborts what may be, where the Fleet says so.
    pub(super) fn abort_suspended(&mut self) {
        let aborts = self
            .fleet()
            .is_some_and(|fleet| fleet.spec.suspend && fleet.spec.abort);
        let Some(cause) = self.suspended().filter(|_| aborts && self.options.act) else {
            return;
        };
        for state in self.moves.values_mut() {
            state.ask_to_abort(Some(cause.clone()));
        }
    }

    /// How many moves there may be at once. What runs already keeps what it was given of the bandwidth.
    pub(super) fn limits(&self, ledger: &planner::Ledger) -> planner::Limits {
        let Some(fleet) = self.fleet() else {
            return planner::Limits::default();
        };
        let spec = &fleet.spec;
        let parallel = spec.parallel.map(|most| most.max(1).unsigned_abs());
        let effort = spec.effort.map(|looks| looks.max(0).unsigned_abs());
        let (Some(all), Some(share)) = (spec.bandwidth, spec.share()) else {
            return planner::Limits {
                parallel,
                share: None,
                effort,
            };
        };
        let given: u64 = self
            .moves
            .values()
            .filter(|state| state.running.is_some())
            .map(|state| {
                let profile = state.status.profile.as_ref();
                let own = profile.and_then(|profile| profile.spec.bandwidth);
                own.map_or(share.0, |own| own.0)
            })
            .sum();
        let under_way = u32::try_from(ledger.in_flight.len()).unwrap_or(u32::MAX);
        let more = all.0.saturating_sub(given) / share.0.max(1);
        let most = under_way.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        planner::Limits {
            parallel: Some(parallel.map_or(most, |own| own.min(most)).max(1)),
            share: Some(share),
            effort,
        }
    }

    /// The profile with no more than a move's share of the fleet's bandwidth.
    pub(super) fn shared_out(&self, mut profile: AppliedProfile) -> AppliedProfile {
        let share = self.fleet().and_then(|fleet| fleet.spec.share());
        let both = profile.spec.bandwidth.into_iter().chain(share);
        profile.spec.bandwidth = both.min_by_key(|own: &Bytes| own.0);
        profile
    }

    pub(super) fn show_fleets(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let moving = running(&self.moves).count() as i64;
        let declared = self.declared.clone();
        for (name, fleet) in &declared.fleets {
            let old = before.fleets.get(name.as_str());
            let status = self.fleet_status(fleet, moving, old.map(|old| &**old), pass.now);
            if let Some(ready) = find(&status.conditions, "Ready") {
                self.tell_condition("Fleet", name, ready, "Observe");
            }
            view.fleets.insert(name.as_str().into(), keep(old, status));
        }
        view.outdated = self.outdated(pass);
    }

    fn fleet_status(
        &self,
        fleet: &Fleet,
        moving: i64,
        before: Option<&FleetStatus>,
        now: Timestamp,
    ) -> FleetStatus {
        let name = fleet.metadata.name.as_deref().unwrap_or_default();
        let (generation, id) = (fleet.metadata.generation, fleet.spec.id.as_ref());
        let late = id.filter(|id| !self.options.from_files && **id != self.options.fleet);
        let cause = if name != FLEET_NAME {
            Cause::new(
                Reason::NotSupportedYet,
                format!("only the Fleet named {FLEET_NAME} counts, not {name}"),
            )
            .hint(format!("name it {FLEET_NAME}"))
        } else if let Some(cause) = self.suspended() {
            cause
        } else if let Some(id) = late {
            Cause::new(
                Reason::Waiting,
                format!(
                    "`id: {id}` is taken when the controller starts next; until then it is {}",
                    self.options.fleet
                ),
            )
        } else {
            Cause::new(Reason::AsExpected, "its limits hold for every move")
        };
        let fine = cause.reason == Reason::AsExpected;
        let standing = Standing {
            ready: fine.into(),
            reconciling: cause.reason == Reason::Waiting,
            stalled: cause.reason == Reason::NotSupportedYet,
            cause,
        };
        let old = before
            .or(fleet.status.as_ref())
            .map_or(&[][..], |before| &before.conditions);
        FleetStatus {
            observed_generation: generation,
            conditions: conditions(Vec::new(), &standing, generation, now, old),
            moving,
        }
    }

    /// Moves made for wishes that are over, and for which the Fleet's history has no more room. Those that keep a wish
    /// from trying the same again stay.
    fn outdated(&self, pass: &Pass) -> BTreeSet<MigrationName> {
        let Some(history) = self.fleet().map(|fleet| &fleet.spec.history) else {
            return BTreeSet::new();
        };
        let made = |name: &MigrationName| {
            let object = self.declared.migrations.get(name.as_str());
            let labels = object.and_then(|object| object.metadata.labels.as_ref());
            labels.is_some_and(|labels| labels.contains_key(LABEL_WISH_KIND))
        };
        let over = self
            .moves
            .iter()
            .filter(|(name, state)| state.is_final() && state.declared && made(name));
        let mut over: Vec<Over<'_>> = over
            .filter_map(|(name, state)| {
                let end = state.status.completion_time.as_ref()?;
                Some((state.spec.guest.as_str(), end.0, name))
            })
            .collect();
        over.sort_by(|one, other| (other.1, other.2).cmp(&(one.1, one.2)));
        let most = usize::try_from(history.per_guest).unwrap_or(0);
        let ttl = i64::try_from(history.ttl.0.as_secs()).unwrap_or(i64::MAX);
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        let mut outdated = BTreeSet::new();
        for (guest, end, name) in over {
            let rank = kept.entry(guest).or_default();
            *rank += 1;
            let old = pass.now.as_second() - end.as_second() > ttl;
            if (old || *rank > most) && !self.asked_again(name, &self.moves[name], pass) {
                outdated.insert(name.clone());
            }
        }
        outdated
    }
}
