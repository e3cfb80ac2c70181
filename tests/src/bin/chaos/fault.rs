//! What goes wrong, and how it is put right.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use evenkeel_tests::lab::{Host, Lab};

use crate::{driver::Driver, wish::Wish};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing: so that the rest is compared with something.
    Nothing,
    /// `kill -9` of the one who drives.
    DriverKilled,
    /// Ctrl-C twice, or `abort: true`: what has not begun to switch is aborted.
    Aborted,
    /// A second one at the same time; in a cluster the first one ends then.
    SecondDriver,
    /// The wish deleted, and declared again.
    ObjectDeleted,
    /// SIGSTOP of the API server.
    ApiServerFrozen,
    /// `kill -9` of the API server, which is started again later.
    ApiServerKilled,
    /// `kill -9` of a host's libvirtd, which is started again later.
    LibvirtdKilled,
    /// The same at all hosts at once.
    LibvirtdsKilled,
    /// SIGSTOP of a host's libvirtd.
    LibvirtdFrozen,
    /// A host's cable pulled.
    CableCut,
    /// A host that the driver can't reach, but other hosts can.
    CutFromDriver,
    /// A host's link slow.
    LinkSlow,
    /// A guest's QEMU killed.
    QemuKilled,
    /// A guest shut down by somebody's hand.
    GuestEnded,
    /// A guest powering itself off.
    GuestPoweredOff,
    /// No room left where a host's guests have their disks.
    DiskFull,
    /// All power taken from a host.
    PowerCut,
}

const ALL: [Fault; 18] = [
    Fault::Nothing,
    Fault::DriverKilled,
    Fault::Aborted,
    Fault::SecondDriver,
    Fault::ObjectDeleted,
    Fault::ApiServerFrozen,
    Fault::ApiServerKilled,
    Fault::LibvirtdKilled,
    Fault::LibvirtdsKilled,
    Fault::LibvirtdFrozen,
    Fault::CableCut,
    Fault::CutFromDriver,
    Fault::LinkSlow,
    Fault::QemuKilled,
    Fault::GuestEnded,
    Fault::GuestPoweredOff,
    Fault::DiskFull,
    Fault::PowerCut,
];

impl Fault {
    /// All of them, or the one of that name.
    pub(crate) fn chosen(only: Option<&str>) -> Result<Vec<Self>> {
        let Some(only) = only else {
            return Ok(ALL.to_vec());
        };
        let named: Vec<Self> = ALL
            .into_iter()
            .filter(|fault| format!("{fault:?}").eq_ignore_ascii_case(only))
            .collect();
        if named.is_empty() {
            bail!("no fault is named {only:?}; there are {ALL:?}");
        }
        Ok(named)
    }

    /// Whether a guest may stop by it. An abort or a libvirtd that dies in the switch makes QEMU 7.2 fail an assertion of
    /// its own now and then.
    pub(crate) fn may_stop_a_guest(self) -> bool {
        matches!(
            self,
            Self::Aborted
                | Self::ObjectDeleted
                | Self::LibvirtdKilled
                | Self::LibvirtdsKilled
                | Self::LibvirtdFrozen
                | Self::CableCut
                | Self::QemuKilled
                | Self::GuestEnded
                | Self::GuestPoweredOff
                | Self::PowerCut
        )
    }

    /// Whether libvirt may run a guest twice by it: where the target's answer to Finish is lost.
    pub(crate) fn may_double_a_guest(self) -> bool {
        matches!(
            self,
            Self::LibvirtdKilled
                | Self::LibvirtdsKilled
                | Self::LibvirtdFrozen
                | Self::CableCut
                | Self::PowerCut
        )
    }

    /// Whether it makes a difference that it lasts longer than libvirt waits for a peer that says nothing.
    pub(crate) fn may_outlast_libvirt(self) -> bool {
        matches!(
            self,
            Self::LibvirtdKilled
                | Self::LibvirtdsKilled
                | Self::LibvirtdFrozen
                | Self::CableCut
                | Self::CutFromDriver
                | Self::PowerCut
        )
    }

    /// Whether there is such a thing in a cluster only.
    pub(crate) fn is_of_a_cluster(self) -> bool {
        matches!(
            self,
            Self::ObjectDeleted | Self::ApiServerFrozen | Self::ApiServerKilled
        )
    }

    /// Whether it matters which host is struck.
    pub(crate) fn strikes_a_host(self) -> bool {
        matches!(
            self,
            Self::LibvirtdKilled
                | Self::LibvirtdFrozen
                | Self::CableCut
                | Self::CutFromDriver
                | Self::LinkSlow
                | Self::QemuKilled
                | Self::DiskFull
                | Self::PowerCut
        )
    }

    /// Does it, lets it last, and puts it right.
    pub(crate) fn strike(
        self,
        lab: &Lab,
        driver: &mut dyn Driver,
        wish: &Wish,
        host: &Host<'_>,
        lasts: Duration,
    ) -> Result<()> {
        let guest = wish.guest.as_str();
        match self {
            Self::Nothing => {}
            Self::DriverKilled
            | Self::Aborted
            | Self::SecondDriver
            | Self::ObjectDeleted
            | Self::ApiServerFrozen
            | Self::ApiServerKilled => driver.strike(self, wish, lasts)?,
            Self::LibvirtdKilled => {
                host.kill_libvirtd()?;
                thread::sleep(lasts);
                host.start_libvirtd()?;
            }
            Self::LibvirtdsKilled => {
                for host in lab.hosts() {
                    host.kill_libvirtd()?;
                }
                thread::sleep(lasts);
                for host in lab.hosts() {
                    host.start_libvirtd()?;
                }
            }
            Self::LibvirtdFrozen => {
                host.freeze_libvirtd()?;
                thread::sleep(lasts);
                host.thaw_libvirtd()?;
            }
            Self::CableCut => {
                host.cut()?;
                thread::sleep(lasts);
                host.heal()?;
            }
            Self::CutFromDriver => {
                host.cut_from_machine()?;
                thread::sleep(lasts);
                host.heal()?;
            }
            Self::LinkSlow => {
                host.rate(Some(crate::RATE / 2))?;
                thread::sleep(lasts);
                host.rate(Some(crate::RATE))?;
            }
            Self::QemuKilled => {
                if let Some(qemu) = host.qemu_pid(guest)? {
                    drop(qemu.signal("KILL"));
                }
            }
            Self::GuestEnded => {
                for host in lab.hosts() {
                    drop(host.virsh(&["destroy", guest, "--graceful"]));
                }
            }
            Self::GuestPoweredOff => {
                for host in lab.hosts() {
                    drop(host.virsh(&["shutdown", guest, "--mode", "acpi"]));
                }
            }
            Self::DiskFull => {
                host.fill_pool("default", 0)?;
                thread::sleep(lasts);
                host.drain_pool("default")?;
            }
            Self::PowerCut => {
                host.power_off()?;
                thread::sleep(lasts);
                host.power_on()?;
            }
        }
        Ok(())
    }
}
