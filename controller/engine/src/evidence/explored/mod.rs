//! Every way that a move can go, explored to its end: whether what `decide` asks for is right not only row by row,
//! but in every order in which libvirt, the two QEMUs, the hosts, the program and its looks may come.
//!
//! `world` is what was measured of libvirt, `faults` what goes wrong, `controller` what the program makes of a verdict,
//! `fair` whether all that was begun comes to an end. The bounds: one guest, which had autostart; one move, and a second
//! one, to a third host, that begins while the first one's target is silent and keeps its journal (taken as a whole: as long
//! as it is not over nobody takes the first one up, see `reconcile/adopt.rs`); one abort; [`FAULTS`] faults, of which the death
//! of the program is one and a whole machine's loss of power another; and [`SLACK`] steps of the world while the program is
//! between two looks or between a look and its act. In the instant before an act the guest's own QEMU does not end, nor its
//! machine (nor the one at the target after the last look at it, before a paused source is discarded): no look can foresee
//! that. A call to migrate that a dead process made is taken to arrive within the seconds that the program waits for it.
//! Claims are not modelled: one program acts at a time. Nor is the list of domains that name a file, read before it is
//! removed: `decide` must be right without it.
//!
//! What `decide` can't do yet is let pass, each by its name in [`LetPass`], and a test holds that it is still so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod broken;
mod controller;
mod fair;
mod faults;
mod world;

use std::collections::HashSet;

use stateright::{Checker, Model, Property};

use self::{
    controller::{ACTS, Act, Doing, Harm, RULES, Rules, State, Told},
    fair::Graph,
    world::{Fate, Fault, Memory, Newest, Phase, Qemu, STEPS, Side, Step},
};
use super::{Arrival, Verdict, Waiting};

const FAULTS: u8 = 4;
const SLACK: u8 = 2;

/// What is not held against `decide`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LetPass {
    /// Once libvirt itself has run the guest twice, what one of both wrote may be removed. What both ends show later can't
    /// tell: so the move notes it in its journals when it sees it, and then removes nothing (`life/watch.rs`).
    doubled: bool,
    /// Where the guest executes at neither end and the target has something of it, the program may wait without end.
    /// It says so after a while (`life/watch.rs`), which has no place in this model without time.
    settling: bool,
}

const KNOWN: LetPass = LetPass {
    doubled: true,
    settling: true,
};

const FATES: [Fate; 6] = [
    Fate::Resumes,
    Fate::Finishes,
    Fate::Crashes,
    Fate::Hangs,
    Fate::Forgets,
    Fate::Leaves,
];

const TWICE: &str = "the program runs nothing twice or anew";
const ONE: &str = "a guarded guest never runs at both ends";
const THIRD: &str = "a guest that a second move took elsewhere runs nowhere else";
const ENDED: &str = "the only one that has the guest is not ended";
const DEFINED: &str = "the only definition is kept";
const FILES: &str = "the newest files are kept";
const TOLD: &str = "what is told is true";
const BOOTS: &str = "a host that boots starts nothing that went on elsewhere";
const RESTS: &str = "left in peace it ends, or waits for a person";

/// One move, and how it is explored.
#[derive(Debug, Clone)]
struct Move {
    rules: Rules,
    faults: u8,
    kinds: Vec<Fault>,
    slack: u8,
    lets: LetPass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    World(Step),
    Fault(Fault),
    Program(Act),
    /// The program dies.
    Dies,
}

impl Default for Move {
    fn default() -> Self {
        let mut kinds = vec![Fault::CopyFails, Fault::TargetSleeps];
        for side in [Side::Source, Side::Target] {
            kinds.extend([Fault::GuestStops(side), Fault::Unheard(side)]);
            for fate in FATES {
                kinds.extend([
                    Fault::QemuDies(side, fate),
                    Fault::LibvirtdDies(side, fate),
                    Fault::PowerLost(side, fate),
                ]);
            }
        }
        kinds.extend(FATES.map(Fault::LinkCut));
        Self {
            rules: RULES,
            faults: FAULTS,
            kinds,
            slack: SLACK,
            lets: KNOWN,
        }
    }
}

impl Model for Move {
    type State = State;
    type Action = Action;

