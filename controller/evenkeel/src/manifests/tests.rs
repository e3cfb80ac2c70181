//! Each kind of wrongness, with the line and the sentence a person gets.

use std::fs;

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use evenkeel_crds::MigrationProfileSpec;

use super::*;

#[path = "../../../../tests/corpus/mod.rs"]
mod corpus;

const HOST: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nmetadata: {name: h1}\n";
const MOVE: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: m}\n";
const DRAIN: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: d}\n";

fn check(text: &str) -> Result<Manifests, WrongManifests> {
    Manifests::check([("a.yaml".into(), text.to_owned())])
}

#[track_caller]
fn errors(text: &str) -> Vec<String> {
    check(text)
        .expect_err(text)
        .0
        .iter()
        .map(Wrong::to_string)
        .collect()
}

/// Exactly one error: its line and what it says.
#[track_caller]
fn one(text: &str, expected: &str) {
    assert_eq!(errors(text), [expected], "{text}");
}

fn host(spec: &str) -> String {
    format!("{HOST}spec:\n{spec}")
}

#[test]
fn not_yaml() {
    let wrong = errors(&host("  uri: [qemu\n"));
    assert_eq!(wrong.len(), 1);
    assert!(
        wrong[0].starts_with("a.yaml:") && wrong[0].contains(": not YAML: "),
        "{}",
        wrong[0]
    );
    one(
        "just text\n",
        "a.yaml:1:1: an object must be a mapping with apiVersion, kind, metadata and spec",
    );
}

#[test]
fn what_says_whose_it_is() {
    one(
        "kind: Host\nmetadata: {name: h1}\nspec: {uri: qemu+tls://h/system}\n",
        "a.yaml:1:1: Host h1: apiVersion is missing: write apiVersion: evenkeel.dev/v1alpha1",
    );
    one(
        "apiVersion: evenkeel.dev/v1\nkind: Host\nmetadata: {name: h1}\nspec: {uri: qemu+tls://h/system}\n",
        "a.yaml:1:13: Host h1: apiVersion \"evenkeel.dev/v1\" is not one of ours: write evenkeel.dev/v1alpha1",
    );
    one(
        "apiVersion: evenkel.dev/v1alpha1\nkind: Host\nmetadata: {name: h1}\nspec: {uri: qemu+tls://h/system}\n",
        "a.yaml:1:13: Host h1: apiVersion \"evenkel.dev/v1alpha1\" is not one of ours: write evenkeel.dev/v1alpha1",
    );
    one(
        "apiVersion: evenkeel.dev/v1alpha1\nmetadata: {name: h1}\n",
        "a.yaml:1:1: kind is missing: it is one of Host, Guest, GuestMigration, HostDrain, \
         GuestPlacement, RebalancePolicy, MigrationProfile, Fleet",
    );
    one(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrian\nmetadata: {name: h1}\n",
        "a.yaml:2:7: there is no kind HostDrian: did you mean HostDrain?",
    );
    one(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: Rack\nmetadata: {name: h1}\n",
        "a.yaml:2:7: there is no kind Rack in this version of Evenkeel: it has Host, Guest, GuestMigration, \
         HostDrain, GuestPlacement, RebalancePolicy, MigrationProfile, Fleet",
    );
}

#[test]
fn metadata() {
    let text = "apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nspec: {uri: qemu+tls://h/system}\n";
    one(
        text,
        "a.yaml:1:1: metadata is missing: write metadata: {name: ...}",
    );
    one(
        &format!("{text}metadata: {{labels: {{}}}}\n"),
        "a.yaml:4:11: metadata.name is missing",
    );
    one(
        &format!("{text}metadata: {{name: Host_1}}\n"),
        "a.yaml:4:18: Host Host_1: metadata.name \"Host_1\" is not a name: small letters, digits, - and . only, with a \
         letter or digit at both ends, at most 253 in all",
    );
    one(
        &format!("{text}metadata: {{name: 1}}\n"),
        "a.yaml:4:18: metadata.name must be text: write \"1\" in quotes",
    );
    one(
        &format!("{text}metadata:\n  name: h1\n  lables: {{a: b}}\n"),
        "a.yaml:6:3: Host h1: metadata.lables: there is no field lables: did you mean labels?",
    );
    one(
        &format!("{text}metadata:\n  name: h1\n  labels: {{rack: 1}}\n"),
        "a.yaml:6:18: Host h1: metadata.labels.rack must be text: write \"1\" in quotes",
    );
    one(
        &format!("{text}metadata:\n  name: h1\n  labels: {{rack: -a}}\n"),
        "a.yaml:6:18: Host h1: metadata.labels.rack: \"-a\" is not a label: letters, digits, -, _ and . only, with a \
         letter or digit at both ends, at most 63",
    );
}

