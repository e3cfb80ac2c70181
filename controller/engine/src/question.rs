//! What the planner was asked: everything that a plan follows from, so that it can be made again, anywhere and later.

use std::time::Duration;

use evenkeel_planner::{Fleet, GuestId, HostId, Ledger, Plan, What, Wish};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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
    /// The plan with what policies have planned before, where that is more than follows from the rest.
    pub levelled: Option<Plan>,
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
    /// The plan with what policies have planned before, where that is more than follows from the rest: they keep to what
    /// they have shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levelled: Option<Plan>,
}

impl View {
    /// What its plan is the answer to.
    #[must_use]
    pub fn question(&self) -> Question {
        let Asked {
            wishes,
            ledger,
            now,
            levelled,
        } = &*self.asked;
        Question {
            now: *now,
            fleet: (*self.fleet).clone(),
            wishes: wishes.clone(),
            ledger: ledger.clone(),
            levelled: levelled.clone(),
        }
    }
}

impl Question {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.levelled.clone().unwrap_or_else(|| {
            evenkeel_planner::plan(&self.fleet, &self.wishes, &self.ledger, self.now)
        })
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
    pub fn check(&self) -> Result<(), (Vec<String>, String)> {
        let (hosts, guests) = (self.fleet.hosts.len(), self.fleet.guests.len());
        let at = |list: &str, index: usize| vec![list.to_owned(), index.to_string()];
        let host = |place: Vec<String>, id: HostId| {
            if id.at() < hosts {
                return Ok(());
            }
            let wrong = format!("there is no host {}: the fleet has {hosts}", id.0);
            Err((place, wrong))
        };
        let guest = |place: Vec<String>, id: GuestId| {
            if id.at() < guests {
                return Ok(());
            }
            let wrong = format!("there is no guest {}: the fleet has {guests}", id.0);
            Err((place, wrong))
        };
        for (index, own) in self.fleet.guests.iter().enumerate() {
            let mut place = at("guests", index);
            place.insert(0, "fleet".to_owned());
            host(place, own.host)?;
        }
        for (index, wish) in self.wishes.iter().enumerate() {
            let place = || at("wishes", index);
            match &wish.what {
                What::Move {
                    guest: own, target, ..
                } => {
                    guest(place(), *own)?;
                    target.map_or(Ok(()), |target| host(place(), target))?;
                }
                What::Drain { hosts, .. } => {
                    hosts.iter().try_for_each(|id| host(place(), *id))?;
                }
                What::Place(own) => {
                    own.guests.iter().try_for_each(|id| guest(place(), *id))?;
                    let hosts = own.hosts.iter().flatten();
                    hosts.into_iter().try_for_each(|id| host(place(), *id))?;
                }
                What::Balance(own) => {
                    own.hosts.iter().try_for_each(|id| host(place(), *id))?;
                    own.leaves.keys().try_for_each(|id| guest(place(), *id))?;
                }
            }
        }
        let ledger = |list: &str, index: usize| {
            let mut place = at(list, index);
            place.insert(0, "ledger".to_owned());
            place
        };
        for (index, own) in self.ledger.in_flight.iter().enumerate() {
            guest(ledger("inFlight", index), own.guest)?;
            host(ledger("inFlight", index), own.source)?;
            host(ledger("inFlight", index), own.target)?;
        }
        for (index, own) in self.ledger.avoid.iter().enumerate() {
            let place = || ledger("avoid", index);
            own.guest.map_or(Ok(()), |id| guest(place(), id))?;
            host(place(), own.host)?;
        }
        for (index, own) in self.ledger.resting.iter().enumerate() {
            guest(ledger("resting", index), own.guest)?;
        }
        for (own, target) in &self.ledger.planned {
            let place = || vec!["ledger".to_owned(), "planned".to_owned(), own.0.to_string()];
            guest(place(), *own)?;
            host(place(), *target)?;
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
            "what": {"Drain": {"hosts": [7], "stopped": false, "parallel": 4, "makes_way": false, "halted": null}},
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
