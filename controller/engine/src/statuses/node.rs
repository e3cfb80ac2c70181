//! What a Host says of its Kubernetes node, where the node's state may drain it.

use evenkeel_crds::{
    Host, HostStatus,
    reason::{Cause, Reason},
    shared::{Answer, find},
};

/// The condition's name.
pub(crate) const NODE_FOLLOWED: &str = "NodeFollowed";

/// Whether the node is followed, and how it is. Nothing where nothing on a node drains the host.
///
/// `heard` is what the front end has of it, `before` what the Host says already: whoever only looks at a cluster leaves it so.
pub(crate) fn followed(
    host: &Host,
    heard: Option<&(Answer, Cause)>,
    from_files: bool,
    before: Option<&HostStatus>,
) -> Option<(Answer, Cause)> {
    let node = host
        .spec
        .node
        .as_ref()
        .filter(|node| !node.drain_on.is_empty())?;
    if from_files {
        let message = format!(
            "`node.drainOn` is for clusters: without one nobody sees whether node {} is cordoned, and a cordon drains nothing",
            node.name
        );
        return Some((Answer::False, Cause::new(Reason::NoCluster, message)));
    }
    let shown = || {
        let condition = find(&before?.conditions, NODE_FOLLOWED)?;
        let answer = [Answer::True, Answer::False]
            .into_iter()
            .find(|answer| answer.as_str() == condition.status)?;
        let reason = Reason::parse(&condition.reason)?;
        let cause = Cause::new(reason, condition.message.clone()).hint("");
        Some((answer, cause))
    };
    Some(heard.cloned().or_else(shown).unwrap_or_else(|| {
        let message = format!("node {} was not looked at yet", node.name);
        (Answer::Unknown, Cause::new(Reason::InProgress, message))
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use evenkeel_crds::{
        HostSpec,
        kinds::host::{DrainOn, NodeRef},
        shared::{Timestamp, condition},
    };

    use super::*;

    fn host(drain_on: &[DrainOn]) -> Host {
        let node = NodeRef {
            name: "worker-1".to_owned(),
            drain_on: drain_on.iter().copied().collect(),
        };
        Host::new(
            "h1",
            HostSpec {
                node: Some(node),
                ..HostSpec::default()
            },
        )
    }

    fn stored(answer: Answer, reason: Reason) -> HostStatus {
        let now = Timestamp::UNIX_EPOCH;
        HostStatus {
            conditions: vec![condition(NODE_FOLLOWED, answer, reason, "it is", None, now)],
            ..HostStatus::default()
        }
    }

    fn says(
        heard: Option<Reason>,
        from_files: bool,
        before: Option<&HostStatus>,
    ) -> (Answer, Reason) {
        let heard = heard.map(|reason| (Answer::True, Cause::new(reason, "heard")));
        let host = host(&[DrainOn::Cordon]);
        let (answer, cause) = followed(&host, heard.as_ref(), from_files, before).unwrap();
        (answer, cause.reason)
    }

    #[test]
    fn nothing_is_said_where_nothing_drains_the_host() {
        for from_files in [false, true] {
            assert_eq!(followed(&host(&[]), None, from_files, None), None);
        }
    }

    #[test]
    fn what_is_heard_counts_then_what_is_shown_already_but_never_without_a_cluster() {
        let shown = stored(Answer::False, Reason::NodeNotFound);
        let cordoned = Some(Reason::NodeCordoned);
        assert_eq!(
            says(cordoned, false, Some(&shown)),
            (Answer::True, Reason::NodeCordoned)
        );
        assert_eq!(
            says(None, false, Some(&shown)),
            (Answer::False, Reason::NodeNotFound)
        );
        let unknown = stored(Answer::Unknown, Reason::InProgress);
        for before in [None, Some(&unknown)] {
            assert_eq!(
                says(None, false, before),
                (Answer::Unknown, Reason::InProgress)
            );
        }
        assert_eq!(
            says(cordoned, true, Some(&shown)),
            (Answer::False, Reason::NoCluster)
        );
    }
}