#[test]
fn fields_that_are_not_there() {
    one(
        &host("  uri: qemu+tls://h1/system\n  migration:\n    bandwith: 1G\n"),
        "a.yaml:7:5: Host h1: spec.migration.bandwith: there is no field bandwith: did you mean bandwidth?",
    );
    one(
        &host("  uri: qemu+tls://h1/system\n  reserved: {colour: red}\n"),
        "a.yaml:6:14: Host h1: spec.reserved.colour: there is no field colour: there are cpu, memory",
    );
    one(
        &format!("{HOST}spce: {{}}\nspec: {{uri: qemu+tls://h1/system}}\n"),
        "a.yaml:4:1: Host h1: Host has no field spce: did you mean spec?",
    );
    one(HOST, "a.yaml:1:1: Host h1: spec is missing");
    one(
        &host("  insecure: false\n"),
        "a.yaml:4:1: Host h1: spec.uri is missing",
    );
    one(
        &host("  uri: ~\n"),
        "a.yaml:4:1: Host h1: spec.uri is missing",
    );
}

#[test]
fn wrong_types() {
    let uri = "  uri: qemu+tls://h1/system\n";
    for (line, sentence) in [
        (
            "  unschedulable: maybe\n",
            "a.yaml:6:18: Host h1: spec.unschedulable must be true or false, not \"maybe\"",
        ),
        (
            "  migration: fast\n",
            "a.yaml:6:14: Host h1: spec.migration must be a mapping, not \"fast\"",
        ),
        (
            "  pools: default\n",
            "a.yaml:6:10: Host h1: spec.pools must be a list, not \"default\"",
        ),
        (
            "  migration: {maxInbound: two}\n",
            "a.yaml:6:27: Host h1: spec.migration.maxInbound must be a whole number, not \"two\"",
        ),
        (
            "  migration: {maxInbound: 1.5}\n",
            "a.yaml:6:27: Host h1: spec.migration.maxInbound must be a whole number, not 1.5",
        ),
        (
            "  pools: [{name: 5}]\n",
            "a.yaml:6:18: Host h1: spec.pools[0].name must be text, not 5: write \"5\" in quotes",
        ),
        (
            "  pools:\n  - name:\n    - a\n",
            "a.yaml:7:5: Host h1: spec.pools[0].name must be text, not a list",
        ),
        (
            "  reserved: {cpu: 1.5}\n",
            "a.yaml:6:19: Host h1: spec.reserved.cpu: 1.5 must be in quotes: write \"1.5\", since it is neither whole nor text",
        ),
        (
            "  overcommit: {cpu: 0400}\n",
            "a.yaml:6:21: Host h1: spec.overcommit.cpu: 0400 is read as octal by YAML 1.1 (kubectl): write it without the \
             leading zero",
        ),
    ] {
        one(&host(&format!("{uri}{line}")), sentence);
    }
}

#[test]
fn words_that_yaml_takes_for_booleans() {
    one(
        &format!("{MOVE}spec: {{guest: off}}\n"),
        "a.yaml:4:15: GuestMigration m: spec.guest must be text, but off is read as the boolean false by YAML 1.1 \
         (kubectl): write \"off\" in quotes if it is meant as text",
    );
    one(
        &format!("{MOVE}spec: {{guest: a, mode: No}}\n"),
        "a.yaml:4:24: GuestMigration m: spec.mode must be one of Auto, Block, Shared, but No is read as the boolean \
         false by YAML 1.1 (kubectl)",
    );
    let labels = HOST.replace("name: h1", "name: h1, labels: {yes: b}");
    one(
        &format!("{labels}spec: {{uri: qemu+tls://h1/system}}\n"),
        "a.yaml:3:31: the key yes is read as the boolean true by YAML 1.1: write it in quotes",
    );
}

