//! Whether hosts could be emptied, asked again after changes: the answers are those of a look from scratch, and few hosts are
//! asked for them.

mod support;

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use proptest::prelude::*;
use support::*;

/// What is looked at, changed bit by bit.
#[derive(Debug, Clone)]
struct Scene {
    fleet: Fleet,
    wishes: Vec<Wish>,
    ledger: Ledger,
    now: Duration,
}

/// One change: what, where and how much.
type Change = (u8, u32, u32, u64);

impl Scene {
    fn new(hosts: u32, free: u64) -> Self {
        let mut fleet = large(hosts);
        for (at, host) in fleet.hosts.iter_mut().enumerate() {
            host.memory_limit = Bytes(host.memory_used.0 + free * (1 + at as u64 % 3) * GI);
        }
        // Each host that lacks room asks for a plan of its own, in both looks.
        fleet.limits.effort = Some(500);
        Self {
            fleet,
            wishes: Vec::new(),
            ledger: Ledger::default(),
            now: NOW,
        }
    }

    fn moved(&mut self, guest: usize, host: HostId) {
        let guest = &mut self.fleet.guests[guest];
        let hosts = &mut self.fleet.hosts;
        let (cpu, memory) = (guest.cpu_milli, guest.memory.0);
        let source = &mut hosts[guest.host.at()];
        source.cpu_used_milli -= cpu;
        source.memory_used.0 -= memory;
        source.domains.remove(&guest.domain);
        guest.host = host;
        let target = &mut hosts[host.at()];
        target.cpu_used_milli += cpu;
        target.memory_used.0 += memory;
        target
            .domains
            .insert(guest.domain.clone(), guest.uuid.clone());
    }

    fn change(&mut self, (what, one, other, much): Change) {
        let host = HostId(one % self.fleet.hosts.len() as u32);
        let target = HostId(other % self.fleet.hosts.len() as u32);
        let guest = (one as usize * 31 + other as usize) % self.fleet.guests.len();
        let there = &mut self.fleet.hosts[host.at()];
        let why = Some(cause(Reason::TargetUnschedulable));
        match what % 16 {
            0 => self.moved(guest, target),
            1 => there.closed = if there.closed.is_some() { None } else { why },
            2 => there.memory_limit = Bytes(there.memory_used.0 + much * GI),
            3 => there.pools[0].available = Bytes(much * 40 * GI),
            4 => {
                there.out_of_reach = if there.out_of_reach.is_some() {
                    None
                } else {
                    why
                }
            }
            5 => {
                let facts = &mut self.fleet.guests[guest];
                self.fleet.hosts[facts.host.at()].memory_used.0 += GI;
                facts.memory.0 += GI;
            }
            6 => {
                let held = &mut self.fleet.guests[guest].held;
                *held = if held.is_some() {
                    None
                } else {
                    Some(cause(Reason::GuestHeld))
                };
            }
            7 => {
                let mut late = support::guest(&format!("g-late-{one}-{other}"), host.0, 2 * GI);
                late.disks.push(disk("vda", "default", GI));
                there.memory_used.0 += late.memory.0;
                there.domains.insert(late.domain.clone(), late.uuid.clone());
                // Among the others, so that those after it get other ids; what is in flight has names, not ids, then.
                self.ledger.in_flight.clear();
                self.ledger.avoid.clear();
                self.wishes
                    .retain(|wish| matches!(wish.what, What::Drain { .. }));
                self.fleet.guests.insert(guest, late);
            }
            8 | 9 => {
                let flies = self
                    .ledger
                    .in_flight
                    .iter()
                    .any(|one| one.guest.at() == guest);
                if !flies && self.fleet.guests[guest].host != target {
                    let flight = flight(&self.fleet, None, guest as u32, target.0);
                    self.ledger.in_flight.push(flight);
                }
            }
            10 => {
                if let Some(over) = self.ledger.in_flight.pop() {
                    self.moved(over.guest.at(), over.target);
                }
            }
            11 => self.ledger.avoid.push(Avoid {
                guest: (much % 2 == 0).then_some(GuestId(guest as u32)),
                host,
                until: self.now + Duration::from_secs(much),
                cause: cause(Reason::HostUnreachable),
            }),
            12 => self.now += Duration::from_secs(much),
            13 => match self.wishes.len() {
                0 | 1 => self.wishes.push(drain("d", &[host.0], 4)),
                _ => self.wishes.clear(),
            },
            14 => {
                let apart = Placement {
                    apart: Some(HOST_KEY.into()),
                    ..Placement::default()
                };
                self.wishes
                    .push(place("p", &[guest as u32, other % 60], apart));
            }
            // Measured, and without a say.
            _ => self.fleet.guests[guest].dirty_rate = Some(Bytes(much)),
        }
    }

    fn look(&self, before: &Looked) -> (Looked, Vec<Drainable>) {
        let ledger = self.ledger.clone();
        before.again(self.fleet.clone(), &self.wishes, ledger, self.now)
    }

    fn anew(&self) -> Vec<Drainable> {
        let all: Vec<HostId> = (0..self.fleet.hosts.len() as u32).map(HostId).collect();
        drainable(&self.fleet, &self.wishes, &self.ledger, &all, self.now)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_tells_what_a_look_anew_tells(
        hosts in 3..8u32,
        free in 2..40u64,
        changes in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>(), 0..30u64), 1..12),
    ) {
        let mut scene = Scene::new(hosts, free);
        let (mut known, first) = scene.look(&Looked::default());
        prop_assert_eq!(first, scene.anew());
        for change in changes {
            scene.change(change);
            let (next, told) = scene.look(&known);
            prop_assert_eq!(told, scene.anew(), "after {:?}", change);
            known = next;
        }
    }
}

/// Each change concerns two hosts at the most, and those whose guests would go there.
#[test]
fn few_hosts_are_asked_after_a_change() {
    let mut scene = Scene::new(200, 40);
    let (mut known, _) = scene.look(&Looked::default());
    assert_eq!(known.asked(), 200);
    for what in [0, 1, 2, 5, 8, 7, 15] {
        scene.change((what, 77, 123, 20));
        let (next, told) = scene.look(&known);
        assert_eq!(told, scene.anew());
        assert!(next.asked() <= 20, "{what}: {}", next.asked());
        known = next;
    }
    let (next, _) = scene.look(&known);
    assert_eq!(next.asked(), 0);
}
