//! What every host last told, and how well the line to it stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    Host,
    names::HostName,
    reason::{Cause, Reason},
    shared::Timestamp,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::circuit::Circuit;
use crate::credentials::Credentials;
use crate::journal::Journal;
use crate::port::{
    DomainFacts, Endpoint, Fault, HostFacts, Hypervisor, News, PoolFacts, PortError,
};

/// Milliseconds that a deadline may lie ahead for the clock to bear it: ten years.
const MOST_KEPT: u64 = 10 * 365 * 86_400_000;
/// How long the first answer of a host is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the line to a host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing was heard yet.
    Unheard,
    /// It answers.
    Up,
    /// It does not, or may not be asked.
    Down(Cause),
}

/// A declared host.
#[derive(Debug)]
pub(crate) struct HostState {
    pub(crate) declared: Arc<Host>,
    pub(crate) endpoint: Endpoint,
    /// Nothing where its manifest can't be used.
    pub(crate) hypervisor: Option<Arc<dyn Hypervisor>>,
    pub(crate) link: Link,
    /// What it last told, without its domains.
    pub(crate) facts: Option<HostFacts>,
    /// Its domains as it last told.
    pub(crate) domains: BTreeMap<Uuid, Arc<DomainFacts>>,
    /// Rises with everything else about it that its guests' statuses are made from.
    pub(crate) revision: u64,
    /// When anything was last heard of it.
    pub(crate) observed: Option<Timestamp>,
    /// Whether its journals were read since the line came up.
    pub(crate) journals: Journals,
    /// When they were last read.
    pub(crate) journals_read: Instant,
    /// Disks that finished moves keep here for a while.
    pub(crate) kept: Vec<Keeping>,
    /// When the line was first asked for.
    pub(crate) attached: Instant,
    /// Directories outside pools that it was asked about, and whether it has answered.
    pub(crate) directories: BTreeSet<String>,
    pub(crate) directories_told: bool,
    /// Another Host that leads to the same hypervisor and is used instead.
    pub(crate) duplicate_of: Option<HostName>,
    /// What failed moves to it add up to.
    pub(crate) circuit: Circuit,
}

/// Disks that a finished move keeps at its source.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) journal: Journal,
    /// When they are to be removed.
    pub(crate) due: Instant,
    /// Whether that was tried in vain.
    pub(crate) tried: bool,
    /// Whether it is being done.
    pub(crate) busy: bool,
}

impl Keeping {
    /// Nothing where the journal keeps nothing.
    pub(crate) fn of(journal: &Journal, now: Timestamp) -> Option<Self> {
        let until: Timestamp = journal.kept_until.as_ref()?.parse().unwrap_or(now);
        let left = u64::try_from(until.duration_since(now).as_millis()).unwrap_or(0);
        Some(Self {
            journal: journal.clone(),
            due: Instant::now() + Duration::from_millis(left.min(MOST_KEPT)),
            tried: false,
            busy: false,
        })
    }
}

/// Whether a host's journals are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journals {
    /// Not asked for since the line came up.
    Unread,
    /// Asked for.
    Reading,
    /// Known.
    Read,
}

/// How a declared host is reached; with a cause where its manifest or its credentials can't be used.
pub(crate) fn endpoint(
    host: &Host,
    credentials: &BTreeMap<String, Result<Arc<Credentials>, Cause>>,
) -> (Endpoint, Option<Cause>) {
    let spec = &host.spec;
    let mut endpoint = Endpoint {
        uri: spec.uri.clone(),
        credentials: None,
    };
    let uris = std::iter::once(&spec.uri).chain(spec.migration.uri.as_ref());
    for uri in uris {
        if uri.starts_with("qemu+tcp://") && !spec.insecure {
            let message = format!("{uri} is neither encrypted nor authenticated");
            return (
                endpoint,
                Some(Cause::new(Reason::InvalidURI, message).hint(
                    "say `insecure: true` to use it all the same, or use qemu+tls or qemu+ssh",
                )),
            );
        }
        if uri.contains(['?', '#', '%', '"', '\'', '\\'])
            || uri.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            return (
                endpoint,
                Some(Cause::new(
                    Reason::InvalidURI,
                    format!("{uri:?} carries more than scheme, host, port and /system"),
                )),
            );
        }
    }
    match own_credentials(host, credentials) {
        Ok(own) => {
            endpoint.credentials = own;
            (endpoint, None)
        }
        Err(cause) => (endpoint, Some(cause)),
    }
}

/// The credentials that a host's manifest names, of those there are.
fn own_credentials(
    host: &Host,
    credentials: &BTreeMap<String, Result<Arc<Credentials>, Cause>>,
) -> Result<Option<Arc<Credentials>>, Cause> {
    let Some(named) = &host.spec.credentials else {
        return Ok(None);
    };
    let secret = &named.secret_name;
    let own = credentials.get(secret).cloned().unwrap_or_else(|| {
        Err(Cause::new(
            Reason::CredentialsMissing,
            format!("the credentials `{secret}` are not there"),
        ))
    })?;
    let name = host.metadata.name.as_deref().unwrap_or_default();
    own.check(secret, name, &host.spec.uri)?;
    Ok(Some(own))
}

/// What changed with a piece of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that anybody acts on.
    Nothing,
    /// Something did.
    Something,
    /// The line came up.
    Connected,
    /// The line went down.
    Lost,
}