    /// A guest that runs, the same where it may be switched to post-copy, one that was paused before, and one that we are
    /// to start.
    fn init_states(&self) -> Vec<State> {
        let mut post_copy = State::prepared(Arrival::Running, self.rules);
        post_copy.world.allows_post_copy = true;
        [Arrival::Running, Arrival::StaysPaused, Arrival::Guarded]
            .map(|arrival| State::prepared(arrival, self.rules))
            .into_iter()
            .chain([post_copy])
            .collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_over() {
            return;
        }
        actions.extend(ACTS.map(Action::Program));
        if state.is_short() && state.since >= self.slack {
            return;
        }
        actions.extend(STEPS.map(Action::World));
        if state.faults < self.faults {
            actions.extend(self.kinds.iter().copied().map(Action::Fault));
            actions.push(Action::Dies);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        next.since += u8::from(last.is_short());
        match action {
            Action::World(step) => next.world = last.world.step(step)?,
            Action::Program(act) => next = last.act(act, self.rules)?,
            Action::Fault(Fault::QemuDies(..) | Fault::GuestStops(_) | Fault::PowerLost(..))
                if last.is_acting() =>
            {
                return None;
            }
            Action::Fault(fault) => {
                next.world = last.world.fault(fault)?;
                next.faults += 1;
            }
            Action::Dies => {
                next.controller = last.controller.dies()?;
                next.since = 0;
                next.faults += 1;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWICE, |model, state| {
                model.unharmed(state, &[Harm::RanItTwice, Harm::RanAnOlderState])
            }),
            Property::always(ONE, |_, state: &State| {
                let world = &state.world;
                let both = world.source.qemu == Qemu::Runs && world.target.qemu == Qemu::Runs;
                !(both && world.arrival == Arrival::Guarded)
            }),
            Property::always(THIRD, |_, state: &State| {
                let world = &state.world;
                !(world.is_elsewhere() && world.target.qemu == Qemu::Runs)
            }),
            Property::always(ENDED, |model, state| {
                let ended = [
                    Harm::DestroyedTheOnlyOne,
                    Harm::SuspendedTheOnlyOne,
                    Harm::BrokeTheSwitch,
                ];
                model.unharmed(state, &ended)
            }),
            Property::always(DEFINED, |model, state| {
                model.unharmed(state, &[Harm::UndefinedTheOnlyOne])
            }),
            Property::always(FILES, |model, state| {
                model.unharmed(state, &[Harm::RemovedTheNewest, Harm::RemovedFilesInUse])
            }),
            Property::always(TOLD, Self::tells_the_truth),
            Property::always(BOOTS, |_, state: &State| !state.world.booted_twice),
        ]
    }
}

impl Move {
    fn unharmed(&self, state: &State, harms: &[Harm]) -> bool {
        state
            .harm
            .is_none_or(|(harm, doubled)| !harms.contains(&harm) || doubled && self.lets.doubled)
    }

    /// A move that is told to be over is, and the guest is where it is told to be.
    fn tells_the_truth(&self, state: &State) -> bool {
        let world = &state.world;
        let stays_paused = world.arrival == Arrival::StaysPaused;
        match state.controller.doing {
            _ if world.doubled && self.lets.doubled => true,
            // The second move has it: of the first nothing may be left that this could be wrong about.
            Doing::Ended(_) if world.is_elsewhere() => !world.target.files || world.target.journal,
            Doing::Ended(Told::Succeeded) => {
                world.source.copy.is_none()
                    && world.memory == Memory::Whole
                    && !world.source.files
                    && world.target.files
                    && world.newest != Newest::Source
                    && (stays_paused || world.target.qemu != Qemu::Still)
            }
            Doing::Ended(Told::Failed) => {
                let may_begin = world.phase == Phase::Called && world.source.qemu != Qemu::None;
                !may_begin
                    && world.source.copy.is_some()
                    && world.source.files
                    && matches!(world.newest, Newest::Source | Newest::Same)
                    && (stays_paused || world.source.qemu != Qemu::Still)
            }
            _ => true,
        }
    }

    fn rests(&self, state: &State) -> bool {
        state.is_over() || self.waits_for_a_person(state)
    }

    fn waits_for_a_person(&self, state: &State) -> bool {
        let world = &state.world;
        match self.verdict(state) {
            Verdict::RunsTwice
            | Verdict::Lost
            | Verdict::StoppedAtTarget { .. }
            | Verdict::MemoryLost => true,
            // A guest that was paused before does not show the switch; a copy that stands still is told as well.
            Verdict::Switching | Verdict::Copying => world.phase == Phase::Stuck,
            Verdict::Wait(Waiting::Settling) if self.lets.settling => {
                world.source.qemu != Qemu::Runs
                    && world.target.qemu != Qemu::Runs
                    && world.target.copy.is_some()
            }
            _ => false,
        }
    }

    /// What a look at this instant would ask for.
    fn verdict(&self, state: &State) -> Verdict {
        let world = &state.world;
        let (source, target) = (world.seen(Side::Source), world.seen(Side::Target));
        (self.rules.decide)(source, target, world.arrival)
    }

