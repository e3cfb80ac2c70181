//! Which profile a move takes, and why what it asks for can't be done. Pure.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::{
    MigrationProfile, MigrationProfileSpec,
    kinds::profile::{AppliedProfile, Compression, Switchover, Transport},
    names::HostName,
    reason::{Cause, Reason},
};

use crate::{capacity::version, encryption, guests::Entry, hosts::HostState};

/// The name of the profile for whatever names none.
const DEFAULT: &str = "default";

/// First libvirt that compresses what several connections carry.
const PARALLEL_COMPRESSION: [u32; 3] = [9, 4, 0];
/// First QEMU that does.
const MULTIFD_COMPRESSION: [u32; 3] = [5, 0, 0];
/// First libvirt that takes a broken post-copy up again.
const RECOVERY: [u32; 3] = [8, 5, 0];

/// Every profile that is declared, and the hosts they are applied to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profiles<'a> {
    pub(crate) declared: &'a BTreeMap<String, Arc<MigrationProfile>>,
    pub(crate) hosts: &'a BTreeMap<HostName, HostState>,
}

impl Profiles<'_> {
    /// The profile of a move of that guest: the one that the move names, else the guest's, else `default`, else what
    /// is built in. Only between these hosts, as far as they are known; one that can't be done there is a cause.
    pub(crate) fn choose(
        &self,
        named: Option<&str>,
        guest: Option<&Entry>,
        hosts: &[&HostName],
    ) -> Result<AppliedProfile, Cause> {
        let declared = guest.and_then(|entry| entry.declared.as_ref());
        let profile = choose(
            self.declared,
            named.or_else(|| declared?.spec.profile.as_deref()),
        )?;
        let ends: Vec<End> = hosts
            .iter()
            .filter_map(|&host| {
                let facts = self.hosts.get(host)?.facts.as_ref()?;
                Some(End {
                    host: host.as_str(),
                    libvirt: version(&facts.libvirt_version),
                    qemu: version(&facts.hypervisor_version),
                })
            })
            .collect();
        let plain = || {
            let mut hosts = hosts
                .iter()
                .filter_map(|&name| self.hosts.get_key_value(name));
            hosts.find_map(|(name, state)| {
                encryption::refusal(profile.spec.encryption, name, &state.declared.spec)
            })
        };
        match refusal(&profile.spec, &ends).or_else(plain) {
            None => Ok(profile),
            Some(cause) => {
                let Cause {
                    reason,
                    message,
                    hint,
                } = cause;
                let name = profile.name.as_deref().unwrap_or(DEFAULT);
                Err(Cause::new(reason, format!("MigrationProfile {name}: {message}")).hint(hint))
            }
        }
    }
}

fn choose(
    declared: &BTreeMap<String, Arc<MigrationProfile>>,
    named: Option<&str>,
) -> Result<AppliedProfile, Cause> {
    let applied = |name: &str, profile: &MigrationProfile| AppliedProfile {
        name: Some(name.to_owned()),
        spec: profile.spec.clone(),
    };
    match named {
        Some(name) => declared
            .get(name)
            .map(|profile| applied(name, profile))
            .ok_or_else(|| {
                Cause::new(
                    Reason::ProfileNotFound,
                    format!("no MigrationProfile is named {name}"),
                )
            }),
        None => Ok(declared
            .get(DEFAULT)
            .map(|profile| applied(DEFAULT, profile))
            .unwrap_or_default()),
    }
}

/// An end of a move, as far as profiles depend on it.
#[derive(Debug, Clone, Copy)]
struct End<'a> {
    host: &'a str,
    libvirt: [u32; 3],
    qemu: [u32; 3],
}

/// Why no host can do what a profile asks for.
pub(crate) fn unusable(spec: &MigrationProfileSpec) -> Option<Cause> {
    refusal(spec, &[])
}