impl HostState {
    /// One of which nothing was heard yet; with a cause one that may not be asked.
    pub(crate) fn new(
        declared: Arc<Host>,
        endpoint: Endpoint,
        hypervisor: Option<Arc<dyn Hypervisor>>,
        refused: Option<Cause>,
    ) -> Self {
        Self {
            declared,
            endpoint,
            hypervisor,
            link: refused.map_or(Link::Unheard, Link::Down),
            facts: None,
            domains: BTreeMap::new(),
            revision: 0,
            observed: None,
            journals: Journals::Unread,
            journals_read: Instant::now(),
            attached: Instant::now(),
            directories: BTreeSet::new(),
            directories_told: true,
            duplicate_of: None,
            circuit: Circuit::default(),
            kept: Vec::new(),
        }
    }

    /// Takes in its pools as they are now. Whether that is news.
    pub(crate) fn hear_pools(&mut self, pools: Vec<PoolFacts>) -> bool {
        match &mut self.facts {
            Some(facts) if facts.pools != pools => {
                facts.pools = pools;
                true
            }
            _ => false,
        }
    }

    /// Takes in what the host told.
    pub(crate) fn hear(&mut self, name: &HostName, news: News, now: Timestamp) -> Change {
        if self.link != Link::Up {
            self.revision += 1;
        }
        match news {
            News::Facts(facts) => {
                let mut facts = *facts;
                let told = std::mem::take(&mut facts.domains);
                self.observed = Some(now);
                let came_up = self.link != Link::Up;
                let same_host = self.facts.as_ref() == Some(&facts);
                let same = same_host
                    && self.domains.len() == told.len()
                    && told.iter().all(|domain| {
                        let own = self.domains.get(&domain.uuid);
                        own.is_some_and(|own| **own == *domain)
                    });
                if !same_host {
                    self.revision += 1;
                }
                self.link = Link::Up;
                self.facts = Some(facts);
                if !same {
                    let mut before = std::mem::take(&mut self.domains);
                    self.domains = told
                        .into_iter()
                        .map(|domain| {
                            let own = before.remove(&domain.uuid);
                            let own = own.filter(|own| **own == domain);
                            (domain.uuid, own.unwrap_or_else(|| Arc::new(domain)))
                        })
                        .collect();
                }
                if came_up {
                    self.circuit.renewed(Instant::now());
                    self.journals = Journals::Unread;
                    return Change::Connected;
                }
                if same {
                    Change::Nothing
                } else {
                    Change::Something
                }
            }
            News::Domain(uuid, facts) => {
                self.observed = Some(now);
                let changed = match facts {
                    Some(facts) if self.domains.get(&uuid).is_some_and(|own| **own == *facts) => {
                        false
                    }
                    Some(facts) => {
                        self.domains.insert(uuid, facts.into());
                        true
                    }
                    None => self.domains.remove(&uuid).is_some(),
                };
                if changed {
                    Change::Something
                } else {
                    Change::Nothing
                }
            }
            News::Load(load) => {
                self.observed = Some(now);
                match &mut self.facts {
                    Some(facts) if facts.load != load => {
                        facts.load = load;
                        Change::Something
                    }
                    _ => Change::Nothing,
                }
            }
            News::Event(..) | News::Usage(_) => Change::Nothing,
            News::Lost(error) => {
                let cause = unreachable(name, &error);
                // That nothing came in time says less than what was known of a host that is silent anyway. The two come in
                // turns, each no news after the other.
                let knows_more = |own: &Cause| {
                    *own == cause || error.fault == Fault::TimedOut && own.reason == cause.reason
                };
                if matches!(&self.link, Link::Down(own) if knows_more(own)) {
                    return Change::Nothing;
                }
                self.link = Link::Down(cause);
                self.revision += 1;
                self.journals = Journals::Unread;
                Change::Lost
            }
        }
    }

    /// Whether its first answer is still worth waiting for, before anything is said that it might change.
    pub(crate) fn is_awaited(&self) -> bool {
        self.link == Link::Unheard && self.attached.elapsed() < PATIENCE
    }

    /// Whether it answers and is not another's double.
    pub(crate) fn usable(&self) -> bool {
        self.link == Link::Up && self.duplicate_of.is_none() && self.facts.is_some()
    }
}

/// The cause for a host whose line is down.
pub(crate) fn unreachable(name: &HostName, error: &PortError) -> Cause {
    let trouble = match error.fault {
        Fault::Denied
        | Fault::Untrusted
        | Fault::UnknownHostKey
        | Fault::NoCredentials
        | Fault::BadCredentials => {
            format!("no connection to {name}: {error}")
        }
        _ => format!("{name} does not answer: {error}"),
    };
    Cause::new(error.into(), trouble)
}

#[cfg(test)]
mod tests {
    use evenkeel_crds::kinds::host::HostSpec;

    use super::*;

    /// Of a host that is silent our own limit and libvirt's are over in turns: it is told of once.
    #[test]
    fn what_is_known_of_a_silent_host_is_told_once() {
        let name = HostName::from("h1");
        let endpoint = Endpoint {
            uri: "qemu+tls://h1/system".to_owned(),
            credentials: None,
        };
        let host = Host::new("h1", HostSpec::default());
        let mut state = HostState::new(Arc::new(host), endpoint, None, None);
        let now = Timestamp::UNIX_EPOCH;
        let mut lost = |fault, message: &str| {
            let error = PortError::new(fault, message);
            state.hear(&name, News::Lost(error), now) == Change::Lost
        };
        assert!(lost(Fault::TimedOut, "it did not answer within 5 s"));
        assert!(lost(Fault::Unreachable, "connection timed out"));
        for _ in 0..3 {
            assert!(!lost(Fault::TimedOut, "it did not answer within 5 s"));
            assert!(!lost(Fault::Unreachable, "connection timed out"));
        }
        assert!(lost(Fault::Unreachable, "connection refused"));
        assert!(lost(Fault::Untrusted, "another certificate"));
        assert!(lost(Fault::TimedOut, "it did not answer within 5 s"));
    }
}
