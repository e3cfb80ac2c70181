//! The command lines of the three servers.

use super::binaries::Binaries;
use super::description::Description;
use super::process::{Server, ServerCommand};

/// etcd, kube-apiserver and, unless it was left out, kube-controller-manager.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) etcd: Server,
    pub(crate) api_server: Server,
    pub(crate) controller_manager: Option<Server>,
}

impl Servers {
    pub(crate) fn new(description: &Description, binaries: &Binaries) -> Self {
        let server = |name, command| Server::new(name, &description.state, command);
        Self {
            etcd: server("etcd", etcd(description, binaries)),
            api_server: server("kube-apiserver", api_server(description, binaries)),
            controller_manager: description.controller_manager.then(|| {
                server(
                    "kube-controller-manager",
                    controller_manager(description, binaries),
                )
            }),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Server> {
        [&self.etcd, &self.api_server]
            .into_iter()
            .chain(&self.controller_manager)
    }
}

/// On sockets in the state folder: no ports to find, and nobody else on the machine can connect.
/// The addresses it announces to other members are never used, since there are none.
fn etcd(description: &Description, binaries: &Binaries) -> ServerCommand {
    let state = description.state.display();
    ServerCommand {
        program: binaries.etcd(),
        arguments: vec![
            "--name=evenkeel".into(),
            format!("--data-dir={}", description.data.join("etcd").display()),
            "--unsafe-no-fsync".into(),
            format!("--listen-client-urls=unix://{state}/etcd.sock"),
            "--advertise-client-urls=http://127.0.0.1:1".into(),
            format!("--listen-peer-urls=unix://{state}/etcd-peer.sock"),
            "--initial-advertise-peer-urls=http://127.0.0.1:2".into(),
            "--initial-cluster=evenkeel=http://127.0.0.1:2".into(),
            "--log-level=warn".into(),
        ],
        log: description.data.join("etcd.log"),
    }
}

fn api_server(description: &Description, binaries: &Binaries) -> ServerCommand {
    let data = description.data.display();
    let state = description.state.display();
    let mut arguments = vec![
        format!("--etcd-servers=unix://{state}/etcd.sock"),
        format!("--secure-port={}", description.port),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        "--endpoint-reconciler-type=none".into(),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        format!("--cert-dir={data}/certificates"),
        format!("--service-account-key-file={data}/service-account.key"),
        format!("--service-account-signing-key-file={data}/service-account.key"),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--token-auth-file={state}/tokens.csv"),
        "--authorization-mode=RBAC".into(),
    ];
    if description.audit {
        arguments.extend([
            format!("--audit-policy-file={data}/audit-policy.yaml"),
            format!("--audit-log-path={data}/audit.log"),
            "--audit-log-format=json".into(),
            // On disk before the answer is sent, so that a test finds what it caused.
            "--audit-log-mode=blocking".into(),
        ]);
    }
    arguments.extend(description.api_server_arguments.iter().cloned());
    ServerCommand {
        program: binaries.api_server(),
        arguments,
        log: description.data.join("kube-apiserver.log"),
    }
}

fn controller_manager(description: &Description, binaries: &Binaries) -> ServerCommand {
    let data = description.data.display();
    ServerCommand {
        program: binaries.controller_manager(),
        arguments: vec![
            format!(
                "--kubeconfig={}",
                description.state.join("kubeconfig").display()
            ),
            format!("--service-account-private-key-file={data}/service-account.key"),
            format!("--root-ca-file={}", description.certificate().display()),
            // It is the only one; and with an election it would end itself when the API server is away.
            "--leader-elect=false".into(),
            // Serves nothing: no port to find.
            "--secure-port=0".into(),
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
        ],
        log: description.data.join("kube-controller-manager.log"),
    }
}
