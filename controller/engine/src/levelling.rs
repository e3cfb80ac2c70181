//! What a policy has in mind: the plan that it has frozen, how far that is, and how level its hosts were when they were
//! last looked at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::{
    RebalancePolicy, RebalancePolicySpec,
    kinds::{
        migration::DiskPlacement,
        policy::{BalanceMove, BalancePlan, Mode, PLAN_CAP, PastPlan},
    },
    names::{GuestName, HostName},
    quantity::{Bytes, Span},
    reason::Cause,
};
use evenkeel_planner::{self as planner, Balance};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{guests::Guests, question::policies::Searched};

/// What a policy has in mind.
#[derive(Debug, Default)]
pub(crate) struct Levelling {
    /// The object that it is about; absent until what an earlier process wrote on it can be read.
    pub(crate) uid: Option<String>,
    /// Whether `threshold.start` was passed and `threshold.stop` not reached since.
    pub(crate) begun: bool,
    pub(crate) frozen: Option<Frozen>,
    pub(crate) last_plan: Option<PastPlan>,
    pub(crate) level: Option<Level>,
    /// When hosts were last looked at, and what was asked then.
    pub(crate) searched: Option<(Instant, Balance)>,
    pub(crate) searching: bool,
    /// The search that told how level they are.
    pub(crate) told_by: Option<Arc<Searched>>,
    /// Whether they were looked at since there is no plan.
    pub(crate) looked: bool,
    /// Whether the fleet is another than when hosts were last looked at.
    pub(crate) fleet_changed: bool,
    /// Since when nothing of the plan runs and nothing of it can start.
    pub(crate) hopeless: Option<Instant>,
}

/// How level hosts were.
#[derive(Debug)]
pub(crate) struct Level {
    /// Hundredths of a percent point.
    pub(crate) now: u32,
    pub(crate) predicted: u32,
    pub(crate) cause: Option<Cause>,
    pub(crate) skipped: Vec<(String, Cause)>,
}

/// A plan that stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    pub(crate) id: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) bytes: Bytes,
    pub(crate) duration: Option<Span>,
    /// The search that found it; absent where an earlier process had written it on the policy.
    pub(crate) found_by: Option<Arc<Searched>>,
}

/// A move of a plan, by names that last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub(crate) guest: Uuid,
    pub(crate) name: GuestName,
    pub(crate) source: HostName,
    pub(crate) target: HostName,
    /// Where the guest goes on to by a later one, if it only stops over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) onward: Option<HostName>,
    /// For each disk the pool at the target.
    pub(crate) pools: BTreeMap<String, String>,
    pub(crate) bytes: Bytes,
    /// Expected start, from the plan's own.
    pub(crate) start: Duration,
    /// Expected time it takes; absent where no rate is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration: Option<Duration>,
    /// How much of that its disks take; absent where only they or only memory travels, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disks: Option<Duration>,
}

/// The moves that a plan has for a policy. Of very many the first: what the status can't show nobody can approve.
pub(crate) fn steps(policy: &str, fleet: &planner::Fleet, plan: &planner::Plan) -> Vec<Step> {
    let mine = plan
        .moves
        .iter()
        .filter(|planned| planned.by.kind == "RebalancePolicy" && planned.by.name == policy)
        .take(PLAN_CAP);
    let mine: Vec<&planner::Move> = mine.collect();
    // Half of a guest's way is none.
    let whole = |planned: &&&planner::Move| {
        let mut own = mine.iter().filter(|other| other.guest == planned.guest);
        own.any(|other| other.onward.is_none())
    };
    let host = |id: planner::HostId| fleet.hosts[id.at()].name.clone();
    let step = |planned: &&planner::Move| {
        let guest = &fleet.guests[planned.guest.at()];
        Some(Step {
            guest: Uuid::parse_str(&guest.uuid).ok()?,
            name: guest.name.clone(),
            source: host(planned.source),
            target: host(planned.target),
            onward: planned.onward.map(host),
            pools: planned.pools.clone(),
            bytes: planned.bytes,
            start: planned.start,
            duration: planned.duration,
            disks: planned.disks,
        })
    };
    mine.iter().filter(whole).filter_map(step).collect()
}

/// What a status says of a length of time: people and the next process need no less than seconds.
fn seconds(time: Duration) -> Span {
    Span(Duration::from_secs(
        time.as_secs() + u64::from(time.subsec_nanos() > 0),
    ))
}

