//! The search for moves that level the load: annealing over single moves and swaps, in deterministic steps.
//!
//! What is minimised is how far hosts lie from the mean (the standard deviation of each resource's share, weighed, in
//! percent points) plus a price on the bytes that travel. The price starts so high that only the best moves pay and
//! falls until the load is level enough, so that the cheapest plan that is good enough is found first. Every state is
//! one that a board allows: rules, names, pools and room hold once all moves have ended.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::board::{Board, Bulk, Placed};
use crate::capacity::When;
use crate::fit::fits;
use crate::model::{GuestId, HostId};
use crate::rules::may_stay;
use crate::targeted::over;
use crate::wishes::Ask;

/// CPU, memory, disk.
pub(crate) type Shares = [f64; 3];

/// Prices of a GiB, in parts of what levelling everything would be worth per GiB of all guests; the last is the least
/// that a move has to be worth.
const PRICES: [f64; 7] = [4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06];

/// Steps per guest and price from which on the search does without a first guess.
const THOROUGH: u64 = 100;
/// Of the emptiest hosts that a first guess looks at.
const TARGETS: usize = 8;
/// Ways that a first guess tries for one guest.
const TRIES: usize = 4;

/// A guest that may be moved.
pub(crate) struct Item {
    pub(crate) guest: GuestId,
    /// Its ask.
    pub(crate) ask: usize,
    pub(crate) load: Shares,
    /// What travels, in GiB.
    pub(crate) gib: f64,
    pub(crate) home: usize,
    pub(crate) at: usize,
    /// Its place in its host's list.
    place: usize,
}

/// A host among those to be levelled.
pub(crate) struct Side {
    pub(crate) host: HostId,
    /// Whether guests may come.
    pub(crate) takes: bool,
    /// One over its capacity, per resource.
    inverse: Shares,
    /// Its share less the mean.
    above: Shares,
    items: Vec<usize>,
}

impl Side {
    fn add(&mut self, load: &Shares, sign: f64) {
        let parts = self.above.iter_mut().zip(load).zip(self.inverse);
        for ((above, load), inverse) in parts {
            *above += sign * load * inverse;
        }
    }
}

/// What bounds a search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Imbalance that is good enough, in percent points.
    pub(crate) enough: f64,
    pub(crate) moves: usize,
    pub(crate) gib: f64,
    /// Proposals looked at.
    pub(crate) steps: u64,
}

/// The state of the search.
pub(crate) struct Level {
    pub(crate) sides: Vec<Side>,
    pub(crate) items: Vec<Item>,
    weights: Shares,
    squares: Shares,
    moved: usize,
    gib: f64,
    dice: u64,
}

impl Level {
    /// Hosts with what they hold and can hold, per resource. `weights` are at most 1.
    pub(crate) fn new(hosts: &[(HostId, bool, Shares, Shares)], weights: Shares) -> Self {
        let mut level = Self {
            sides: Vec::with_capacity(hosts.len()),
            items: Vec::new(),
            weights,
            squares: [0.0; 3],
            moved: 0,
            gib: 0.0,
            dice: 0x9e37_79b9_7f4a_7c15,
        };
        let mut mean = [0.0; 3];
        for (resource, mean) in mean.iter_mut().enumerate() {
            let used: f64 = hosts.iter().map(|(_, _, used, _)| used[resource]).sum();
            let there: f64 = hosts.iter().map(|(_, _, _, there)| there[resource]).sum();
            *mean = if there > 0.0 { used / there } else { 0.0 };
        }
        for (host, takes, used, there) in hosts {
            let mut side = Side {
                host: *host,
                takes: *takes,
                inverse: [0.0; 3],
                above: [0.0; 3],
                items: Vec::new(),
            };
            for resource in 0..3 {
                if there[resource] > 0.0 {
                    side.inverse[resource] = 1.0 / there[resource];
                    side.above[resource] = used[resource] / there[resource] - mean[resource];
                }
                level.squares[resource] += side.above[resource] * side.above[resource];
            }
            level.sides.push(side);
        }
        level
    }

    /// Adds a guest that may be moved from this host.
    pub(crate) fn add(&mut self, guest: GuestId, ask: usize, at: usize, load: Shares, gib: f64) {
        let place = self.sides[at].items.len();
        self.sides[at].items.push(self.items.len());
        self.items.push(Item {
            guest,
            ask,
            load,
            gib,
            home: at,
            at,
            place,
        });
    }

    /// How far the fullest host lies above the mean, in percent points, by the resource where that weighs most.
    pub(crate) fn imbalance(&self) -> f64 {
        let heights = (0..self.sides.len()).map(|side| self.height(side));
        heights.fold(0.0, f64::max)
    }

