//! What is under way on the links, and when it ends.
//!
//! The model: a link carries its bandwidth out and the same in, each shared equally by the moves that way; a move goes at
//! the lesser share of its two ends, and no faster than its guest's moves may; a link of unknown bandwidth does not count.
//! Where neither end's is known, a nominal rate puts the ends in an order. Times are whole microseconds, so that what
//! starts at the end of another move starts at exactly that time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::model::HostId;
use crate::view::View;

/// Bytes per second of a link that nobody knows; for the order of moves only.
pub(crate) const NOMINAL_RATE: u64 = 100 << 20;

/// In the place of a time: the move is over.
const OVER: u64 = u64::MAX;

/// A move under way.
pub(crate) struct Transfer {
    pub(crate) source: HostId,
    pub(crate) target: HostId,
    /// The most that it may have, in bytes per second.
    pub(crate) most: Option<u64>,
    /// Bytes left at `since`; absent: `ends` is given.
    left: Option<f64>,
    /// Bytes of that which are memory: they travel last.
    memory: f64,
    since: u64,
    rate: f64,
    /// Whether its rate is only nominal.
    pub(crate) nominal: bool,
    pub(crate) started: u64,
    /// When its disks are copied and its memory begins to travel, if that has come.
    pub(crate) switched: Option<u64>,
    pub(crate) ends: u64,
}

impl Transfer {
    /// So many bytes, of which so many are memory.
    pub(crate) fn of(ends: (HostId, HostId), most: Option<u64>, bytes: u64, memory: u64) -> Self {
        let (source, target) = ends;
        Self {
            source,
            target,
            most,
            left: Some(bytes.max(1) as f64),
            memory: memory as f64,
            since: 0,
            rate: 0.0,
            nominal: false,
            started: 0,
            switched: None,
            ends: u64::MAX,
        }
    }

    /// One that ends then, whatever its links carry.
    pub(crate) fn until(source: HostId, target: HostId, ends: u64) -> Self {
        Self {
            left: None,
            ends,
            ..Self::of((source, target), None, 0, 0)
        }
    }

    /// Takes in what was carried by that time.
    fn carry(&mut self, time: u64) {
        let Some(left) = self.left else { return };
        let disks = left - self.memory;
        let passed = (time - self.since) as f64 / 1e6;
        if self.switched.is_none() && disks <= self.rate * passed {
            let after = if self.rate > 0.0 {
                disks.max(0.0) / self.rate * 1e6
            } else {
                0.0
            };
            self.switched = Some((self.since + after.ceil() as u64).min(time));
        }
        self.left = Some((left - self.rate * passed).max(0.0));
        self.since = time;
    }
}

/// All that is under way.
pub(crate) struct Traffic {
    pub(crate) time: u64,
    /// For each host how many moves are under way from it.
    pub(crate) outbound: Vec<u32>,
    /// And to it.
    pub(crate) inbound: Vec<u32>,
    pub(crate) under_way: u32,
    /// All that ever went; what is under way stands in `links`.
    moves: Vec<Transfer>,
    /// For each host what is under way from and to it.
    links: Vec<Vec<usize>>,
    /// When what is under way ends, the next on top; what has got another end since is passed over.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Traffic {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            time: 0,
            outbound: vec![0; hosts],
            inbound: vec![0; hosts],
            under_way: 0,
            moves: Vec::new(),
            links: vec![Vec::new(); hosts],
            ends: BinaryHeap::new(),
        }
    }

    /// Begins a transfer. Its place is the next after all that ever went.
    pub(crate) fn begin(&mut self, view: &View<'_>, mut transfer: Transfer) {
        let index = self.moves.len();
        let (source, target) = (transfer.source, transfer.target);
        self.under_way += 1;
        self.outbound[source.at()] += 1;
        self.inbound[target.at()] += 1;
        self.links[source.at()].push(index);
        self.links[target.at()].push(index);
        transfer.started = self.time;
        transfer.since = self.time;
        if transfer.left.is_none() {
            self.ends.push(Reverse((transfer.ends, index)));
        }
        self.moves.push(transfer);
        self.share(view, source);
        self.share(view, target);
    }

    /// When the next one ends.
    pub(crate) fn next_end(&mut self) -> Option<u64> {
        while let Some(Reverse((end, index))) = self.ends.peek() {
            let transfer = &self.moves[*index];
            if transfer.ends == *end && transfer.since != OVER {
                return Some(*end);
            }
            self.ends.pop();
        }
        None
    }

    /// Goes to that time and gives what has ended by then. Its links are shared anew only when it is taken off them.
    pub(crate) fn advance(&mut self, next: u64) -> Vec<usize> {
        let mut ending = Vec::new();
        while self.next_end().is_some_and(|end| end <= next) {
            if let Some(Reverse((end, index))) = self.ends.pop() {
                self.moves[index].carry(end);
                self.moves[index].since = OVER;
                ending.push(index);
            }
        }
        self.time = next;
        ending
    }

    /// Takes one that has ended off its links.
    pub(crate) fn end(&mut self, index: usize) {
        let ends = [self.moves[index].source, self.moves[index].target];
        self.under_way -= 1;
        self.outbound[ends[0].at()] -= 1;
        self.inbound[ends[1].at()] -= 1;
        for host in ends {
            self.links[host.at()].retain(|other| *other != index);
        }
    }

    /// Shares the host's link anew among the moves on it, out and in: each goes at the lesser share of its two ends.
    pub(crate) fn share(&mut self, view: &View<'_>, host: HostId) {
        let most = view.fleet.limits.share.map(|share| share.0.max(1) as f64);
        for index in &self.links[host.at()] {
            let transfer = &mut self.moves[*index];
            if transfer.left.is_none() {
                continue;
            }
            let share = |host: HostId, moves: u32| {
                let bandwidth = view.host(host).bandwidth?.0.max(1);
                Some(bandwidth as f64 / f64::from(moves))
            };
            let out = self.outbound[transfer.source.at()];
            let into = self.inbound[transfer.target.at()];
            let rate = match (share(transfer.source, out), share(transfer.target, into)) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            let own = transfer.most.map(|most| most as f64);
            let rate = rate.into_iter().chain(most).chain(own).reduce(f64::min);
            transfer.nominal = rate.is_none();
            let rate = rate.unwrap_or_else(|| NOMINAL_RATE as f64 / f64::from(out.max(into)));
            if rate == transfer.rate {
                continue;
            }
            transfer.carry(self.time);
            transfer.rate = rate;
            let left = transfer.left.unwrap_or(0.0);
            transfer.ends = self.time.saturating_add((left / rate * 1e6).ceil() as u64);
            self.ends.push(Reverse((transfer.ends, *index)));
        }
    }

    pub(crate) fn get(&self, index: usize) -> &Transfer {
        &self.moves[index]
    }

    /// What is under way from and to the host.
    pub(crate) fn of(&self, host: HostId) -> &[usize] {
        &self.links[host.at()]
    }
}