/// The name of a plan: it changes with the moves and with what the policy asks for.
fn id(spec: &RebalancePolicySpec, steps: &[Step]) -> String {
    let asked = RebalancePolicySpec {
        mode: Mode::default(),
        approve: None,
        suspend: false,
        ..spec.clone()
    };
    let mut digest = Sha256::new();
    // A spec is plain data that always can be written.
    digest.update(serde_json::to_vec(&asked).unwrap_or_default());
    for step in steps {
        let ends = [step.name.as_str(), &step.source, &step.target];
        let pools = step.pools.iter().flat_map(|(disk, pool)| [disk, pool]);
        for part in ends.into_iter().chain(pools.map(String::as_str)) {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
    }
    let digest = digest.finalize();
    digest[..5]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Frozen {
    /// What a search has found for a policy; nothing where it has no move.
    pub(crate) fn of(policy: &RebalancePolicy, name: &str, search: &Arc<Searched>) -> Option<Self> {
        let steps = steps(name, &search.input.fleet, &search.plan);
        Self::made(&policy.spec, steps, Some(search.clone()))
    }

    /// The plan that an earlier process had written on the policy, where that is still what the policy asks for and every
    /// guest is still there.
    pub(crate) fn recalled(policy: &RebalancePolicy, guests: &Guests) -> Option<Self> {
        let told = policy.status.as_ref()?.plan.as_ref()?;
        let steps = told.moves.iter().map(|step| {
            let (guest, entry) = guests.find(&step.guest)?;
            let pools = step.disks.iter();
            Some(Step {
                guest,
                name: entry.name.clone(),
                source: step.source.as_str().into(),
                target: step.target.as_str().into(),
                onward: step.onward.as_deref().map(Into::into),
                pools: pools
                    .map(|disk| (disk.target.clone(), disk.pool.clone()))
                    .collect(),
                bytes: step.bytes,
                start: step.start.0,
                duration: step.duration.map(|span| span.0),
                disks: None,
            })
        });
        let steps = steps.collect::<Option<Vec<Step>>>()?;
        Self::made(&policy.spec, steps, None).filter(|plan| plan.id == told.id)
    }

    fn made(
        spec: &RebalancePolicySpec,
        steps: Vec<Step>,
        found_by: Option<Arc<Searched>>,
    ) -> Option<Self> {
        let mut ends = steps.iter().map(|step| Some(step.start + step.duration?));
        let end = ends.try_fold(Duration::ZERO, |last, end| Some(last.max(end?)));
        Some(Self {
            id: id(spec, &steps),
            bytes: Bytes(steps.iter().map(|step| step.bytes.0).sum()),
            duration: end.map(seconds),
            steps,
            found_by,
        })
        .filter(|plan| !plan.steps.is_empty())
    }

    /// Whether it is still a plan for what the policy asks.
    pub(crate) fn is_for(&self, spec: &RebalancePolicySpec) -> bool {
        id(spec, &self.steps) == self.id
    }

    /// The moves of a guest, one after the other: two where it stops over.
    pub(crate) fn way(&self, guest: Uuid) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.guest == guest)
    }

    /// Where a guest of it stops over, the place of the move that takes it on from there.
    pub(crate) fn goes_on(&self, index: usize) -> Option<usize> {
        let step = &self.steps[index];
        let onward = step.onward.as_ref()?;
        let next = |other: &Step| other.guest == step.guest && other.target == *onward;
        self.steps
            .iter()
            .position(next)
            .filter(|next| *next > index)
    }

    /// Whether a guest of it stops over.
    pub(crate) fn stops_over(&self) -> bool {
        self.steps.iter().any(|step| step.onward.is_some())
    }

    /// As the policy shows it, with what each move that has not begun waits for.
    pub(crate) fn shown(&self, waits: &BTreeMap<usize, Cause>) -> BalancePlan {
        let shown = |(index, step): (usize, &Step)| BalanceMove {
            guest: step.name.to_string(),
            source: step.source.to_string(),
            target: step.target.to_string(),
            onward: step.onward.as_ref().map(ToString::to_string),
            disks: step
                .pools
                .iter()
                .map(|(target, pool)| DiskPlacement {
                    target: target.clone(),
                    pool: pool.clone(),
                })
                .collect(),
            bytes: step.bytes,
            start: seconds(step.start),
            duration: step.duration.map(seconds),
            waits: waits.get(&index).map(|cause| cause.reason.to_string()),
        };
        BalancePlan {
            id: self.id.clone(),
            moves: self.steps.iter().enumerate().map(shown).collect(),
            total: self.steps.len() as i64,
            bytes: self.bytes,
            duration: self.duration,
        }
    }
}