    /// How far the host lies above the mean, in percent points, by the resource where that weighs most.
    fn height(&self, side: usize) -> f64 {
        let above = self.sides[side].above.iter().zip(self.weights);
        above
            .map(|(above, weight)| above * weight * 100.0)
            .fold(0.0, f64::max)
    }

    /// Whether the host lies above the mean in a resource that counts.
    pub(crate) fn is_above(&self, side: usize) -> bool {
        (0..3).any(|resource| self.sides[side].above[resource] * self.weights[resource] > 1e-9)
    }

    /// Gives up all that was found.
    pub(crate) fn forget<'a>(&mut self, board: &mut Board<'_, 'a>, asks: &[Ask<'a>]) {
        for item in 0..self.items.len() {
            let (ask, home) = (self.items[item].ask, self.items[item].home);
            if self.items[item].at != home {
                board.remove(ask, &asks[ask]);
                self.carry(item, home);
            }
        }
    }

    fn score(&self, squares: &Shares) -> f64 {
        let hosts = self.sides.len().max(1) as f64;
        let parts = (0..3).map(|at| self.weights[at] * (squares[at].max(0.0) / hosts).sqrt());
        parts.sum::<f64>() * 100.0
    }

    /// The squares after so much has gone from one host to the other.
    fn after(&self, from: usize, to: usize, load: &Shares) -> Shares {
        let (from, to) = (&self.sides[from], &self.sides[to]);
        let mut squares = self.squares;
        for at in 0..3 {
            let (before, other) = (from.above[at], to.above[at]);
            let less = before - load[at] * from.inverse[at];
            let more = other + load[at] * to.inverse[at];
            squares[at] += less * less - before * before + more * more - other * other;
        }
        squares
    }

    fn carry(&mut self, item: usize, to: usize) {
        let from = self.items[item].at;
        let load = self.items[item].load;
        self.squares = self.after(from, to, &load);
        self.sides[from].add(&load, -1.0);
        self.sides[to].add(&load, 1.0);
        let place = self.items[item].place;
        self.sides[from].items.swap_remove(place);
        if let Some(other) = self.sides[from].items.get(place) {
            self.items[*other].place = place;
        }
        self.items[item].place = self.sides[to].items.len();
        self.sides[to].items.push(item);
        let (was, is) = (from != self.items[item].home, to != self.items[item].home);
        self.moved = self.moved + usize::from(is) - usize::from(was);
        self.gib += (f64::from(u8::from(is)) - f64::from(u8::from(was))) * self.items[item].gib;
        self.items[item].at = to;
    }

    /// What it costs more to have the item there, in GiB.
    fn fare(&self, item: usize, to: usize) -> f64 {
        let item = &self.items[item];
        (f64::from(u8::from(to != item.home)) - f64::from(u8::from(item.at != item.home)))
            * item.gib
    }

    fn roll(&mut self, sides: usize) -> usize {
        // splitmix64
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * sides as u128) >> 64) as usize
    }

    fn chance(&mut self) -> f64 {
        self.roll(1 << 30) as f64 / f64::from(1u32 << 30)
    }

    /// Searches until it is good enough, the price has fallen to the least, or the steps are used up.
    pub(crate) fn search<'a>(
        &mut self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        bounds: Bounds,
    ) {
        let all: f64 = self.items.iter().map(|item| item.gib).sum();
        if self.sides.len() < 2 || all <= 0.0 {
            return;
        }
        let worth = self.score(&self.squares) / all;
        let each = bounds.steps / PRICES.len() as u64;
        let thorough = each >= THOROUGH * self.items.len() as u64;
        for price in PRICES.map(|price| price * worth) {
            if self.imbalance() <= bounds.enough {
                break;
            }
            if !thorough {
                self.pour(board, asks, bounds, price);
            }
            self.anneal(board, asks, bounds, price, each);
            self.trim(board, asks, bounds, price);
        }
    }

    /// Takes from the fullest host what gains most per byte on one of the emptiest, until the fullest is low enough.
    fn pour<'a>(
        &mut self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        bounds: Bounds,
        price: f64,
    ) {
        let key = |height: f64| (height * 1e6) as i64;
        let mut fullest: BinaryHeap<(i64, Reverse<usize>)> = (0..self.sides.len())
            .map(|side| (key(self.height(side)), Reverse(side)))
            .collect();
        let takes = (0..self.sides.len()).filter(|side| self.sides[*side].takes);
        let mut emptiest: BTreeSet<(i64, usize)> =
            takes.map(|side| (key(self.fullness(side)), side)).collect();
        while let Some((height, Reverse(from))) = fullest.pop() {
            if height != key(self.height(from)) {
                continue;
            }
            if self.height(from) <= bounds.enough {
                return;
            }
            let targets: Vec<usize> = emptiest
                .iter()
                .take(TARGETS)
                .map(|(_, side)| *side)
                .collect();
            let now = self.score(&self.squares);
            let mut ways: Vec<(f64, usize, usize)> = Vec::new();
            for item in self.sides[from].items.iter().copied() {
                for to in targets
                    .iter()
                    .copied()
                    .filter(|to| *to != from && self.free(item, *to))
                {
                    let gain = now - self.score(&self.after(from, to, &self.items[item].load));
                    // One that is on its way already counts as much, or guests would be passed round.
                    let gib = self.items[item].gib.max(1e-6);
                    if gain > price * gib && self.within(bounds, item, None, to) {
                        ways.push((gain / gib, item, to));
                    }
                }
            }
            ways.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
            let way = ways.into_iter().take(TRIES);
            let mut way = way.filter(|(_, item, to)| self.shift(board, asks, *item, None, *to));
            let Some((_, item, to)) = way.next() else {
                continue;
            };
            for side in [from, to] {
                emptiest.remove(&(key(self.fullness(side)), side));
            }
            self.carry(item, to);
            for side in [from, to] {
                fullest.push((key(self.height(side)), Reverse(side)));
                if self.sides[side].takes {
                    emptiest.insert((key(self.fullness(side)), side));
                }
            }
        }
    }

    /// The weighed sum of what the host has above the mean.
    fn fullness(&self, side: usize) -> f64 {
        let above = self.sides[side].above.iter().zip(self.weights);
        above.map(|(above, weight)| above * weight).sum()
    }

    fn anneal<'a>(
        &mut self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        bounds: Bounds,
        price: f64,
        steps: u64,
    ) {
        // With few steps there is no time to cool down from far.
        let thorough = (steps as f64 / (400.0 * self.items.len() as f64)).min(1.0);
        let start = self.temperature() * thorough;
        let mut now = self.score(&self.squares);
        let often = self.sides.len() as u64 * 8;
        for step in 0..steps {
            if step % often == 0 && self.imbalance() <= bounds.enough {
                return;
            }
            let left = 1.0 - step as f64 / steps as f64;
            let heat = start * left * left * left;
            let Some(proposal) = self.propose() else {
                continue;
            };
            let (item, other, to) = proposal;
            let from = self.items[item].at;
            let mut load = self.items[item].load;
            let mut fare = self.fare(item, to);
            if let Some(other) = other {
                for (load, less) in load.iter_mut().zip(self.items[other].load) {
                    *load -= less;
                }
                fare += self.fare(other, from);
            }
            let squares = self.after(from, to, &load);
            let score = self.score(&squares);
            let worse = score - now + price * fare;
            if worse > 0.0 && (worse > 8.0 * heat || self.chance() >= (-worse / heat).exp()) {
                continue;
            }
            if !self.within(bounds, item, other, to) || !self.shift(board, asks, item, other, to) {
                continue;
            }
            self.carry(item, to);
            if let Some(other) = other {
                self.carry(other, from);
            }
            now = self.score(&self.squares);
        }
    }

    /// Mostly a swap of two guests between two hosts, which levels what single moves can't, else a move or a way home;
    /// half of them from the fuller host to the emptier. These parts were measured on fleets of 40 to 100 hosts.
    fn propose(&mut self) -> Option<(usize, Option<usize>, usize)> {
        let (mut from, mut to) = (self.roll(self.sides.len()), self.roll(self.sides.len()));
        if from == to {
            return None;
        }
        let either = self.roll(2) == 0;
        if !either && self.fullness(from) < self.fullness(to) {
            std::mem::swap(&mut from, &mut to);
        }
        if self.sides[from].items.is_empty() {
            return None;
        }
        let item = self.roll(self.sides[from].items.len());
        let item = self.sides[from].items[item];
        match self.roll(8) {
            0..6 if !self.sides[to].items.is_empty() => {
                let other = self.roll(self.sides[to].items.len());
                let other = self.sides[to].items[other];
                (self.free(item, to) && self.free(other, from)).then_some((item, Some(other), to))
            }
            6 => {
                let home = self.items[item].home;
                (home != from && self.free(item, home)).then_some((item, None, home))
            }
            _ => self.free(item, to).then_some((item, None, to)),
        }
    }

    fn free(&self, item: usize, to: usize) -> bool {
        let item = &self.items[item];
        self.sides[to].takes || to == item.home
    }

    /// How much a proposal changes the score, on average: where the search begins to be choosy.
    fn temperature(&mut self) -> f64 {
        const SAMPLES: usize = 400;
        let now = self.score(&self.squares);
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..SAMPLES {
            if let Some((item, None, to)) = self.propose() {
                let squares = self.after(self.items[item].at, to, &self.items[item].load);
                sum += (self.score(&squares) - now).abs();
                count += 1;
            }
        }
        0.1 * sum / f64::from(count.max(1))
    }

    fn within(&self, bounds: Bounds, item: usize, other: Option<usize>, to: usize) -> bool {
        let more = |item: usize, to: usize| {
            let item = &self.items[item];
            isize::from(to != item.home) - isize::from(item.at != item.home)
        };
        let from = self.items[item].at;
        let (mut moves, mut gib) = (more(item, to), self.fare(item, to));
        if let Some(other) = other {
            moves += more(other, from);
            gib += self.fare(other, from);
        }
        (moves <= 0 || self.moved as isize + moves <= bounds.moves as isize)
            && (gib <= 0.0 || self.gib + gib <= bounds.gib)
    }

    /// Has the board make the change. False, and nothing changed, if it can't.
    fn shift<'a>(
        &self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        item: usize,
        other: Option<usize>,
        to: usize,
    ) -> bool {
        let from = self.items[item].at;
        let both: Vec<usize> = std::iter::once(item).chain(other).collect();
        let ask = |item: usize| self.items[item].ask;
        let before: Vec<Option<Placed>> = both
            .iter()
            .map(|item| board.placed[ask(*item)].clone())
            .collect();
        // Both are lifted, so that each is looked at without the other.
        for item in &both {
            board.remove(ask(*item), &asks[ask(*item)]);
        }
        let leaves = other
            .map(|other| &self.items[other])
            .filter(|other| other.home == to);
        if let Some(other) = leaves {
            board.departs(other.guest);
        }
        let mut done = self.put(board, asks, item, to);
        if let Some(other) = leaves {
            board.stays(other.guest);
        }
        done = done && other.is_none_or(|other| self.put(board, asks, other, from));
        let unwelcome = |item: &usize, to: usize| {
            let item = &self.items[*item];
            to == item.home && !may_stay(board.view, &board.counts, item.guest)
        };
        done = done && !unwelcome(&item, to) && !other.is_some_and(|other| unwelcome(&other, from));
        let full = |side: usize| {
            let home = both.iter().any(|item| self.items[*item].home == side);
            home && over(board, self.sides[side].host)
        };
        if done && !full(to) && (other.is_none() || !full(from)) {
            return true;
        }
        for item in &both {
            board.remove(ask(*item), &asks[ask(*item)]);
        }
        for (item, placed) in both.iter().zip(before) {
            if let Some(placed) = placed {
                board.place(ask(*item), &asks[ask(*item)], placed.target, placed.pools);
            }
        }
        false
    }

    /// Places the item, which is at home on the board, at the host.
    fn put<'a>(&self, board: &mut Board<'_, 'a>, asks: &[Ask<'a>], item: usize, to: usize) -> bool {
        let item = &self.items[item];
        if to == item.home {
            return true;
        }
        let (ask, host) = (&asks[item.ask], self.sides[to].host);
        let mut pools = Vec::new();
        let bulk = Bulk::of(board.view.guest(item.guest));
        let fits = board.may_hold(&bulk, host, When::Later)
            && fits(board, ask, host, When::Later, &mut pools, &mut |_| false);
        if fits {
            board.place(item.ask, ask, host, pools);
        }
        fits
    }

    /// Sends home what is not worth its bytes, or is not needed for what is good enough.
    fn trim<'a>(
        &mut self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        bounds: Bounds,
        price: f64,
    ) {
        let away = |level: &Self| -> Vec<usize> {
            let all = 0..level.items.len();
            all.filter(|item| level.items[*item].at != level.items[*item].home)
                .collect()
        };
        let mut moved: Vec<(f64, usize)> = away(self)
            .into_iter()
            .map(|item| (self.loss(item) / self.items[item].gib.max(1e-9), item))
            .collect();
        // A guest that goes home makes only that host fuller.
        let level = self.imbalance() <= bounds.enough;
        moved.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        for (_, item) in moved {
            let facts = &self.items[item];
            let (at, home, gib) = (facts.at, facts.home, facts.gib);
            let unpaid = self.loss(item) < price * gib;
            if !unpaid && !level {
                continue;
            }
            let ask = facts.ask;
            let placed = board.placed[ask].clone();
            if !self.shift(board, asks, item, None, home) {
                continue;
            }
            self.carry(item, home);
            if level && self.height(home) > bounds.enough {
                // It was needed after all.
                self.carry(item, at);
                if let Some(placed) = placed {
                    board.place(ask, &asks[ask], placed.target, placed.pools);
                }
            }
        }
    }

    /// What the score loses if the item goes home.
    fn loss(&self, item: usize) -> f64 {
        let item = &self.items[item];
        self.score(&self.after(item.at, item.home, &item.load)) - self.score(&self.squares)
    }
}
