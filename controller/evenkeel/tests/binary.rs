//! The binary as a pipeline sees it: what it prints, where, and its exit code. Nothing here needs a host.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = evenkeel(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn host(name: &str, uri: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nmetadata:\n  name: {name}\nspec:\n  uri: {uri}\n"
    )
}

#[test]
fn crds_are_the_ones_that_are_checked_in() {
    let (code, printed, errors) = run(&["crds"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/manifests");
    let texts: Vec<&str> = printed.split("---\n").collect();
    assert_eq!(texts.len(), fs::read_dir(&folder).unwrap().count());
    for entry in fs::read_dir(&folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(texts.contains(&text.as_str()));
    }
}

#[test]
fn crds_as_files() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new");
    let (code, printed, _) = run(&["crds", "--output-dir", place.to_str().unwrap()]);
    assert_eq!((code, printed.as_str()), (0, ""));
    assert!(
        fs::read_to_string(place.join("hosts.yaml"))
            .unwrap()
            .contains("kind: CustomResourceDefinition")
    );
}

#[test]
fn completion_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("undrain"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = evenkeel(&["crds"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}

#[test]
fn errors_of_the_command_line_are_not_taken_for_something_to_do() {
    for arguments in [
        &["plam"][..],
        &["plan", "--colour"],
        &[],
        &["get", "cows"],
        &["drain"],
        &["pause"],
    ] {
        let (code, printed, errors) = run(arguments);
        assert_eq!((code, printed.as_str()), (1, ""), "{arguments:?}");
        assert!(!errors.is_empty());
    }
    let (code, printed, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(printed.contains("undrain"));
}

#[test]
fn wrong_manifests_are_all_named_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("a.yaml"),
        host("h1", "qemu+ssh://h1/system?command=id"),
    )
    .unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let text = format!("{}  bandwith: 1G\n", host("h2", "qemu+tls://h2/system"));
    fs::write(folder.path().join("sub/b.yml"), text).unwrap();
    fs::write(folder.path().join("sub/c.json"), r#"{"kind": "Guest""#).unwrap();
    let place = folder.path().display();
    for command in [
        &["plan"][..],
        &["apply", "--yes"],
        &["get", "hosts"],
        &["migrate", "a", "h1"],
        &["drain", "h1"],
    ] {
        let (code, printed, errors) =
            run(&[command, &["-f", folder.path().to_str().unwrap()]].concat());
        assert_eq!((code, printed.as_str()), (1, ""), "{command:?}");
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines.len(), 4, "{errors}");
        assert!(
            lines[0].starts_with(&format!("{place}/a.yaml:6:8: Host h1: spec.uri: ")),
            "{errors}"
        );
        assert!(
            lines[1].starts_with(&format!("{place}/sub/b.yml:7:3: Host h2: spec.bandwith: ")),
            "{errors}"
        );
        assert!(
            lines[2].starts_with(&format!("{place}/sub/c.json:")) && lines[2].contains("not YAML"),
            "{errors}"
        );
        assert_eq!(lines[3], "3 errors in the manifests; nothing was done");
    }
    assert!(!folder.path().join("drain-h1.yaml").exists());
}

#[test]
fn manifests_from_standard_input() {
    let mut child = evenkeel(&["plan", "-f", "-"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"kind: Hots\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("-:1:")
    );
}

#[test]
fn errors_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let file = folder.path().join("hosts.yaml");
    fs::write(&file, host("h1", "qemu+tls://h1.invalid/system")).unwrap();
    let file = file.to_str().unwrap();
    for (arguments, sentence) in [
        (
            &["apply"][..],
            "error: apply needs -f FILE|DIR; in a cluster, write the objects with kubectl apply and its controller does the rest",
        ),
        (
            &["plan", "-f", "/nowhere/x.yaml"],
            "error: can't read /nowhere/x.yaml: No such file or directory (os error 2)",
        ),
        (
            &["drain", "h1", "-f", file],
            "error: a drain is a file of its own, so -f must name a directory",
        ),
        (
            &["drain", "h11", "-f", empty],
            "error: the manifests name no Host h11: did you mean h1?",
        ),
        (
            &["migrate", "web-1", "h11", "-f", file],
            "error: the manifests name no Host h11: did you mean h1?",
        ),
        (
            &["drain", "No Host", "-f", empty],
            "error: \"No Host\" is not the name of a Host",
        ),
    ] {
        let (code, printed, errors) = run(arguments);
        assert_eq!(
            (code, printed.as_str(), errors.trim_end()),
            (1, "", sentence),
            "{arguments:?}"
        );
    }
    let (code, _, errors) = run(&["get", "hosts"]);
    assert_eq!(code, 1);
    assert!(
        errors.starts_with("error: no cluster is configured") && errors.lines().count() == 1,
        "{errors}"
    );
}

#[test]
fn drains_are_written_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    fs::write(
        folder.path().join("hosts.yaml"),
        host("h1", "qemu+tls://h1.invalid/system"),
    )
    .unwrap();
    let (code, _, errors) = run(&["drain", "h1", "--no-wait", "-f", place]);
    assert_eq!(
        (code, errors),
        (0, format!("{place}/drain-h1.yaml written.\n"))
    );
    let (code, printed, _) = run(&["undrain", "h1", "-f", place]);
    assert_eq!(
        (code, printed),
        (0, format!("{place}/drain-h1.yaml removed.\n"))
    );
    let (code, printed, _) = run(&["undrain", "h1", "-f", place]);
    assert_eq!(
        (code, printed.as_str()),
        (0, "There is no HostDrain drain-h1: nothing to do.\n")
    );
}

#[test]
fn a_plugin_calls_itself_one() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("kubectl-evenkeel");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_evenkeel"), &link).unwrap();
    let output = Command::new(link).args(["get", "--help"]).output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("Usage: kubectl evenkeel get")
    );
}