/// Why what a profile asks for can't be done: by libvirt at all, or at one of these ends.
fn refusal(spec: &MigrationProfileSpec, ends: &[End<'_>]) -> Option<Cause> {
    pair(spec)
        .map(|sentence| Cause::new(Reason::ProfileNotApplicable, sentence))
        .or_else(|| ends.iter().find_map(|end| older(spec, end)))
}

/// Two settings that libvirt does not take together, whatever its version; some versions take them and do something else.
fn pair(spec: &MigrationProfileSpec) -> Option<&'static str> {
    let several = spec.connections > 1;
    let post_copy = spec.allows_post_copy();
    match spec.compression {
        Compression::Zstd | Compression::Zlib if !several => {
            return Some(
                "`compression: Zstd` and `Zlib` work on several connections only: set `connections` to 2 or more",
            );
        }
        Compression::Xbzrle if several => {
            return Some(
                "`compression: Xbzrle` works on one connection only: set `connections` to 1",
            );
        }
        _ => {}
    }
    if post_copy && several {
        // libvirt takes it, and the target's QEMU (7.2) dies of it after the switch.
        return Some("`PostCopy` works on one connection only: set `connections` to 1");
    }
    if post_copy && spec.switchover == Switchover::Guarded {
        return Some(
            "`PostCopy` does not go with `switchover: Guarded`: it lets the target run before the source is gone",
        );
    }
    if post_copy && spec.transport == Transport::Direct {
        return Some(
            "`PostCopy` does not go with `transport: Direct`: the end of the controller would take the guest's memory with it",
        );
    }
    None
}

