//! What the planner was asked: everything that a plan follows from, so that it can be made again, anywhere and later.

pub(crate) mod policies;

use std::{sync::Arc, time::Duration};

use evenkeel_planner::{Fleet, GuestId, HostId, Ledger, Plan, What, Wish};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::policies::{Input, Origin, Policy, Search, whole};
use crate::view::View;

/// What was asked about a fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// What is wished for.
    pub wishes: Vec<Wish>,
    /// What is in flight and what rests.
    pub ledger: Ledger,
    /// When, in the ledger's time.
    pub now: Duration,
    /// What was asked when plans for policies were looked for.
    pub searches: Vec<Arc<Input>>,
    /// What policies keep to.
    pub policies: Vec<Policy>,
}

/// The planner's whole input. The same one gives the same plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// When, in the ledger's time.
    pub now: Duration,
    /// Everything there is.
    pub fleet: Fleet,
    /// What is wished for.
    pub wishes: Vec<Wish>,
    /// What is in flight and what rests.
    pub ledger: Ledger,
    /// What was asked when plans for policies were looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<Search>,
    /// What policies keep to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

impl View {
    /// What its plan is the answer to.
    #[must_use]
    pub fn question(&self) -> Question {
        let Asked {
            wishes,
            ledger,
            now,
            searches,
            policies,
        } = &*self.asked;
        let search = |input: &Arc<Input>| Search::of(input, &self.fleet, wishes, ledger);
        Question {
            now: *now,
            fleet: (*self.fleet).clone(),
            wishes: wishes.clone(),
            ledger: ledger.clone(),
            searches: searches.iter().map(search).collect(),
            policies: policies.clone(),
        }
    }
}

impl Question {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let plan = evenkeel_planner::plan(&self.fleet, &self.wishes, &self.ledger, self.now);
        whole(plan, &self.fleet, &self.policies, self.inputs())
    }

    fn inputs(&self) -> Vec<Input> {
        let all = self.searches.iter();
        all.map(|search| search.input(&self.fleet, &self.wishes, &self.ledger))
            .collect()
    }

    /// The fleet, and what was asked about it.
    #[must_use]
    pub fn into_asked(self) -> (Fleet, Asked) {
        let searches = self.inputs().into_iter().map(Arc::new).collect();
        let asked = Asked {
            wishes: self.wishes,
            ledger: self.ledger,
            now: self.now,
            searches,
            policies: self.policies,
        };
        (self.fleet, asked)
    }

    /// The same question has the same digest: `sha256:` and that of the question as JSON without spaces, fields in the
    /// order of their declaration, maps in the order of their keys.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Hasher(Sha256::new());
        // Neither can such data fail to be written as JSON, nor can a hasher fail to take it in.
        let _ = serde_json::to_writer(&mut hasher, self);
        let digest = hasher.0.finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// What is wrong with a question that did not come from an engine: an index that leads nowhere.
    ///
    /// # Errors
    /// With where it stands, field by field, and a sentence.
    pub fn check(&self) -> Result<(), Misplaced> {
        Indices::of(&self.fleet, Vec::new()).check(&self.fleet, &self.wishes, &self.ledger)?;
        for (index, search) in self.searches.iter().enumerate() {
            search.check(&self.fleet, vec!["searches".to_owned(), index.to_string()])?;
        }
        for (index, policy) in self.policies.iter().enumerate() {
            let origin = policy.plan.as_ref().map(|plan| &plan.origin);
            let origin = match origin {
                Some(Origin::Search(place)) => Some(*place),
                Some(Origin::Status(_)) | None => None,
            };
            let count = self.searches.len();
            if let Some(wrong) = policy
                .looked
                .into_iter()
                .chain(origin)
                .find(|place| *place >= count)
            {
                let place = vec!["policies".to_owned(), index.to_string()];
                return Err((
                    place,
                    format!("there is no search {wrong}: there are {count}"),
                ));
            }
        }
        Ok(())
    }
}

/// Where an index leads nowhere, field by field, and a sentence.
pub(crate) type Misplaced = (Vec<String>, String);

/// What indices may lead to.
pub(crate) struct Indices {
    hosts: usize,
    guests: usize,
    /// Where what is checked stands.
    place: Vec<String>,
}

