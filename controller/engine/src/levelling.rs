//! What a policy has in mind: the plan that it has frozen, how far that is, and how level its hosts were when they were
//! last looked at.

use std::collections::BTreeMap;

use evenkeel_crds::{
    RebalancePolicy, RebalancePolicySpec,
    kinds::policy::{BalanceMove, BalancePlan, Mode, PLAN_CAP, PastPlan},
    names::{GuestName, HostName},
    quantity::{Bytes, Span},
    reason::Cause,
};
use evenkeel_planner::{self as planner, Balance};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use crate::guests::Guests;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) id: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) bytes: Bytes,
    pub(crate) duration: Option<Span>,
}

/// A move of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) guest: Uuid,
    pub(crate) name: GuestName,
    pub(crate) source: HostName,
    pub(crate) target: HostName,
    /// Where the guest goes on to by a later one, if it only stops over.
    pub(crate) onward: Option<HostName>,
    pub(crate) pools: BTreeMap<String, String>,
    pub(crate) bytes: Bytes,
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
        for part in [step.name.as_str(), &step.source, &step.target] {
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
    /// The moves that a plan has for a policy; nothing where it has none. Of very many the first: what the status can't
    /// show nobody can approve.
    pub(crate) fn of(
        policy: &RebalancePolicy,
        name: &str,
        fleet: &planner::Fleet,
        plan: &planner::Plan,
    ) -> Option<Self> {
        let mine = plan
            .moves
            .iter()
            .filter(|planned| planned.by.kind == "RebalancePolicy" && planned.by.name == name)
            .take(PLAN_CAP);
        let mine: Vec<&planner::Move> = mine.collect();
        // Half of a guest's way is none.
        let whole = |planned: &&&planner::Move| {
            let mut own = mine.iter().filter(|other| other.guest == planned.guest);
            own.any(|other| other.onward.is_none())
        };
        let mut end = Some(std::time::Duration::ZERO);
        let mut steps = Vec::new();
        for planned in mine.iter().filter(whole) {
            let guest = &fleet.guests[planned.guest.at()];
            end = end
                .zip(planned.duration)
                .map(|(end, own)| end.max(planned.start + own));
            steps.push(Step {
                guest: Uuid::parse_str(&guest.uuid).ok()?,
                name: guest.name.clone(),
                source: fleet.hosts[planned.source.at()].name.clone(),
                target: fleet.hosts[planned.target.at()].name.clone(),
                onward: planned
                    .onward
                    .map(|host| fleet.hosts[host.at()].name.clone()),
                pools: planned.pools.clone(),
                bytes: planned.bytes,
            });
        }
        Self::made(&policy.spec, steps, end.map(Span))
    }

    /// The plan that an earlier process had written on the policy, where that is still what the policy asks for and every
    /// guest is still there.
    pub(crate) fn recalled(policy: &RebalancePolicy, guests: &Guests) -> Option<Self> {
        let told = policy.status.as_ref()?.plan.as_ref()?;
        let steps = told.moves.iter().map(|step| {
            let (guest, entry) = guests.find(&step.guest)?;
            Some(Step {
                guest,
                name: entry.name.clone(),
                source: step.source.as_str().into(),
                target: step.target.as_str().into(),
                onward: step.onward.as_deref().map(Into::into),
                pools: BTreeMap::new(),
                bytes: step.bytes,
            })
        });
        let steps = steps.collect::<Option<Vec<Step>>>()?;
        Self::made(&policy.spec, steps, told.duration).filter(|plan| plan.id == told.id)
    }

    fn made(spec: &RebalancePolicySpec, steps: Vec<Step>, duration: Option<Span>) -> Option<Self> {
        Some(Self {
            id: id(spec, &steps),
            bytes: Bytes(steps.iter().map(|step| step.bytes.0).sum()),
            duration,
            steps,
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
            bytes: step.bytes,
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
