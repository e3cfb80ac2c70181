//! The test cluster itself, and who may do what once the chart is installed on it.
//!
//! Needs the programs that tests/scripts/build-cluster.sh builds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel_tests::cluster::{Answer, Cluster, Description, Options, ProcessId};

/// Asks again until it is so.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        assert!(Instant::now() < deadline, "not within 90 s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn processes(cluster: &Cluster) -> Vec<ProcessId> {
    let found: Vec<_> = cluster
        .servers()
        .filter_map(|server| server.process())
        .collect();
    assert_eq!(found.len(), 3, "etcd, API server, controller manager");
    found
}

fn is_gone(description: &Description, processes: &[ProcessId]) -> bool {
    !description.state.exists()
        && !description.data.exists()
        && processes.iter().all(|process| !process.is_alive())
}

#[test]
fn objects_outlive_the_api_server_and_nothing_outlives_the_cluster() {
    let cluster = Cluster::start(Options {
        audit: true,
        ..Options::default()
    })
    .unwrap();
    cluster
        .kubectl(["create", "configmap", "kept", "--from-literal=answer=42"])
        .unwrap();

    cluster.api_server().kill().unwrap();
    assert!(!cluster.is_ready());
    assert!(
        !cluster
            .kubectl_as("admin", ["get", "configmap", "kept"])
            .unwrap()
            .succeeded()
    );
    cluster.restart_api_server().unwrap();
    let answer = cluster
        .kubectl([
            "get",
            "configmap",
            "kept",
            "--output=jsonpath={.data.answer}",
        ])
        .unwrap();
    assert_eq!(answer, "42");

    cluster.api_server().pause().unwrap();
    assert!(!cluster.is_ready());
    cluster.api_server().resume().unwrap();
    cluster.wait_until_ready(Duration::from_secs(30)).unwrap();

    let refused = cluster
        .kubectl_as("nobody", ["get", "configmap", "kept"])
        .unwrap();
    assert!(refused.forbidden(), "{refused:?}");
    let logged = cluster.audit_events().unwrap();
    assert!(logged.iter().any(
        |event| event["user"]["username"] == "nobody" && event["responseStatus"]["code"] == 403
    ));

    let (description, processes) = (cluster.description().clone(), processes(&cluster));
    drop(cluster);
    assert!(is_gone(&description, &processes));
}

