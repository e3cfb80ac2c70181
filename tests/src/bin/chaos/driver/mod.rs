//! Who carries wishes out, and what goes wrong with it: `evenkeel apply` on files, or a controller in a cluster.

mod cluster;
mod files;

use std::time::Duration;

use anyhow::Result;
use evenkeel_tests::{
    controller::Installed,
    lab::{Host, Lab},
};

use crate::{fault::Fault, wish::Wish};

/// Carries wishes out.
pub(crate) trait Driver {
    /// Declares the wish and begins.
    fn begin(&mut self, wish: &Wish) -> Result<()>;

    /// What goes wrong with the driver itself, for so long, and is put right.
    fn strike(&mut self, fault: Fault, wish: &Wish, lasts: Duration) -> Result<()>;

    /// Waits that long for the end of what was begun. Whether it has come, or there is none to wait for.
    fn has_ended(&mut self, within: Duration) -> Result<bool>;

    /// Tries for a while to come to where everything is as wished. Whether it is.
    fn converge(&mut self, wish: &Wish) -> Result<bool>;

    /// The wish is no more.
    fn end(&mut self, wish: &Wish) -> Result<()>;

    /// What was said in this round to whoever waits for the wish.
    fn said(&self) -> &str;
}

/// One on files, or in that cluster.
pub(crate) fn of<'a>(lab: &Lab, installed: Option<&'a Installed>) -> Result<Box<dyn Driver + 'a>> {
    Ok(match installed {
        None => Box::new(files::Files::new(lab)?),
        Some(installed) => Box::new(cluster::Controllers::new(lab, installed)?),
    })
}

/// The hosts' manifests. Each host may have all guests: what is wished can be had.
fn hosts(lab: &Lab) -> Result<Vec<String>> {
    let cpu = 100 * lab.guests().len();
    let hosts = lab.hosts();
    let manifest = |host: &Host<'_>| {
        let manifest = host.manifest()?;
        Ok(format!("{manifest}  overcommit: {{cpu: {cpu}}}\n"))
    };
    hosts.iter().map(manifest).collect()
}

/// The faults that there are for it.
pub(crate) fn faults(in_cluster: bool, only: Option<&str>) -> Result<Vec<Fault>> {
    let mut faults = Fault::chosen(only)?;
    faults.retain(|fault| in_cluster || !fault.is_of_a_cluster());
    anyhow::ensure!(
        !faults.is_empty(),
        "there is no such fault without a cluster: say --cluster"
    );
    Ok(faults)
}
