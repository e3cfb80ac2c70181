//! Open hosts in the order in which they are looked at for a guest, so that a choice costs a few looks instead of one
//! at every host.

use std::collections::BTreeSet;

/// What a host's place on the shelf follows from: how full it is (in steps), how many waves of moves go there, how many
/// seconds they take, and its place in the order of names.
pub(crate) type Place = (i128, i128, u64, u32);

/// Open hosts, the emptiest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    order: BTreeSet<Place>,
    /// By rank; absent: not on the shelf.
    places: Vec<Option<Place>>,
}

impl Shelf {
    /// An empty shelf for so many hosts.
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            order: BTreeSet::new(),
            places: vec![None; hosts],
        }
    }

    /// Puts the host of this rank where it belongs now.
    pub(crate) fn put(&mut self, place: Place) {
        let known = &mut self.places[place.3 as usize];
        if *known == Some(place) {
            return;
        }
        if let Some(before) = known.replace(place) {
            self.order.remove(&before);
        }
        self.order.insert(place);
    }

    /// From the emptiest to the fullest.
    pub(crate) fn places(&self) -> impl DoubleEndedIterator<Item = &Place> {
        self.order.iter()
    }
}
