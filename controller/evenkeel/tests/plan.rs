//! `plan`, `snapshot` and `simulate` as a pipeline sees them, from a snapshot: no hypervisor is there at all.
//! `make bless` writes what is compared with here.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn golden(name: &str) -> String {
    fs::read_to_string(data(name)).unwrap()
}

#[test]
fn a_snapshot_is_planned_without_a_hypervisor() {
    let snapshot = data("snapshot.yaml");
    let snapshot = snapshot.to_str().unwrap();
    for (format, expected) in [
        (&[][..], "plan.txt"),
        (&["-o", "wide"], "plan-wide.txt"),
        (&["-o", "json"], "plan.json"),
    ] {
        let (code, printed, errors) = run(&[&["plan", "-f", snapshot], format].concat());
        assert_eq!((code, errors.as_str()), (3, ""), "{expected}");
        assert_eq!(printed, golden(expected));
    }
}

#[test]
fn plans_of_policies_are_made_again_from_a_snapshot() {
    let snapshot = data("level-snapshot.yaml");
    let snapshot = snapshot.to_str().unwrap();
    for (format, expected) in [
        (&[][..], "level-plan.txt"),
        (&["-o", "wide"], "level-plan-wide.txt"),
        (&["-o", "json"], "level-plan.json"),
        (&["--picture", "-"], "level-plan.svg"),
    ] {
        let (code, printed, errors) = run(&[&["plan", "-f", snapshot], format].concat());
        assert_eq!((code, errors.as_str()), (2, ""), "{expected}");
        assert_eq!(printed, golden(expected));
    }
    let (code, printed, _) = run(&["snapshot", "-f", snapshot]);
    assert_eq!((code, printed), (0, golden("level-snapshot.yaml")));
}

#[test]
fn a_snapshot_of_a_snapshot_is_the_same() {
    let snapshot = data("snapshot.yaml");
    let (code, printed, errors) = run(&["snapshot", "-f", snapshot.to_str().unwrap()]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(printed, golden("snapshot.yaml"));
}

#[test]
fn a_rehearsal_is_the_same_each_time() {
    let snapshot = data("snapshot.yaml");
    let snapshot = snapshot.to_str().unwrap();
    let (code, printed, errors) = run(&["simulate", "-f", snapshot]);
    assert_eq!((code, errors.as_str()), (3, ""));
    assert_eq!(printed, golden("simulation.txt"));
    let faults = ["simulate", "-f", snapshot, "--faults", "3", "--seed", "3"];
    let (_, printed, _) = run(&faults);
    assert!(printed.contains("Failed on the way:"), "{printed}");
    assert_eq!(run(&faults).1, printed);
}

#[test]
fn a_changed_snapshot_is_planned_and_said_to_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("what-if.yaml");
    let text = golden("snapshot.yaml").replacen("memoryLimit: 8Gi", "memoryLimit: 9Gi", 1);
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (code, printed, errors) = run(&["plan", "-f", file]);
    assert_eq!(code, 3);
    assert_eq!(
        errors,
        format!("{file}: its input was changed since it was taken\n")
    );
    let digest = |text: &str| text.lines().last().unwrap().to_owned();
    assert_ne!(digest(&printed), digest(&golden("plan.txt")));
}

#[test]
fn a_snapshot_is_no_manifest() {
    let snapshot = data("snapshot.yaml");
    let snapshot = snapshot.to_str().unwrap();
    let manifests = data("manifests.yaml");
    for arguments in [
        &["apply", "--yes", "-f", snapshot][..],
        &["get", "hosts", "-f", snapshot],
        &["plan", "-f", snapshot, "-f", manifests.to_str().unwrap()],
    ] {
        let (code, printed, errors) = run(arguments);
        assert_eq!((code, printed.as_str()), (1, ""), "{arguments:?}");
        let line = format!("{snapshot}:1:1: a Snapshot is read by plan, simulate and snapshot");
        assert!(errors.starts_with(&line), "{errors}");
    }
}

#[test]
fn a_plan_is_drawn() {
    let snapshot = data("snapshot.yaml");
    let snapshot = snapshot.to_str().unwrap();
    let (code, printed, errors) = run(&["plan", "-f", snapshot, "--picture", "-"]);
    assert_eq!((code, errors.as_str()), (3, ""));
    assert_eq!(printed, golden("plan.svg"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("night.svg");
    let picture = ["--picture", file.to_str().unwrap()];
    let (code, printed, _) = run(&[&["simulate", "-f", snapshot], &picture[..]].concat());
    assert_eq!(code, 3);
    assert_eq!(printed, golden("simulation.txt"));
    assert!(fs::read_to_string(&file).unwrap().starts_with("<svg "));
    let nowhere = ["plan", "-f", snapshot, "--picture", "/nowhere/at/all.svg"];
    let (code, printed, errors) = run(&nowhere);
    assert_eq!((code, printed.as_str()), (1, ""));
    assert!(
        errors.contains("can't write /nowhere/at/all.svg"),
        "{errors}"
    );
}
