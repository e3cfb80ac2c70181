//! What a fifth of the stories have besides: disks on storage that all hosts see, guests that somebody pauses, moves that
//! the controller drives itself, and wishes that never end: a placement and a policy.

use evenkeel_crds::shared::find;
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan};
use fastrand::Rng;
use uuid::Uuid;

/// Where the storage that all hosts see is mounted.
pub const NETWORK: &str = "/net";
/// The guests that a placement keeps apart where it can, by number.
pub const APART: [usize; 2] = [0, 1];
/// The placement.
pub const PLACEMENT: &str = "apart";
/// Salts the dice: stories without these forms stay what they were.
const FORMS: u64 = 0xf0_2155;

/// The forms of a story.
#[derive(Debug, Clone, Default)]
pub struct Forms {
    /// Some guests have a disk on storage that all hosts see.
    pub shared: bool,
    /// The controller is the client of both ends' libvirtds.
    pub direct: bool,
    /// Two guests are kept apart where that can be.
    pub apart: bool,
    /// All hosts are kept about equally full.
    pub level: bool,
    /// Decides when somebody pauses which guest; nothing: nobody does.
    pub pauses: Option<Rng>,
}

impl Forms {
    /// Those of the story of this seed.
    pub fn of(seed: u64) -> Self {
        if seed % 5 != 3 {
            return Self::default();
        }
        let mut dice = Rng::with_seed(seed ^ FORMS);
        Self {
            shared: dice.u8(..3) == 0,
            direct: dice.u8(..3) == 0,
            apart: dice.bool(),
            level: dice.u8(..3) == 0,
            pauses: dice.bool().then_some(dice),
        }
    }

    /// A host, with the storage that all see.
    pub fn host(&self, plan: HostPlan) -> HostPlan {
        if self.shared {
            plan.shared("net", NETWORK, "netfs")
        } else {
            plan
        }
    }

    /// A guest, with a disk there: every second, those that never have a base image, which would have to lie there too.
    pub fn guest(&self, plan: GuestPlan, number: usize) -> GuestPlan {
        if self.shared && !number.is_multiple_of(2) {
            plan.shared_disk("vdb", GIB)
        } else {
            plan
        }
    }
}

/// What is shown of the placement and is not so.
pub fn untrue(fleet: &Fleet, guests: &[(Uuid, String)], view: &View) -> Option<String> {
    let status = view.placements.get(PLACEMENT)?;
    let satisfied = find(&status.conditions, "Satisfied")?;
    let [one, other] = APART.map(|number| fleet.executing(guests[number].0));
    let together = one == other && !one.is_empty();
    (satisfied.status == "True" && together)
        .then(|| format!("{PLACEMENT} is shown as satisfied, and both are on {one:?}"))
}