/// A host that does not answer is found not to, within the engine's own deadlines.
#[test]
fn a_host_that_does_not_answer_is_shown_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let text = host("h1", "qemu+tcp://127.0.0.1:1/system\n  insecure: true");
    fs::write(folder.path().join("hosts.yaml"), text).unwrap();
    let (code, printed, errors) = run(&["get", "hosts", "-f", place]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(printed.contains("HostUnreachable"), "{printed}");
    let (code, printed, _) = run(&["plan", "-f", place]);
    assert_eq!(code, 0);
    assert!(
        printed.contains("Host h1 was not seen: HostUnreachable")
            && printed.contains("Nothing to do."),
        "{printed}"
    );
    let (code, printed, _) = run(&["describe", "host", "h1", "-f", place]);
    assert_eq!(code, 0);
    assert!(
        printed.starts_with("Host h1\n\nNot as it should be:\n"),
        "{printed}"
    );
    fs::write(folder.path().join("drain.yaml"), "apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: d}\nspec: {hosts: {names: [h1]}}\n").unwrap();
    let (code, printed, _) = run(&["plan", "-f", place, "-o", "json"]);
    assert_eq!(code, 3);
    assert!(
        printed.contains("\"result\": \"SomethingImpossible\"")
            && printed.contains("drain.yaml:1:1"),
        "{printed}"
    );
}

/// Its memory holds keys and passwords.
#[test]
fn no_core_is_dumped() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("h1.yaml"),
        host("h1", "qemu+tls://192.0.2.1/system"),
    )
    .unwrap();
    // A shell that asks for cores becomes the program.
    let mut child = Command::new("sh")
        .args(["-c", r#"ulimit -c "$(ulimit -H -c)"; exec "$0" "$@""#])
        .arg(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["apply", "--yes", "--watch", "-f"])
        .arg(folder.path())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    let forbidden = || {
        let limits = fs::read_to_string(&limits).unwrap_or_default();
        let core = limits.lines().find(|line| line.contains("core file"));
        core.is_some_and(|line| {
            line.split_whitespace()
                .eq("Max core file size 1 1 bytes".split(' '))
        })
    };
    let start = Instant::now();
    while !forbidden() && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(forbidden());
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-ABRT", &id]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait().unwrap();
    assert!(ended.signal().is_some() && !ended.core_dumped(), "{ended}");
}