/// What an end's libvirt or QEMU is too old for.
fn older(spec: &MigrationProfileSpec, end: &End<'_>) -> Option<Cause> {
    let mut needs = Vec::new();
    if let (Compression::Zstd | Compression::Zlib, Some(method)) =
        (spec.compression, spec.compression.method())
    {
        let compression = format!("compression by {method}");
        needs.push((
            compression.clone(),
            "libvirt",
            end.libvirt,
            PARALLEL_COMPRESSION,
        ));
        needs.push((compression, "QEMU", end.qemu, MULTIFD_COMPRESSION));
    }
    if spec.allows_post_copy() {
        let post_copy = "`PostCopy`".to_owned();
        needs.push((post_copy, "libvirt", end.libvirt, RECOVERY));
    }
    let (what, whose, has, needs) = needs.into_iter().find(|(.., has, needs)| has < needs)?;
    let text = |[major, minor, patch]: [u32; 3]| format!("{major}.{minor}.{patch}");
    Some(Cause::new(
        Reason::ProfileNotApplicable,
        format!(
            "{what} needs {whose} {}, and {} has {}",
            text(needs),
            end.host,
            text(has)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evenkeel_crds::{
        kinds::profile::{Convergence, Encryption},
        quantity::Span,
    };

    use super::*;

    fn spec(change: impl FnOnce(&mut MigrationProfileSpec)) -> MigrationProfileSpec {
        let mut spec = MigrationProfileSpec::default();
        change(&mut spec);
        spec
    }

    const BOOKWORM: [u32; 3] = [9, 0, 0];
    const TRIXIE: [u32; 3] = [11, 3, 0];

    /// What libvirt 9.0 with QEMU 7.2 and later ones take, and what they refuse or take without doing it.
    #[test]
    fn pairs_and_versions() {
        use Compression::{Xbzrle, Zlib, Zstd};
        use Reason::ProfileNotApplicable;
        type Row<'a> = (
            &'a str,
            MigrationProfileSpec,
            [u32; 3],
            Option<(Reason, &'a str)>,
        );
        let rows: Vec<Row<'_>> = vec![
            ("built in", spec(|_| {}), BOOKWORM, None),
            (
                "connections",
                spec(|own| own.connections = 4),
                BOOKWORM,
                None,
            ),
            (
                "xbzrle",
                spec(|own| own.compression = Xbzrle),
                BOOKWORM,
                None,
            ),
            (
                "no help",
                spec(|own| own.convergence.clear()),
                BOOKWORM,
                None,
            ),
            (
                "plain",
                spec(|own| own.encryption = Encryption::None),
                BOOKWORM,
                None,
            ),
            (
                "zstd alone",
                spec(|own| own.compression = Zstd),
                TRIXIE,
                Some((ProfileNotApplicable, "several connections only")),
            ),
            (
                "zlib alone",
                spec(|own| own.compression = Zlib),
                TRIXIE,
                Some((ProfileNotApplicable, "several connections only")),
            ),
            (
                "zstd on connections",
                spec(|own| (own.compression, own.connections) = (Zstd, 2)),
                TRIXIE,
                None,
            ),
            (
                "zstd, libvirt too old",
                spec(|own| (own.compression, own.connections) = (Zstd, 2)),
                BOOKWORM,
                Some((
                    ProfileNotApplicable,
                    "zstd needs libvirt 9.4.0, and h2 has 9.0.0",
                )),
            ),
            (
                "zlib, libvirt too old",
                spec(|own| (own.compression, own.connections) = (Zlib, 8)),
                BOOKWORM,
                Some((
                    ProfileNotApplicable,
                    "zlib needs libvirt 9.4.0, and h2 has 9.0.0",
                )),
            ),
            (
                "xbzrle on connections",
                spec(|own| (own.compression, own.connections) = (Xbzrle, 2)),
                TRIXIE,
                Some((ProfileNotApplicable, "one connection only")),
            ),
            (
                "post-copy on connections",
                spec(|own| {
                    own.convergence.push(Convergence::PostCopy);
                    own.connections = 2;
                }),
                TRIXIE,
                Some((ProfileNotApplicable, "one connection only")),
            ),
            (
                "post-copy, encrypted",
                spec(|own| {
                    own.convergence.push(Convergence::PostCopy);
                    own.encryption = Encryption::Required;
                }),
                BOOKWORM,
                None,
            ),
            (
                "post-copy, libvirt too old to take it up again",
                spec(|own| own.convergence = vec![Convergence::PostCopy]),
                [8, 4, 0],
                Some((
                    ProfileNotApplicable,
                    "`PostCopy` needs libvirt 8.5.0, and h2 has 8.4.0",
                )),
            ),
            (
                "encrypted",
                spec(|own| own.encryption = Encryption::Required),
                TRIXIE,
                None,
            ),
            (
                "direct",
                spec(|own| own.transport = Transport::Direct),
                BOOKWORM,
                None,
            ),
            (
                "direct, post-copy",
                spec(|own| {
                    own.convergence.push(Convergence::PostCopy);
                    own.transport = Transport::Direct;
                }),
                TRIXIE,
                Some((ProfileNotApplicable, "transport: Direct")),
            ),
            (
                "guarded",
                spec(|own| own.switchover = Switchover::Guarded),
                BOOKWORM,
                None,
            ),
            (
                "post-copy, guarded",
                spec(|own| {
                    own.convergence.push(Convergence::PostCopy);
                    own.switchover = Switchover::Guarded;
                }),
                TRIXIE,
                Some((ProfileNotApplicable, "switchover: Guarded")),
            ),
            (
                "kept",
                spec(|own| own.keep_source = Span(Duration::from_secs(60))),
                TRIXIE,
                None,
            ),
        ];
        for (row, spec, libvirt, wanted) in rows {
            let qemu = [7, 2, 22];
            let ends = [
                End {
                    host: "h1",
                    libvirt: TRIXIE,
                    qemu,
                },
                End {
                    host: "h2",
                    libvirt,
                    qemu,
                },
            ];
            let found = refusal(&spec, &ends);
            match (found, wanted) {
                (None, None) => {}
                (Some(cause), Some((reason, part))) => {
                    assert_eq!(cause.reason, reason, "{row}");
                    assert!(cause.message.contains(part), "{row}: {}", cause.message);
                }
                (found, wanted) => panic!("{row}: {found:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn the_nearest_one_is_taken_and_an_unknown_one_is_said() {
        let profile = |attempts| {
            let spec = spec(|own| own.attempts = attempts);
            Arc::new(MigrationProfile::new("x", spec))
        };
        let mut declared = BTreeMap::from([("fast".to_owned(), profile(2))]);
        let attempts =
            |declared: &_, named| choose(declared, named).map(|found| found.spec.attempts);
        assert_eq!(attempts(&declared, None), Ok(5));
        assert_eq!(choose(&declared, None).unwrap().name, None);
        declared.insert(DEFAULT.to_owned(), profile(3));
        assert_eq!(attempts(&declared, None), Ok(3));
        assert_eq!(attempts(&declared, Some("fast")), Ok(2));
        let cause = attempts(&declared, Some("slow")).unwrap_err();
        assert_eq!(cause.reason, Reason::ProfileNotFound);
        assert!(cause.message.contains("slow"));
    }
}
