//! The part of the checker that looks at headroom: a domain that is not told to be short has, after the plan, a place for
//! each of its guests. What is looked at is less than what a drain needs (memory, CPU and whether the host would take the
//! guest), so that a domain without such places is surely short.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_planner::*;

/// Steps after which a search is given up without a verdict.
const STEPS: usize = 20_000;

/// Panics if a balance that keeps headroom is silent about a domain that could not be emptied.
pub fn check(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger, plan: &Plan) {
    for wish in wishes {
        let What::Balance(balance) = &wish.what else {
            continue;
        };
        let Some(headroom) = balance
            .headroom
            .as_ref()
            .filter(|headroom| headroom.failures == 1)
        else {
            continue;
        };
        let told = plan.balances.iter().find(|told| told.by == wish.by);
        let key = &headroom.topology_key;
        let own = balance.hosts.iter().map(|host| host.at());
        let own = own.filter(|host| governs(fleet, wishes, wish, *host));
        let own: BTreeSet<&str> = own
            .filter_map(|host| fleet.hosts[host].topology(key))
            .collect();
        let mut domains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (host, facts) in fleet.hosts.iter().enumerate() {
            if let Some(name) = facts.topology(key).filter(|name| own.contains(name)) {
                domains.entry(name).or_default().push(host);
            }
        }
        for (name, hosts) in domains {
            let short = told.into_iter().flat_map(|told| &told.short);
            if short.into_iter().any(|short| short.domain == name) {
                continue;
            }
            let mut search = Search::new(fleet, wishes, ledger, plan, &hosts);
            assert!(
                search.places(0),
                "{name} can't be emptied and is not told to be short"
            );
        }
    }
}

fn drained(wishes: &[Wish], host: usize) -> bool {
    wishes.iter().any(|wish| match &wish.what {
        What::Drain { hosts, .. } => hosts.contains(&HostId(host as u32)),
        What::Move { .. } | What::Place(_) | What::Balance(_) => false,
    })
}

/// Whether the host is this balance's: the first by name has it, if it is neither drained nor out of reach.
fn governs(fleet: &Fleet, wishes: &[Wish], own: &Wish, host: usize) -> bool {
    let others = wishes.iter().filter(|wish| match &wish.what {
        What::Balance(balance) => balance.hosts.contains(&HostId(host as u32)),
        What::Move { .. } | What::Place(_) | What::Drain { .. } => false,
    });
    let first = others.map(|wish| &wish.by).min();
    first == Some(&own.by) && fleet.hosts[host].out_of_reach.is_none() && !drained(wishes, host)
}

struct Search<'a> {
    fleet: &'a Fleet,
    /// Guests that have to leave, the largest first.
    guests: Vec<&'a Guest>,
    /// Hosts that may take them, and what each has free of memory and CPU.
    free: Vec<(usize, i128, i128)>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn new(
        fleet: &'a Fleet,
        wishes: &[Wish],
        ledger: &Ledger,
        plan: &Plan,
        emptied: &[usize],
    ) -> Self {
        let mut at: Vec<usize> = fleet.guests.iter().map(|guest| guest.host.at()).collect();
        let host_free = |host: &Host| {
            let memory = i128::from(host.memory_limit.0) - i128::from(host.memory_used.0);
            let cpu = i128::from(host.cpu_limit_milli) - i128::from(host.cpu_used_milli);
            (memory, cpu)
        };
        let mut free: Vec<(i128, i128)> = fleet.hosts.iter().map(host_free).collect();
        let flights = ledger
            .in_flight
            .iter()
            .map(|flight| (flight.guest, flight.target));
        let moves = plan.moves.iter().map(|step| (step.guest, step.target));
        for (guest, target) in flights.chain(moves) {
            let facts = &fleet.guests[guest.at()];
            let before = std::mem::replace(&mut at[guest.at()], target.at());
            if facts.active && before != target.at() {
                let (memory, cpu) = (i128::from(facts.memory.0), i128::from(facts.cpu_milli));
                free[before].0 += memory;
                free[before].1 += cpu;
                free[target.at()].0 -= memory;
                free[target.at()].1 -= cpu;
            }
        }
        let open = (0..fleet.hosts.len()).filter(|host| {
            let facts = &fleet.hosts[*host];
            facts.out_of_reach.is_none()
                && facts.closed.is_none()
                && !emptied.contains(host)
                && !drained(wishes, *host)
        });
        let free = open
            .map(|host| (host, free[host].0, free[host].1))
            .collect();
        let here = fleet.guests.iter().zip(at);
        let flies = |id: usize| {
            ledger
                .in_flight
                .iter()
                .any(|flight| flight.guest.at() == id)
        };
        let here = here
            .enumerate()
            .filter(|(id, (guest, at))| guest.active && emptied.contains(at) && !flies(*id));
        let mut guests: Vec<&Guest> = here.map(|(_, (guest, _))| guest).collect();
        guests.sort_by_key(|guest| std::cmp::Reverse(guest.memory));
        Self {
            fleet,
            guests,
            free,
            steps: STEPS,
        }
    }

    /// Whether all from this one on have a place, or too many ways would have to be looked at.
    fn places(&mut self, next: usize) -> bool {
        let Some(guest) = self.guests.get(next).copied() else {
            return true;
        };
        if guest.immovable.is_some() || guest.held.is_some() {
            return false;
        }
        let (memory, cpu) = (i128::from(guest.memory.0), i128::from(guest.cpu_milli));
        for at in 0..self.free.len() {
            let (host, free_memory, free_cpu) = self.free[at];
            if free_memory < memory
                || free_cpu < cpu
                || !super::checker::offers(guest, &self.fleet.hosts[host])
            {
                continue;
            }
            if self.steps == 0 {
                return true;
            }
            self.steps -= 1;
            self.free[at] = (host, free_memory - memory, free_cpu - cpu);
            let all = self.places(next + 1);
            self.free[at] = (host, free_memory, free_cpu);
            if all {
                return true;
            }
        }
        false
    }
}
