//! Full hosts, so few that every way can be looked at: which guests make way, which go where, in which order. The fewest
//! left over, then the fewest bytes of those that make way.
//!
//! A best-first search over where the guests are. What still has to travel is bounded from below by what the guest that
//! is hardest to place needs to be freed for it. Each guest moves at most once, one after the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::board::Board;
use crate::capacity::{When, demand};
use crate::choose::lacks_only_room;
use crate::effort::Effort;
use crate::fit::fits;
use crate::model::{Guest, GuestId, HostId};
use crate::wishes::{Ask, For};

/// The priorities of those left over, highest first, and the bytes of those that make way: less is better.
pub(crate) type Worth = (Vec<i32>, u128);

/// One move of a way.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) ask: usize,
    pub(crate) host: HostId,
    /// For each disk its pool there.
    pub(crate) pools: Vec<usize>,
}

/// What a search came to.
pub(crate) struct Found {
    /// Better ways than was known, the best last.
    pub(crate) ways: Vec<Vec<Turn>>,
    /// Whether there is none better than these, or than was known.
    pub(crate) all_seen: bool,
    /// How many are left over at best, as far as was looked.
    pub(crate) left: usize,
}

/// A guest that moves, or may.
struct Piece {
    ask: usize,
    guest: GuestId,
    /// Its host's place in the list; none for a host that is emptied.
    home: Option<usize>,
    /// Of a guest that is to go.
    priority: Option<i32>,
    bytes: u128,
    cpu: i128,
    memory: i128,
    /// For each host whether it may go there if there is room.
    may: Vec<bool>,
    /// One that is equal in every way: it goes first.
    twin: Option<usize>,
}

struct Node {
    before: Option<usize>,
    turn: Option<(usize, Turn)>,
    /// For each piece: 0 at home, else one more than the host's place in the list.
    places: Vec<u8>,
    bytes: u128,
    strained: u32,
}

/// Free CPU and memory of each host.
type Free = Vec<(i128, i128)>;

struct Search<'s, 'v, 'a> {
    board: Board<'v, 'a>,
    asks: &'s [Ask<'a>],
    hosts: &'s [HostId],
    pieces: Vec<Piece>,
    free: Free,
    nodes: Vec<Node>,
}

/// Looks for a better way than one that is worth `known`, on a board on which none of these asks is placed, with no more
/// than so many looks.
pub(crate) fn search<'a>(
    board: Board<'_, 'a>,
    asks: &[Ask<'a>],
    hosts: &[HostId],
    movers: &[usize],
    known: &Worth,
    mut most: u64,
    effort: &mut Effort,
) -> Found {
    let mut search = Search::new(board, asks, hosts, movers);
    let mut best = known.clone();
    let mut found = Vec::new();
    let start = vec![0; movers.len()];
    let mut least: HashMap<Vec<u8>, (u128, u32)> = HashMap::from([(start.clone(), (0, 0))]);
    let first = Node {
        before: None,
        turn: None,
        places: start,
        bytes: 0,
        strained: 0,
    };
    let mut next = BinaryHeap::new();
    next.extend(search.entry(&first, &best, 0));
    search.nodes.push(first);
    let mut least_left = search.missed(&search.nodes[0].places).len();
    let mut all_seen = true;
    while let Some(Reverse((bound, _, left, at))) = next.pop() {
        let node = &search.nodes[at];
        if least[&node.places] < (node.bytes, node.strained) {
            continue;
        }
        least_left = least_left.min(left);
        let worth = (search.missed(&node.places), node.bytes);
        if worth < best {
            best = worth;
            found.push(at);
        }
        if best.0.is_empty() && best.1 <= bound {
            break;
        }
        let mut looks = 1;
        let children = search.expand(at, &mut looks);
        if looks > most || !effort.take(looks) {
            all_seen = false;
            break;
        }
        most -= looks;
        for child in children {
            let cost = (child.bytes, child.strained);
            if least.get(&child.places).is_none_or(|known| cost < *known) {
                least.insert(child.places.clone(), cost);
                next.extend(search.entry(&child, &best, search.nodes.len()));
                search.nodes.push(child);
            }
        }
    }
    Found {
        ways: found.into_iter().map(|at| search.turns(at)).collect(),
        all_seen,
        left: least_left,
    }
}

type Entry = Reverse<(u128, u32, usize, usize)>;