#[test]
fn amounts() {
    let uri = "  uri: qemu+tls://h1/system\n";
    let bytes = "is not a quantity of bytes: write a number with Ki, Mi, Gi, Ti, Pi or k, M, G, T, P, such as 2Gi";
    for (line, sentence) in [
        ("  reserved: {memory: 2GB}\n", format!("a.yaml:6:22: Host h1: spec.reserved.memory: \"2GB\" {bytes}")),
        ("  reserved: {memory: -1}\n", format!("a.yaml:6:22: Host h1: spec.reserved.memory: \"-1\" {bytes}")),
        (
            "  reserved: {cpu: lots}\n",
            "a.yaml:6:19: Host h1: spec.reserved.cpu: \"lots\" is not a number of CPUs: write 2, 1.5 or 500m".into(),
        ),
        (
            "  migration: {bandwidth: 500k}\n",
            "a.yaml:6:26: Host h1: spec.migration.bandwidth: a bandwidth is in bytes per second (not bits) and at least 1Mi"
                .into(),
        ),
        (
            "  migration: {bandwidth: 1024}\n",
            "a.yaml:6:26: Host h1: spec.migration.bandwidth: a bandwidth is in bytes per second (not bits) and at least 1Mi"
                .into(),
        ),
    ] {
        one(&host(&format!("{uri}{line}")), &sentence);
    }
    one(
        &format!("{MOVE}spec: {{guest: a, deadline: 5 minutes}}\n"),
        "a.yaml:4:28: GuestMigration m: spec.deadline: \"5 minutes\" is not a duration: write a number with ms, s, m or h, \
         such as 300ms or 1h30m",
    );
    one(
        &format!("{DRAIN}spec: {{hosts: {{names: [h1]}}, parallel: 0}}\n"),
        "a.yaml:4:40: HostDrain d: spec.parallel must be at least 1, not 0",
    );
    one(
        &format!("{DRAIN}spec: {{hosts: {{names: [h1]}}, parallel: 5000}}\n"),
        "a.yaml:4:40: HostDrain d: spec.parallel must be at most 1000, not 5000",
    );
}

#[test]
fn profiles() {
    const PROFILE: &str =
        "apiVersion: evenkeel.dev/v1alpha1\nkind: MigrationProfile\nmetadata: {name: p}\n";
    one(
        &format!("{PROFILE}spec: {{downtime: 0s}}\n"),
        "a.yaml:4:7: MigrationProfile p: spec: downtime is from 1ms to 2000s",
    );
    one(
        &format!("{PROFILE}spec: {{budget: {{stall: 0s}}}}\n"),
        "a.yaml:4:7: MigrationProfile p: spec: budget.perGiB and budget.stall are at least 1s",
    );
    one(
        &format!("{PROFILE}spec: {{bandwidth: 500k}}\n"),
        "a.yaml:4:19: MigrationProfile p: spec.bandwidth: a bandwidth is in bytes per second (not bits) and at least 1Mi",
    );
    one(
        &format!("{PROFILE}spec: {{convergence: [PostCopy, PostCopy]}}\n"),
        "a.yaml:4:32: MigrationProfile p: spec.convergence[1] is listed twice, first in line 4",
    );
    one(
        &format!("{PROFILE}spec: {{compression: zstd}}\n"),
        "a.yaml:4:21: MigrationProfile p: spec.compression must be one of None, Zstd, Zlib, Xbzrle, not \"zstd\": did you \
         mean Zstd?",
    );
    let manifests = check(&format!("{PROFILE}spec: {{}}\n")).unwrap();
    let spec = &manifests.wishes.profiles["p"].spec;
    assert_eq!(*spec, MigrationProfileSpec::default());
}

#[test]
fn words_with_a_list_of_values() {
    one(
        &format!("{MOVE}spec: {{guest: a, mode: block}}\n"),
        "a.yaml:4:24: GuestMigration m: spec.mode must be one of Auto, Block, Shared, not \"block\": did you mean Block?",
    );
    one(
        &format!("{DRAIN}spec: {{hosts: {{names: [h1]}}, stopped: Delete}}\n"),
        "a.yaml:4:39: HostDrain d: spec.stopped must be Leave or Move, not \"Delete\"",
    );
}