#[test]
fn a_cluster_ends_with_its_owner_even_if_that_is_killed() {
    let id = format!("killed-{}", std::process::id());
    let mut owner = Command::new(env!("CARGO_BIN_EXE_cluster"))
        .args(["--id", &id, "run", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let up = || {
        Cluster::attach(&id)
            .is_ok_and(|cluster| cluster.servers().all(|server| server.process().is_some()))
    };
    eventually("the owner's cluster runs", up);
    let cluster = Cluster::attach(&id).unwrap();
    let (description, processes) = (cluster.description().clone(), processes(&cluster));

    owner.kill().unwrap();
    eventually("the cluster is gone", || is_gone(&description, &processes));
    owner.wait().unwrap();
}

const MOVE: &str = "{apiVersion: evenkeel.dev/v1alpha1, kind: GuestMigration, metadata: {name: web-1-to-h2}, \
                    spec: {guest: web-1, target: h2}}";
const HOST: &str = "{apiVersion: evenkeel.dev/v1alpha1, kind: Host, metadata: {name: h1}, \
                    spec: {uri: 'qemu+tls://h1.example.net/system'}}";

/// The viewer, the operator and the administrator have Kubernetes' own view, edit and admin, which the chart adds to.
#[test]
fn the_chart_gives_each_role_its_rights_and_no_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let chart = root.join("charts/evenkeel");
    let holds_files = |folder: &PathBuf| {
        folder
            .read_dir()
            .is_ok_and(|mut files| files.next().is_some())
    };
    let Some(crds) = [chart.join("crds"), root.join("crds/manifests")]
        .into_iter()
        .find(holds_files)
    else {
        println!("skipped: no CRDs in charts/evenkeel/crds yet; `evenkeel crds` writes them");
        return;
    };
    let cluster = Cluster::start(Options::default()).unwrap();
    for (user, role) in [
        ("viewer", "view"),
        ("operator", "edit"),
        ("administrator", "admin"),
    ] {
        let (role, group) = (
            format!("--clusterrole={role}"),
            format!("--group=evenkeel:{user}"),
        );
        cluster
            .kubectl(["create", "clusterrolebinding", user, &role, &group])
            .unwrap();
    }
    if crds != chart.join("crds") {
        cluster
            .kubectl([
                "apply",
                "--server-side",
                "--filename",
                crds.to_str().unwrap(),
            ])
            .unwrap();
    }
    let chart = chart.to_str().unwrap();
    cluster
        .kubectl(["create", "namespace", "evenkeel-system"])
        .unwrap();
    // Everything in the chart is something this API server takes.
    let rendered = cluster
        .helm(["template", "evenkeel", chart, "--namespace=evenkeel-system"])
        .unwrap();
    let dry = ["apply", "--dry-run=server", "--filename=-"];
    let dry = cluster
        .kubectl_with_input("admin", dry, &rendered)
        .unwrap()
        .success()
        .unwrap();
    assert!(
        dry.contains("deployment.apps/evenkeel created (server dry run)"),
        "{dry}"
    );
    cluster
        .helm([
            "install",
            "evenkeel",
            chart,
            "--namespace=evenkeel-system",
            "--set=replicas=0",
        ])
        .unwrap();

    let may = |user: &str, question: &[&str]| {
        let arguments = ["auth", "can-i", "--quiet"].iter().chain(question);
        cluster.kubectl_as(user, arguments).unwrap().succeeded()
    };
    eventually("the rights are aggregated", || {
        may("viewer", &["list", "hosts.evenkeel.dev"])
            && may("operator", &["create", "hostdrains.evenkeel.dev"])
            && may("administrator", &["create", "hosts.evenkeel.dev"])
    });

    let create = |user: &str, manifest: &str| -> Answer {
        cluster
            .kubectl_with_input(user, ["create", "--filename=-"], manifest)
            .unwrap()
    };
    let refused = create("viewer", MOVE);
    assert!(refused.forbidden(), "{refused:?}");
    create("operator", MOVE).success().unwrap();
    cluster
        .kubectl_as("viewer", ["get", "guestmigrations", "web-1-to-h2"])
        .unwrap()
        .success()
        .unwrap();
    let refused = create("operator", HOST);
    assert!(refused.forbidden(), "{refused:?}");
    create("administrator", HOST).success().unwrap();
    let refused = create("nobody", HOST);
    assert!(refused.forbidden(), "{refused:?}");

    assert!(may("operator", &["patch", "guests.evenkeel.dev"]));
    assert!(!may("operator", &["delete", "guests.evenkeel.dev"]));
    assert!(!may(
        "operator",
        &["create", "migrationprofiles.evenkeel.dev"]
    ));
    assert!(may(
        "administrator",
        &["create", "migrationprofiles.evenkeel.dev"]
    ));
    assert!(!may("nobody", &["list", "guests.evenkeel.dev"]));
    for user in ["viewer", "operator", "administrator"] {
        for kind in [
            "hosts",
            "guests",
            "guestmigrations",
            "hostdrains",
            "migrationprofiles",
            "fleets",
        ] {
            let status = format!("{kind}.evenkeel.dev");
            assert!(
                !may(user, &["patch", &status, "--subresource=status"]),
                "{user} may write the status of {kind}"
            );
        }
    }

    // The controller's own account.
    let account = "--as=system:serviceaccount:evenkeel-system:evenkeel";
    let here = "--namespace=evenkeel-system";
    assert!(may(
        "admin",
        &[
            "patch",
            "guests.evenkeel.dev",
            "--subresource=status",
            account
        ]
    ));
    // Those that Hosts name, in its own namespace.
    assert!(may("admin", &["get", "secrets", account, here]));
    assert!(may("admin", &["watch", "secrets", account, here]));
    assert!(!may("admin", &["list", "secrets", account, here]));
    assert!(!may("admin", &["update", "secrets", account, here]));
    assert!(!may(
        "admin",
        &["get", "secrets", account, "--namespace=default"]
    ));
    assert!(may(
        "admin",
        &["update", "leases.coordination.k8s.io", account, here]
    ));
    assert!(may(
        "admin",
        &[
            "create",
            "events.events.k8s.io",
            account,
            "--namespace=default"
        ]
    ));
    // Nodes that Hosts name, and the drains of those that are cordoned.
    assert!(may("admin", &["get", "nodes", account]));
    assert!(may("admin", &["watch", "nodes", account]));
    for verb in ["list", "update", "patch", "delete"] {
        assert!(!may("admin", &[verb, "nodes", account]), "{verb} nodes");
    }
    for (verb, allowed) in [
        ("create", true),
        ("delete", true),
        ("update", false),
        ("patch", false),
        ("deletecollection", false),
    ] {
        let question = [verb, "hostdrains.evenkeel.dev", account];
        assert_eq!(may("admin", &question), allowed, "{verb} hostdrains");
    }
    // Where cordons are of no use, neither is the right to see nodes.
    cluster
        .helm([
            "upgrade",
            "evenkeel",
            chart,
            "--namespace=evenkeel-system",
            "--set=replicas=0",
            "--set=rbac.cordons=false",
        ])
        .unwrap();
    eventually("the rights are gone", || {
        !may("admin", &["get", "nodes", account])
            && !may("admin", &["create", "hostdrains.evenkeel.dev", account])
    });
    assert!(may("admin", &["watch", "hostdrains.evenkeel.dev", account]));
}
