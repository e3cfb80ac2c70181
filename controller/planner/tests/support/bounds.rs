//! What no schedule of a plan's moves can beat: each link has its bytes to carry, out and in; each move takes its time alone;
//! and what shares the places of a limit, or a host's slots, takes at least all their times alone by the number of those.

use std::time::Duration;

use evenkeel_planner::*;

/// Seconds that the move takes that has both links for itself.
fn alone(fleet: &Fleet, step: &Move) -> f64 {
    let bandwidth = |host: HostId| fleet.hosts[host.at()].bandwidth;
    let most = [
        bandwidth(step.source),
        bandwidth(step.target),
        fleet.limits.share,
        fleet.guests[step.guest.at()].bandwidth,
    ];
    let rate = most.into_iter().flatten().map(|rate| rate.0.max(1)).min();
    rate.map_or(0.0, |rate| step.bytes.0 as f64 / rate as f64)
}

/// The least makespan of these moves, whatever their order. Links of unknown bandwidth do not count.
pub fn makespan(fleet: &Fleet, wishes: &[Wish], plan: &Plan) -> Duration {
    let mut links = vec![[0u64; 2]; fleet.hosts.len()];
    for step in &plan.moves {
        links[step.source.at()][0] += step.bytes.0;
        links[step.target.at()][1] += step.bytes.0;
    }
    let links = fleet.hosts.iter().zip(links).flat_map(|(host, ways)| {
        let rate = host.bandwidth.map_or(f64::INFINITY, |rate| rate.0 as f64);
        ways.map(|bytes| bytes as f64 / rate)
    });
    let longest = plan.moves.iter().map(|step| alone(fleet, step));
    let places = |wanted: &dyn Fn(&Move) -> bool, places: u32| {
        let own = plan.moves.iter().filter(|step| wanted(step));
        own.map(|step| alone(fleet, step)).sum::<f64>() / f64::from(places)
    };
    let of_wishes = wishes.iter().filter_map(|wish| match &wish.what {
        What::Drain { parallel, .. } => Some(places(&|step| step.by == wish.by, *parallel)),
        What::Balance(balance) => Some(places(&|step| step.by == wish.by, balance.parallel)),
        What::Move { .. } | What::Place(_) => None,
    });
    let of_fleet = fleet.limits.parallel.map(|most| places(&|_| true, most));
    let mut slots = vec![[0.0; 2]; fleet.hosts.len()];
    for step in &plan.moves {
        slots[step.source.at()][0] += alone(fleet, step);
        slots[step.target.at()][1] += alone(fleet, step);
    }
    let slots = fleet
        .hosts
        .iter()
        .zip(slots)
        .flat_map(|(host, [out, into])| {
            let least = |sum: f64, slots: u32| sum / f64::from(slots.max(1));
            [least(out, host.max_outbound), least(into, host.max_inbound)]
        });
    let all = links.chain(longest).chain(of_wishes).chain(of_fleet);
    let all = all.chain(slots);
    Duration::from_secs_f64(all.fold(0.0, f64::max))
}