#[test]
fn lengths() {
    one(
        &format!("{MOVE}spec: {{guest: ''}}\n"),
        "a.yaml:4:15: GuestMigration m: spec.guest must not be empty",
    );
    one(
        &format!("{MOVE}spec: {{guest: {}}}\n", "a".repeat(300)),
        "a.yaml:4:15: GuestMigration m: spec.guest must have at most 253 characters, not 300",
    );
    one(
        &format!("{DRAIN}spec: {{hosts: {{names: []}}}}\n"),
        "a.yaml:4:23: HostDrain d: spec.hosts.names must not be empty",
    );
}

#[test]
fn rules_over_several_fields() {
    one(
        &format!("{DRAIN}spec:\n  hosts: {{}}\n"),
        "a.yaml:5:10: HostDrain d: spec.hosts: say exactly one of names and selector",
    );
    one(
        &format!("{DRAIN}spec: {{hosts: {{selector: {{}}}}}}\n"),
        "a.yaml:4:7: HostDrain d: spec: an empty selector would drain every host: name hosts or give the selector \
         something to match",
    );
    one(
        &host("  uri: qemu+tcp://h1/system\n"),
        "a.yaml:4:1: Host h1: spec: a qemu+tcp URI is neither encrypted nor authenticated: say insecure: true to use it \
         all the same, or use qemu+tls or qemu+ssh",
    );
}

#[test]
fn times() {
    let guest = "apiVersion: evenkeel.dev/v1alpha1\nkind: Guest\nmetadata: {name: g}\n";
    one(
        &format!("{guest}spec: {{hold: {{reason: backup, until: tomorrow}}}}\n"),
        "a.yaml:4:38: Guest g: spec.hold.until must be a time such as 2026-12-01T06:00:00Z, not \"tomorrow\"",
    );
    assert!(
        check(&format!(
            "{guest}spec: {{hold: {{reason: backup, until: 2026-12-01T06:00:00Z}}}}\n"
        ))
        .is_ok()
    );
    one(
        &format!("{guest}spec: {{uuid: 6F1C}}\n"),
        "a.yaml:4:14: Guest g: spec.uuid: \"6F1C\" is not a UUID as libvirt writes it: small letters, such as \
         6f1c2a34-0000-4000-8000-0123456789ab",
    );
}

#[test]
fn uris_that_carry_more_than_an_address() {
    for uri in [
        "qemu+ssh://h1/system?command=id",
        "qemu+ssh://h1/system?socket=/tmp/x",
        "qemu+ext://h1/system",
        "qemu:///system",
        "test:///default",
        "qemu+ssh://-oProxyCommand=id/system",
        "qemu+tls://h1/session",
    ] {
        for spec in [
            format!("  uri: '{uri}'\n"),
            format!("  uri: qemu+tls://h1/system\n  migration: {{uri: '{uri}'}}\n"),
        ] {
            let wrong = errors(&host(&spec));
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(
                wrong[0].starts_with("a.yaml:5:8: ") || wrong[0].starts_with("a.yaml:6:20: "),
                "{}",
                wrong[0]
            );
            assert!(wrong[0].contains("uri: "), "{}", wrong[0]);
        }
    }
}

#[test]
fn one_thing_written_twice() {
    let same = format!("{MOVE}spec: {{guest: a}}\n");
    let files = [
        ("a.yaml".into(), same.clone()),
        ("b.yaml".into(), format!("# again\n{same}")),
    ];
    let wrong = Manifests::check(files).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "b.yaml:2:1: GuestMigration m is already written at a.yaml:1:1: remove one of the two\n\
         1 error in the manifests; nothing was done"
    );
    one(
        &format!("{MOVE}spec:\n  guest: a\n  target: h1\n  guest: b\n"),
        "a.yaml:7:3: guest is given twice, first in line 5: remove one of them",
    );
}

#[test]
fn all_errors_of_all_files_are_reported() {
    let wrong = Manifests::check([
        (
            "b.yaml".into(),
            format!("{MOVE}spec: {{mode: X}}\n---\nkind: Host\n"),
        ),
        ("a.yaml".into(), "a: [\n".to_owned()),
    ])
    .unwrap_err();
    let lines: Vec<&str> = wrong.0.iter().map(|wrong| &*wrong.place.file).collect();
    assert_eq!(
        lines,
        ["a.yaml", "b.yaml", "b.yaml", "b.yaml", "b.yaml", "b.yaml"],
        "{wrong}"
    );
}

