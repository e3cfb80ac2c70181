//! Safety rules that a test may break on purpose, to see that somebody notices. Without the feature `mutations` there is
//! nothing to switch: every rule holds, at compile time. The shipped binary refuses to be built with it.

/// Whether rules can be broken in this build.
pub const POSSIBLE: bool = cfg!(feature = "mutations");

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The source's files go only after both ends proved the guest to be at the target.
    ProofBeforeRemoval,
    /// No file goes that a domain on that host names.
    ListOfDomains,
    /// Moves under way count at both ends.
    InFlight,
    /// The claim is proven again before each act that can't be taken back.
    ClaimProven,
    /// An end that does not answer proves nothing.
    BothEnds,
    /// A switch is not aborted.
    NoAbortInSwitch,
    /// What both ends show is looked at a second time right before an act that can't be taken back.
    EvidenceSeenAgain,
    /// The source's files go only after what was copied is on stable storage.
    Durable,
}

/// Every rule.
pub const RULES: [Rule; 8] = [
    Rule::ProofBeforeRemoval,
    Rule::ListOfDomains,
    Rule::InFlight,
    Rule::ClaimProven,
    Rule::BothEnds,
    Rule::NoAbortInSwitch,
    Rule::EvidenceSeenAgain,
    Rule::Durable,
];

#[cfg(feature = "mutations")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule for every engine on this thread, or none.
#[cfg(feature = "mutations")]
pub fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}

#[cfg(feature = "mutations")]
pub(crate) fn broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

#[cfg(not(feature = "mutations"))]
pub(crate) const fn broken(_: Rule) -> bool {
    false
}
