//! Against a real API server. Run them one by one, with `KUBECONFIG` set, `EVENKEEL_CLUSTER` being the command of the
//! test cluster's tool, up to and with its id:
//!
//! ```text
//! target/debug/cluster --id kube up
//! KUBECONFIG=$(target/debug/cluster --id kube kubeconfig) EVENKEEL_CLUSTER="target/debug/cluster --id kube" \
//!     cargo test -p evenkeel-kubernetes -- --ignored --test-threads 1 --nocapture
//! ```

mod faults;
mod moves;
mod nodes;
mod objects;
mod rig;
mod silent;
mod whole;