#[test]
fn what_others_wrote_is_skipped_with_a_note() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, colour: 1, colour: 2}\n---\n# nothing\n---\n\
                apiVersion: v2\nname: chart\n";
    let manifests = check(text).unwrap();
    assert_eq!(manifests.notes.len(), 2);
    assert_eq!(
        manifests.notes[0],
        "a.yaml:1:1: apps/v1 Deployment is none of ours and was skipped"
    );
    assert!(manifests.places.is_empty());
}

#[test]
fn lists_hold_objects() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: evenkeel.dev/v1alpha1\n  kind: Host\n  metadata:\n    \
                name: h1\n  spec:\n    uri: qemu+tls://h1/system\n- apiVersion: evenkeel.dev/v1alpha1\n  kind: Host\n  \
                metadata: {name: h2}\n  spec: {}\n";
    one(text, "a.yaml:13:9: Host h2: spec.uri is missing");
    let fine = text.replace("spec: {}", "spec: {uri: qemu+tls://h2/system}");
    assert_eq!(check(&fine).unwrap().wishes.hosts.len(), 2);
}

#[test]
fn defaults_are_the_crds() {
    let manifests = check(&format!(
        "{DRAIN}spec: {{hosts: {{names: [h1]}}}}\n---\n{}",
        host("  uri: qemu+tls://h1/system\n  reserved: {cpu: 1, memory: 2Gi}\n")
    ))
    .unwrap();
    assert_eq!(manifests.wishes.drains["d"].spec.parallel, 4);
    assert_eq!(manifests.wishes.hosts["h1"].spec.migration.max_inbound, 2);
    assert_eq!(
        manifests.place("Host", "h1").unwrap().to_string(),
        "a.yaml:6:1"
    );
}

#[test]
fn what_was_read_from_a_cluster_can_be_given_back() {
    let text = format!(
        "{}  labels: {{a: b}}\n  uid: x\n  resourceVersion: '5'\n  managedFields: []\nspec: {{guest: a, target: null}}\nstatus: {{phase: Copying}}\n",
        MOVE.replace("{name: m}", "\n  name: m")
    );
    let manifests = check(&text).unwrap();
    let migration = &manifests.wishes.migrations["m"];
    assert_eq!(
        (migration.metadata.uid.as_ref(), migration.status.as_ref()),
        (None, None)
    );
    assert_eq!(migration.metadata.labels.as_ref().unwrap()["a"], "b");
}

#[test]
fn examples_are_right() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../examples"]
        .iter()
        .collect();
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut kinds = Vec::new();
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        let manifests = Manifests::load(&[file]).unwrap_or_else(|error| panic!("{error}"));
        kinds.extend(manifests.places.into_keys().map(|(kind, _)| kind));
    }
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "Fleet",
            "Guest",
            "GuestMigration",
            "GuestPlacement",
            "Host",
            "Host",
            "Host",
            "HostDrain",
            "MigrationProfile",
            "MigrationProfile",
            "RebalancePolicy"
        ]
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(apiVersion: evenkeel.dev/v1alpha1\n|kind: (Host|Guest|HostDrain|GuestMigration|List)\n|metadata: |spec: |  uri: |  name: |items:\n- |[a-z]{1,4}: |\\PC{0,8}|[-\\[\\]{},:\n ]|1e9|Off|~|&a |\\*a |---\n){0,40}") {
        let _ = check(&text);
    }

    #[test]
    fn no_spec_makes_it_panic(spec in "(hosts|names|selector|parallel|guest|uri|pools|migration|bandwidth|hold|until): (\\{|\\[|\\}|\\]|[0-9a-zA-Z.]{0,6}|-1|, ){0,6}") {
        for head in [HOST, MOVE, DRAIN] {
            let _ = check(&format!("{head}spec: {{{spec}}}\n"));
            let _ = check(&format!("{head}spec:\n  {spec}\n"));
        }
    }
}

/// Manifests that are in order, of every kind that the examples show.
const EXAMPLES: &[&str] = &[
    include_str!("../../../../examples/hosts.yaml"),
    include_str!("../../../../examples/guest.yaml"),
    include_str!("../../../../examples/move.yaml"),
    include_str!("../../../../examples/drain.yaml"),
    include_str!("../../../../examples/placement.yaml"),
    include_str!("../../../../examples/policy.yaml"),
    include_str!("../../../../examples/profiles.yaml"),
    include_str!("../../../../examples/fleet.yaml"),
];