impl Indices {
    pub(crate) fn of(fleet: &Fleet, place: Vec<String>) -> Self {
        Self {
            hosts: fleet.hosts.len(),
            guests: fleet.guests.len(),
            place,
        }
    }

    fn host(&self, place: &[&str], index: usize, id: HostId) -> Result<(), Misplaced> {
        if id.at() < self.hosts {
            return Ok(());
        }
        let wrong = format!("there is no host {}: the fleet has {}", id.0, self.hosts);
        Err((self.at(place, index), wrong))
    }

    pub(crate) fn guest(&self, place: &[&str], index: usize, id: GuestId) -> Result<(), Misplaced> {
        if id.at() < self.guests {
            return Ok(());
        }
        let wrong = format!("there is no guest {}: the fleet has {}", id.0, self.guests);
        Err((self.at(place, index), wrong))
    }

    fn at(&self, place: &[&str], index: usize) -> Vec<String> {
        let own = place.iter().map(|step| (*step).to_owned());
        let all = self.place.iter().cloned().chain(own);
        all.chain([index.to_string()]).collect()
    }

    pub(crate) fn check(
        &self,
        fleet: &Fleet,
        wishes: &[Wish],
        ledger: &Ledger,
    ) -> Result<(), Misplaced> {
        for (index, own) in fleet.guests.iter().enumerate() {
            self.host(&["fleet", "guests"], index, own.host)?;
        }
        self.check_wishes(&["wishes"], wishes)?;
        for (index, own) in ledger.in_flight.iter().enumerate() {
            let place = ["ledger", "inFlight"];
            self.guest(&place, index, own.guest)?;
            self.host(&place, index, own.source)?;
            self.host(&place, index, own.target)?;
        }
        for (index, own) in ledger.avoid.iter().enumerate() {
            let place = ["ledger", "avoid"];
            own.guest
                .map_or(Ok(()), |id| self.guest(&place, index, id))?;
            self.host(&place, index, own.host)?;
        }
        for (index, own) in ledger.resting.iter().enumerate() {
            self.guest(&["ledger", "resting"], index, own.guest)?;
        }
        for (own, target) in &ledger.planned {
            let place = ["ledger", "planned"];
            self.guest(&place, own.at(), *own)?;
            self.host(&place, own.at(), *target)?;
        }
        Ok(())
    }

    pub(crate) fn check_wishes(&self, place: &[&str], wishes: &[Wish]) -> Result<(), Misplaced> {
        for (index, wish) in wishes.iter().enumerate() {
            let host = |id: &HostId| self.host(place, index, *id);
            let guest = |id: &GuestId| self.guest(place, index, *id);
            match &wish.what {
                What::Move {
                    guest: own, target, ..
                } => {
                    guest(own)?;
                    target.iter().try_for_each(host)?;
                }
                What::Drain { hosts, leaves, .. } => {
                    hosts.iter().try_for_each(host)?;
                    leaves.keys().try_for_each(guest)?;
                }
                What::Place(own) => {
                    own.guests.iter().try_for_each(guest)?;
                    own.hosts.iter().flatten().try_for_each(host)?;
                }
                What::Balance(own) => {
                    own.hosts.iter().try_for_each(host)?;
                    own.leaves.keys().try_for_each(guest)?;
                }
            }
        }
        Ok(())
    }
}

struct Hasher(Sha256);

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_questions_apart() {
        let empty = Question::default();
        let later = Question {
            now: Duration::from_secs(1),
            ..Question::default()
        };
        assert_eq!(empty.digest(), Question::default().digest());
        assert_ne!(empty.digest(), later.digest());
        assert_eq!(empty.digest().len(), "sha256:".len() + 64);
    }

    #[test]
    fn an_index_that_leads_nowhere_is_found() {
        let wish: Wish = serde_json::from_value(serde_json::json!({
            "by": {"kind": "HostDrain", "name": "d", "uid": ""},
            "what": {"Drain": {"hosts": [7], "stopped": false, "parallel": 4, "makes_way": false, "leaves": {}, "halted": null}},
        }))
        .unwrap();
        let question = Question {
            wishes: vec![wish],
            ..Question::default()
        };
        let (place, sentence) = question.check().unwrap_err();
        assert_eq!(place, ["wishes", "0"]);
        assert!(sentence.contains("there is no host 7"), "{sentence}");
    }
}
