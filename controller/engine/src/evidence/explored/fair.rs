//! Whether everything that was begun comes to an end, whatever the order: every way on from every state, once no fault
//! strikes any more, but for ways that nothing real takes.
//!
//! A way is fair if whatever could happen at each of its moments from some instant on does happen: a link that is cut
//! heals, a host comes back, libvirt's next step and its answer come, the program does its next step. What a user may do
//! or leave (an abort, a second move, a switch to post-copy) need not happen and may happen at any moment.
//!
//! A way without end stays in one strongly connected component of the graph of what can happen without a fault. In one
//! where something could happen everywhere and never does inside, no fair way stays. In each of the others there is one
//! that comes past all of its states again and again: so all of them must be states of rest. That is exact, not a search
//! among schedules.

use std::collections::HashMap;

use stateright::Model;

use super::{
    Action, Move,
    controller::{Act, State},
    world::STEPS,
};

/// A bit for each of what happens without fail.
type Movers = u16;

/// The program's next step.
const PROGRAM: Movers = 1;
/// libvirt's answer to the program's call.
const ANSWER: Movers = 1 << 1;
/// The first of the world's own steps.
const WORLD: Movers = 1 << 2;

/// Whose step an action is; 0 where it may never come. Nothing for a fault.
fn mover(action: Action) -> Option<Movers> {
    match action {
        Action::World(step) => {
            let number = STEPS.iter().position(|own| *own == step)?;
            Some(WORLD << number)
        }
        Action::Program(Act::CallReturns) => Some(ANSWER),
        Action::Program(Act::Begin | Act::GiveUp | Act::Look | Act::Do | Act::Restart) => {
            Some(PROGRAM)
        }
        Action::Program(Act::Abort(_) | Act::MovesElsewhere | Act::SwitchesToPostCopy) => Some(0),
        Action::Fault(_) | Action::Dies => None,
    }
}

/// All states, and what leads from one to the next without a fault.
pub(super) struct Graph {
    pub(super) states: Vec<State>,
    /// How each was first come to; nothing for those it begins with.
    from: Vec<Option<(usize, Action)>>,
    /// Where the edges of each state begin; one more for the end.
    begins: Vec<usize>,
    edges: Vec<(usize, Movers)>,
}

impl Graph {
    pub(super) fn of(model: &Move) -> Self {
        let mut states = model.init_states();
        let mut from = vec![None; states.len()];
        let numbers = states.iter().enumerate();
        let mut known: HashMap<State, usize> =
            numbers.map(|(number, state)| (*state, number)).collect();
        let (mut begins, mut edges, mut actions) = (vec![0], Vec::new(), Vec::new());
        while let Some(state) = states.get(begins.len() - 1).copied() {
            let here = begins.len() - 1;
            model.actions(&state, &mut actions);
            for action in actions.drain(..) {
                let Some(next) = model.next_state(&state, action) else {
                    continue;
                };
                let number = *known.entry(next).or_insert_with(|| {
                    states.push(next);
                    from.push(Some((here, action)));
                    states.len() - 1
                });
                if let Some(mover) = mover(action) {
                    edges.push((number, mover));
                }
            }
            begins.push(edges.len());
        }
        Self {
            states,
            from,
            begins,
            edges,
        }
    }

    fn edges(&self, state: usize) -> &[(usize, Movers)] {
        &self.edges[self.begins[state]..self.begins[state + 1]]
    }

    /// A shortest way to a state.
    pub(super) fn way_to(&self, mut state: usize) -> Vec<Action> {
        let mut way = Vec::new();
        while let Some((before, action)) = self.from[state] {
            way.push(action);
            state = before;
        }
        way.reverse();
        way
    }

    /// A state to which a fair way comes back for ever, or in which one ends, although that is no rest.
    pub(super) fn restless(&self, rests: impl Fn(&State) -> bool) -> Option<usize> {
        let (component, count) = self.components();
        let mut everywhere = vec![Movers::MAX; count];
        let mut inside = vec![0; count];
        for (state, own) in component.iter().enumerate() {
            let mut possible = 0;
            for (next, mover) in self.edges(state) {
                possible |= mover;
                if component[*next] == *own {
                    inside[*own] |= mover;
                }
            }
            everywhere[*own] &= possible;
        }
        let stays = |own: usize| everywhere[own] & !inside[own] == 0;
        let mut states = self.states.iter().zip(component);
        states.position(|(state, own)| stays(own) && !rests(state))
    }

    /// The strongly connected component of each state, and how many there are: Tarjan's algorithm, without recursion.
    fn components(&self) -> (Vec<usize>, usize) {
        const NONE: usize = usize::MAX;
        let size = self.states.len();
        let (mut component, mut count) = (vec![NONE; size], 0);
        let (mut order, mut low, mut seen) = (vec![NONE; size], vec![NONE; size], 0);
        let (mut open, mut path) = (Vec::new(), Vec::new());
        for root in 0..size {
            if order[root] == NONE {
                path.push((root, 0));
            }
            while let Some((state, edge)) = path.pop() {
                if edge == 0 {
                    (order[state], low[state]) = (seen, seen);
                    seen += 1;
                    open.push(state);
                } else {
                    // Back from the edge before.
                    let (last, _) = self.edges(state)[edge - 1];
                    if component[last] == NONE {
                        low[state] = low[state].min(low[last]);
                    }
                }
                if let Some((next, _)) = self.edges(state).get(edge) {
                    path.push((state, edge + 1));
                    if order[*next] == NONE {
                        path.push((*next, 0));
                    }
                } else if low[state] == order[state] {
                    while let Some(member) = open.pop() {
                        component[member] = count;
                        if member == state {
                            break;
                        }
                    }
                    count += 1;
                }
            }
        }
        (component, count)
    }
}