/// The example with lines dropped, doubled, moved in or out, or their values replaced.
fn damaged(text: &str, damage: &[(u8, prop::sample::Index, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (kind, at, value) in damage {
        if lines.is_empty() {
            break;
        }
        let at = at.index(lines.len());
        match kind % 6 {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines[at].insert_str(0, "  "),
            3 => lines[at] = lines[at].trim_start().to_owned(),
            4 => lines.insert(at, value.clone()),
            _ => {
                let key = lines[at].split(": ").next().unwrap_or_default();
                lines[at] = format!("{key}: {value}");
            }
        }
    }
    lines.join("\n")
}

/// Those that are kept: each is refused with a place and a sentence, or is good.
#[test]
fn damaged_manifests_that_are_kept() {
    for (name, bytes) in corpus::files("manifests", "") {
        let good = match String::from_utf8(bytes) {
            Err(_) => false,
            Ok(text) => match check(&text) {
                Ok(_) => true,
                Err(wrong) => {
                    assert!(wrong.0.iter().all(|wrong| !wrong.sentence.is_empty()));
                    false
                }
            },
        };
        assert_eq!(good, name.starts_with("good-"), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/proptest/manifests.txt")))), ..ProptestConfig::default() })]

    /// No panic; and what passes all checks has no field that nobody knows: damaged by an unknown one it is refused.
    #[test]
    fn damaged_manifests(
        which in 0..EXAMPLES.len(),
        damage in prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), "[-0-9a-zA-Z\"'{}\\[\\]:.,&*!| ]{0,12}|9{20}|1e400|0x10|~|\\PC{0,6}"), 0..5),
    ) {
        let text = damaged(EXAMPLES[which], &damage);
        // An object of somebody else's kind is passed over, whatever it has.
        let version = |line: &str| line.trim_start().strip_prefix("apiVersion:").map(str::to_owned);
        let ours = text.lines().filter_map(version).all(|value| value == " evenkeel.dev/v1alpha1");
        if ours && check(&text).is_ok() {
            let unknown = text.replacen("\nspec:\n", "\nspec:\n  zzNew: 1\n", 1);
            prop_assert!(unknown == text || check(&unknown).is_err(), "{unknown}");
        }
    }

    /// An amount that is read is written so that it is read as the same.
    #[test]
    fn damaged_quantities(text in "[-+]?[0-9]{0,22}(\\.[0-9]{0,4})?(e[0-9]{1,3})?[ ]?(m|k|K|Ki|M|Mi|MiB|G|Gi|T|Ti|P|Pi|E|Ei|s|ms|h|d|b|B|%)?[0-9a-z]{0,3}") {
        use evenkeel_crds::quantity::{Bytes, Cpus, Span};
        if let Ok(read) = text.parse::<Bytes>() {
            prop_assert_eq!(read.to_string().parse::<Bytes>().ok(), Some(read), "{}", read);
        }
        if let Ok(read) = text.parse::<Cpus>() {
            prop_assert_eq!(read.to_string().parse::<Cpus>().ok(), Some(read), "{}", read);
        }
        if let Ok(read) = text.parse::<Span>() {
            prop_assert_eq!(read.to_string().parse::<Span>().ok(), Some(read), "{}", read);
        }
    }
}

#[test]
fn fleets() {
    const HEAD: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: Fleet\n";
    one(
        &format!("{HEAD}metadata: {{name: other}}\nspec: {{}}\n"),
        "a.yaml:1:1: Fleet other: there is one Fleet, and its name is default",
    );
    one(
        &format!("{HEAD}metadata: {{name: default}}\nspec: {{abort: true}}\n"),
        "a.yaml:4:7: Fleet default: spec: abort: true needs suspend: true",
    );
    let text =
        format!("{HEAD}metadata: {{name: default}}\nspec: {{suspend: true, bandwidth: 8Mi}}\n");
    let manifests = check(&text).unwrap();
    let spec = &manifests.wishes.fleets["default"].spec;
    assert_eq!((spec.suspend, spec.history.per_guest), (true, 3));
    assert_eq!(spec.share().map(|share| share.0), Some(2 << 20));
}
