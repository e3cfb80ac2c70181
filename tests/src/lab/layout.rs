//! Where a lab keeps its things and what they are called.
//!
//! Small state (process ids, scripts, the record) is under `/run/evenkeel-lab/ID`, bulk data (disks, the hosts'
//! private directories) under `/var/tmp/evenkeel-lab/ID` or `$EVENKEEL_LAB_DATA/ID`. Devices are `evk-ID` (the
//! bridge) and `evk-ID-K` (the machine's end of host K's cable).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::command::run;

const STATE_ROOT: &str = "/run/evenkeel-lab";
const DATA_ROOT: &str = "/var/tmp/evenkeel-lab";
/// Where in the address range of a subnet the hosts begin.
const FIRST_HOST: usize = 10;
/// As many hosts as fit into one subnet.
pub(crate) const MOST_HOSTS: usize = 200;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    id: String,
    data_root: PathBuf,
}

impl Layout {
    /// The places of the lab `id`, whether or not there is one.
    pub(crate) fn of(id: &str) -> Result<Self> {
        let fits = !id.is_empty() && id.len() <= 6;
        let plain = id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        ensure!(
            fits && plain,
            "a lab's id is 1 to 6 small letters and digits, not {id:?}"
        );
        let mut layout = Self {
            id: id.to_owned(),
            data_root: data_root(),
        };
        // A lab knows where its data is, whatever the environment says now.
        if let Ok(link) = fs::read_to_string(layout.state().join("data")) {
            layout.data_root = PathBuf::from(link.trim());
        }
        Ok(layout)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        PathBuf::from(STATE_ROOT)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.state_root().join(&self.id)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data_root.join(&self.id)
    }

    pub(crate) fn host_state(&self, index: usize) -> PathBuf {
        self.state().join(format!("host{index}"))
    }

    pub(crate) fn host_data(&self, index: usize) -> PathBuf {
        self.data().join(format!("host{index}"))
    }

    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.data().join("scratch")
    }

    pub(crate) fn bridge(&self) -> String {
        format!("evk-{}", self.id)
    }

    pub(crate) fn cable(&self, index: usize) -> String {
        format!("evk-{}-{index}", self.id)
    }

    /// Takes the id, and checks that the hosts will see the lab's data: fails if another lab has it.
    pub(crate) fn claim_id(&self) -> Result<()> {
        for private in [
            "/srv",
            "/var/lib/libvirt",
            "/var/log/libvirt",
            "/var/cache/libvirt",
            "/etc/libvirt",
            "/run",
        ] {
            ensure!(
                !self.data_root.starts_with(private),
                "the lab's data cannot be under {private}: hosts have their own"
            );
        }
        ensure!(
            self.data_root.is_absolute(),
            "EVENKEEL_LAB_DATA has to be an absolute path"
        );
        fs::create_dir_all(STATE_ROOT).with_context(|| format!("cannot make {STATE_ROOT}"))?;
        fs::create_dir(self.state())
            .with_context(|| format!("cannot take the lab id {:?}: is it in use?", self.id))?;
        fs::write(
            self.state().join("data"),
            self.data_root.as_os_str().as_encoded_bytes(),
        )?;
        Ok(())
    }

    /// Takes a subnet that neither another lab nor the machine uses.
    pub(crate) fn claim_subnet(&self) -> Result<u8> {
        let taken = run("ip", ["-4", "-o", "route", "show", "table", "all"])?;
        // Labs of one moment should not all try the same number first.
        let first = self.id.bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        for step in 0..250 {
            let subnet = u8::try_from((first + step) % 250 + 1)?;
            if taken.contains(&format!("10.213.{subnet}.")) {
                continue;
            }
            let claim = self.state_root().join(format!(".net-{subnet}"));
            match std::os::unix::fs::symlink(&self.id, &claim) {
                Ok(()) => return Ok(subnet),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => forget_if_stale(&claim),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", claim.display()));
                }
            }
        }
        bail!("all subnets 10.213.1.0/24 to 10.213.250.0/24 are in use")
    }
}

fn data_root() -> PathBuf {
    std::env::var_os("EVENKEEL_LAB_DATA").map_or_else(|| PathBuf::from(DATA_ROOT), PathBuf::from)
}

/// The lab that claimed it went without removing the claim.
fn forget_if_stale(claim: &Path) {
    let holder = fs::read_link(claim).map(|id| Path::new(STATE_ROOT).join(id));
    if holder.is_ok_and(|state| !state.exists()) {
        let _ = fs::remove_file(claim);
    }
}

/// Ids of all labs of which anything is left in a directory.
pub(crate) fn ids() -> Result<Vec<String>> {
    let mut ids = BTreeSet::new();
    for root in [PathBuf::from(STATE_ROOT), data_root()] {
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", root.display()));
            }
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && Layout::of(&name).is_ok() {
                ids.insert(name);
            }
        }
    }
    Ok(ids.into_iter().collect())
}

/// The bridge's address in a subnet.
pub(crate) fn gateway(subnet: u8) -> String {
    format!("10.213.{subnet}.1")
}

/// The address of the host with this index, counted from 0.
pub(crate) fn address(subnet: u8, index: usize) -> String {
    format!("10.213.{subnet}.{}", FIRST_HOST + index)
}

/// A new id: four letters and digits, from the machine's own source of randomness.
pub(crate) fn new_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("l{}", random.chars().take(4).collect::<String>())
}