impl<'s, 'v, 'a> Search<'s, 'v, 'a> {
    fn new(
        board: Board<'v, 'a>,
        asks: &'s [Ask<'a>],
        hosts: &'s [HostId],
        movers: &[usize],
    ) -> Self {
        let view = board.view;
        let free = |host: &HostId| {
            let facts = view.host(*host);
            (
                i128::from(facts.cpu_limit_milli) - board.room.cpu(*host, When::Now),
                i128::from(facts.memory_limit.0) - board.room.memory(*host, When::Now),
            )
        };
        let free = hosts.iter().map(free).collect();
        let mut pieces: Vec<Piece> = Vec::with_capacity(movers.len());
        for index in movers {
            let ask = &asks[*index];
            let guest = view.guest(ask.guest);
            let (cpu, memory) = demand(guest);
            let may = |host: &HostId| {
                *host != guest.host && lacks_only_room(&board, ask, *host, &mut Vec::new())
            };
            let piece = Piece {
                ask: *index,
                guest: ask.guest,
                home: hosts.iter().position(|host| *host == guest.host),
                priority: (ask.kind != For::Room).then_some(guest.priority),
                bytes: match ask.kind {
                    For::Room => hosts
                        .iter()
                        .map(|host| board.own_bytes(ask.guest, guest.host, *host))
                        .map(|bytes| u128::from(bytes.0))
                        .min()
                        .unwrap_or(0),
                    _ => 0,
                },
                cpu,
                memory,
                may: hosts.iter().map(may).collect(),
                twin: None,
            };
            pieces.push(piece);
        }
        for at in 1..pieces.len() {
            let twin = (0..at).rev().find(|other| {
                let (one, other) = (&pieces[at], &pieces[*other]);
                one.priority == other.priority
                    && one.may == other.may
                    && !view.rules.any(one.guest)
                    && !view.rules.any(other.guest)
                    && alike(view.guest(one.guest), view.guest(other.guest))
            });
            pieces[at].twin = twin;
        }
        Self {
            board,
            asks,
            hosts,
            pieces,
            free,
            nodes: Vec::new(),
        }
    }

    /// The priorities of those that are to go and have not, highest first.
    fn missed(&self, places: &[u8]) -> Vec<i32> {
        let home = self.pieces.iter().zip(places);
        let home = home.filter(|(_, place)| **place == 0);
        let mut missed: Vec<i32> = home.filter_map(|(piece, _)| piece.priority).collect();
        missed.sort_by_key(|priority| Reverse(*priority));
        missed
    }

    /// The node in the row of what is looked at next; none if nothing better than the best comes of it.
    fn entry(&self, node: &Node, best: &Worth, at: usize) -> Option<Entry> {
        let mut free = self.free.clone();
        for (piece, place) in self.pieces.iter().zip(&node.places) {
            if *place > 0 {
                let target = &mut free[usize::from(*place) - 1];
                *target = (target.0 - piece.cpu, target.1 - piece.memory);
                if let Some(home) = piece.home {
                    free[home] = (free[home].0 + piece.cpu, free[home].1 + piece.memory);
                }
            }
        }
        let mut hopeless: Vec<i32> = Vec::new();
        let mut left = 0;
        let mut more = 0;
        for (piece, place) in self.pieces.iter().zip(&node.places) {
            let (Some(priority), 0) = (piece.priority, *place) else {
                continue;
            };
            left += 1;
            match self.least(piece, &free, &node.places) {
                Some(bytes) => more = more.max(bytes),
                None => hopeless.push(priority),
            }
        }
        hopeless.sort_by_key(|priority| Reverse(*priority));
        // What is given up anyway asks for nothing to make way.
        let bound = node.bytes + if hopeless.is_empty() { more } else { 0 };
        let promising = (hopeless, bound) < *best;
        promising.then_some(Reverse((bound, node.strained, left, at)))
    }

    /// The fewest bytes that make way before the piece has room somewhere; none if it never has.
    fn least(&self, piece: &Piece, free: &Free, places: &[u8]) -> Option<u128> {
        let hosts = (0..self.hosts.len()).filter(|host| piece.may[*host]);
        let freed = |host: usize| {
            let short = (
                piece.cpu - free[host].0.min(piece.cpu),
                piece.memory - free[host].1.min(piece.memory),
            );
            if short == (0, 0) {
                return Some(0);
            }
            let home = self.pieces.iter().zip(places);
            let home = home.filter(|(other, place)| **place == 0 && other.home == Some(host));
            let there: Vec<&Piece> = home.map(|(other, _)| other).collect();
            let cpu = enough(there.iter().map(|other| other.cpu), short.0)?;
            let memory = enough(there.iter().map(|other| other.memory), short.1)?;
            let mut bytes: Vec<u128> = there.iter().map(|other| other.bytes).collect();
            bytes.sort_unstable();
            Some(bytes.iter().take(cpu.max(memory)).sum())
        };
        hosts.filter_map(freed).min()
    }

    /// All that can be done next.
    fn expand(&mut self, at: usize, looks: &mut u64) -> Vec<Node> {
        let way = self.way(at);
        *looks += 2 * way.len() as u64;
        for (piece, turn) in &way {
            self.shift(*piece, turn, 1);
        }
        let node = &self.nodes[at];
        let mut children = Vec::new();
        let mut pools = Vec::new();
        for (number, piece) in self.pieces.iter().enumerate() {
            let waits = |twin: usize| node.places[twin] == 0;
            if node.places[number] != 0 || piece.twin.is_some_and(waits) {
                continue;
            }
            let ask = &self.asks[piece.ask];
            for (place, host) in self.hosts.iter().enumerate() {
                if !piece.may[place] {
                    continue;
                }
                *looks += 1;
                let fit = |preferred: bool, pools: &mut Vec<usize>| {
                    let mut ask = ask.clone();
                    ask.strictness.preferred |= preferred;
                    fits(&self.board, &ask, *host, When::Now, pools, &mut |_| false)
                };
                let prefers = self.board.view.rules.prefers(piece.guest);
                let kept = fit(prefers, &mut pools);
                // Nobody who is not asked to move leaves where it is preferred for another's sake.
                let strained = !kept && piece.priority.is_some() && fit(false, &mut pools);
                if !kept && !strained {
                    continue;
                }
                let mut places = node.places.clone();
                places[number] = place as u8 + 1;
                let turn = Turn {
                    ask: piece.ask,
                    host: *host,
                    pools: pools.clone(),
                };
                children.push(Node {
                    before: Some(at),
                    turn: Some((number, turn)),
                    places,
                    bytes: node.bytes + piece.bytes,
                    strained: node.strained + u32::from(strained),
                });
            }
        }
        for (piece, turn) in way.iter().rev() {
            self.shift(*piece, turn, -1);
        }
        children
    }

    fn shift(&mut self, piece: usize, turn: &Turn, sign: i64) {
        let guest = self.pieces[piece].guest;
        self.board.settle(guest, turn.host, &turn.pools, sign);
    }

    fn turns(&self, at: usize) -> Vec<Turn> {
        let way = self.way(at).into_iter();
        way.map(|(_, turn)| turn).collect()
    }

    /// The moves that lead to a node, and of which pieces.
    fn way(&self, at: usize) -> Vec<(usize, Turn)> {
        let mut way = Vec::new();
        let mut node = &self.nodes[at];
        while let (Some(before), Some(turn)) = (node.before, &node.turn) {
            way.push(turn.clone());
            node = &self.nodes[before];
        }
        way.reverse();
        way
    }
}

/// How many of these it takes at least to be as much.
fn enough(amounts: impl Iterator<Item = i128>, wanted: i128) -> Option<usize> {
    let mut amounts: Vec<i128> = amounts.collect();
    amounts.sort_unstable();
    let mut sum = 0;
    for count in 0..=amounts.len() {
        if sum >= wanted {
            return Some(count);
        }
        sum += amounts.pop()?;
    }
    None
}

/// Whether it makes no difference which of the two moves.
fn alike(one: &Guest, other: &Guest) -> bool {
    let disks = |guest: &Guest| -> Vec<_> {
        let disks = guest.disks.iter();
        disks
            .map(|disk| {
                (
                    disk.pool.clone(),
                    disk.class.clone(),
                    disk.virtual_size,
                    disk.allocated,
                )
            })
            .collect()
    };
    one.host == other.host
        && (one.active, one.cpu_milli, one.memory, one.overhead)
            == (other.active, other.cpu_milli, other.memory, other.overhead)
        && (one.dirty_rate, one.bandwidth) == (other.dirty_rate, other.bandwidth)
        && one.needs == other.needs
        && disks(one) == disks(other)
        && one.bases == other.bases
}