    /// Explores all of it. The number of states, and each property that does not hold, with a way there.
    fn explore(&self) -> (usize, Vec<(&'static str, Vec<Action>)>) {
        let graph = Graph::of(self);
        let restless = graph.restless(|state| self.rests(state));
        let harmed = self.properties().into_iter().filter_map(|property| {
            let holds = |state: &State| (property.condition)(self, state);
            let wrong = graph.states.iter().position(|state| !holds(state))?;
            Some((property.name, wrong))
        });
        let broken = harmed.chain(restless.map(|state| (RESTS, state)));
        let broken = broken.map(|(name, state)| (name, graph.way_to(state)));
        (graph.states.len(), broken.collect())
    }

    fn breaks(&self) -> Vec<&'static str> {
        let (_, broken) = self.explore();
        broken.into_iter().map(|(name, _)| name).collect()
    }
}

#[test]
fn every_way_ends_well() {
    let (states, broken) = Move::default().explore();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(states > 1_000_000, "{states} states are too few");
}

/// What explores here is checked by what others wrote for that: stateright sees as many states, and the same harm.
#[test]
fn another_explorer_sees_the_same() {
    let rules = Rules {
        looks_again: false,
        ..RULES
    };
    for rules in [RULES, rules] {
        let model = Move {
            rules,
            faults: 1,
            ..Move::default()
        };
        let (states, broken) = model.explore();
        let mut broken: Vec<_> = broken.into_iter().map(|(name, _)| name).collect();
        broken.retain(|name| *name != RESTS);
        broken.sort_unstable();
        let other = model.checker().spawn_bfs().join();
        assert_eq!(other.unique_state_count(), states);
        // Where every property is broken it stops; it does not come to that here.
        let mut harm: Vec<_> = other.discoveries().into_keys().collect();
        harm.sort_unstable();
        assert_eq!(broken, harm);
    }
}

/// Nothing above holds only because it never comes up.
#[test]
fn every_verdict_comes_up() {
    let model = Move {
        faults: 2,
        ..Move::default()
    };
    let mut verdicts = HashSet::new();
    let (mut told, mut acted) = (HashSet::new(), HashSet::new());
    for state in Graph::of(&model).states {
        let verdict = model.verdict(&state);
        // Both ends answering, one always has it, unless a second move took it.
        assert!(verdict != Verdict::Lost || state.world.is_elsewhere());
        verdicts.insert(verdict);
        match state.controller.doing {
            Doing::Ended(how) => drop(told.insert(how)),
            Doing::Acts(verdict) => drop(acted.insert(verdict)),
            _ => {}
        }
    }
    let waits = [
        Waiting::SourceSilent,
        Waiting::TargetSilent,
        Waiting::BothSilent,
        Waiting::Settling,
    ];
    let acts = [
        Verdict::UndefineSource,
        Verdict::DiscardPausedSource,
        Verdict::DestroyTargetLeftover,
        Verdict::UndefineTargetLeftover,
        Verdict::ResumeSource,
        Verdict::ResumeTarget,
        Verdict::RecoverPostCopy,
    ];
    let stopped = |defined, orderly| Verdict::StoppedAtTarget { defined, orderly };
    let others = [
        stopped(false, false),
        stopped(false, true),
        stopped(true, false),
        stopped(true, true),
        Verdict::Copying,
        Verdict::Switching,
        Verdict::PostCopy,
        Verdict::MemoryLost,
        Verdict::Moved,
        Verdict::Stayed,
        Verdict::StayedTargetSilent,
        Verdict::StoppedAtSource,
        Verdict::CrashedAtSource,
        Verdict::RunsTwice,
    ];
    let all = waits
        .map(Verdict::Wait)
        .into_iter()
        .chain(acts)
        .chain(others);
    let missing: Vec<Verdict> = all.filter(|one| !verdicts.contains(one)).collect();
    assert_eq!(missing, []);
    for act in acts {
        assert!(acted.contains(&act), "{act:?} is never done");
    }
    assert_eq!(told, HashSet::from([Told::Succeeded, Told::Failed]));
    assert!(verdicts.contains(&Verdict::Lost), "no second move");
}

/// What is let pass above is still needed. Where this fails, `decide` was bettered: let it pass no more.
#[test]
fn what_is_let_pass() {
    let strict = |lets| {
        let mut model = Move {
            faults: 2,
            lets,
            ..Move::default()
        };
        // A target that runs it only when it wakes may do so in the instant before it is destroyed there.
        model.kinds.retain(|kind| *kind != Fault::TargetSleeps);
        model.breaks()
    };
    // Two copies. Then the one at the target powers itself off, and is taken for a leftover of a failed move; or the
    // one at the source does, and is taken for one that left; or the source is suspended when the target has just
    // ended, since that act has no second look.
    let doubled = LetPass {
        doubled: false,
        ..KNOWN
    };
    assert_eq!(strict(doubled), [ENDED, FILES, TOLD]);
    // The source was left paused or defined, and the guest then stops at the target.
    let settling = LetPass {
        settling: false,
        ..KNOWN
    };
    assert_eq!(strict(settling), [RESTS]);
}

/// The bounds matter: without them, the program would be wrong.
#[test]
fn the_bounds_are_needed() {
    // A call that a dead process made arrives after the move was taken back.
    let hasty = Move {
        faults: 1,
        rules: Rules {
            calm: false,
            ..RULES
        },
        ..Move::default()
    };
    assert!(hasty.breaks().contains(&TOLD));
    // A whole move goes by between the look at the target and the one at the source: with one fault that is harmless,
    // with three it is not.
    let slow = |faults| {
        let mut model = Move {
            faults,
            slack: u8::MAX,
            ..Move::default()
        };
        model
            .kinds
            .retain(|kind| !matches!(kind, Fault::PowerLost(..)));
        model.breaks()
    };
    assert_eq!(slow(1), Vec::<&str>::new());
    assert_ne!(slow(3), Vec::<&str>::new());
}
