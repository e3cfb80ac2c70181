//! Storage that several hosts see: one GlusterFS brick for the whole lab, served on the bridge's address and mounted
//! where a pool lies on it. It needs no daemon that manages it: server and clients read their volume from a file.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Lab;
use super::command::command;
use super::host::Host;
use super::layout::Layout;
use super::storage::Room;
use super::text::render;

const LAUNCHER: &str = include_str!("../../lab/storage.sh");
const BRICK: &str = include_str!("../../lab/brick.vol");
const MOUNT: &str = include_str!("../../lab/mount.vol");
const PATIENCE: Duration = Duration::from_secs(20);

fn launch(layout: &Layout, process: &Path, words: &[&str]) -> Result<Child> {
    let script = layout.script("storage.sh");
    let state = layout.state();
    command(
        "setsid",
        [
            "sh".as_ref(),
            script.as_os_str(),
            state.as_os_str(),
            process.as_os_str(),
        ],
    )
    .args(words)
    .current_dir("/")
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .with_context(|| format!("cannot start {}", words.join(" ")))
}

impl Lab {
    /// Serves the lab's shared storage.
    pub(crate) fn serve_shared(&self) -> Result<()> {
        let layout = self.layout();
        let (brick, state) = (layout.data().join("brick"), layout.state().join("brick"));
        fs::create_dir_all(&brick)?;
        fs::create_dir_all(&state)?;
        fs::write(layout.script("storage.sh"), LAUNCHER)?;
        let values = [
            ("DIRECTORY", brick.display().to_string()),
            ("ADDRESS", self.gateway()),
        ];
        let values = values.each_ref().map(|(key, value)| (*key, value.as_str()));
        let volume = state.join("brick.vol");
        fs::write(&volume, render(BRICK, &values))?;
        let mount = [("ADDRESS", self.gateway())];
        let mount = mount.each_ref().map(|(key, value)| (*key, value.as_str()));
        fs::write(state.join("mount.vol"), render(MOUNT, &mount))?;
        let (volume, log) = (volume.display().to_string(), log(&state));
        let words = ["glusterfsd", "-N", "-f", &volume, "-l", &log];
        let child = launch(layout, &state.join("brick.process"), &words)?;
        self.adopt(child);
        Ok(())
    }
}

fn log(state: &Path) -> String {
    state.join("gluster.log").display().to_string()
}

impl Host<'_> {
    /// Mounts the lab's shared storage where a pool lies on it. The mount stays when the host's power is cut.
    pub(crate) fn mount_shared(&self) -> Result<()> {
        let layout = self.lab().layout();
        let pools = self.record().pools.iter();
        for pool in pools.filter(|pool| matches!(pool.room, Room::Shared | Room::Netfs)) {
            let volume = layout.state().join("brick/mount.vol").display().to_string();
            let holder = format!("--target={}", self.holder()?.pid);
            let name = format!("--fs-display-name={}:/shared", self.lab().gateway());
            let state = self.state();
            let words = [
                "nsenter",
                &holder,
                "--mount",
                "--net",
                "--",
                "glusterfs",
                "-N",
                "-f",
                &volume,
                "-l",
                &log(&state),
                &name,
                &pool.path,
            ];
            let child = launch(layout, &state.join("gluster.process"), &words)?;
            self.lab().adopt(child);
            let end = Instant::now() + PATIENCE;
            while !self.is_mounted(&pool.path)? {
                if Instant::now() > end {
                    let said = fs::read_to_string(log(&state)).unwrap_or_default();
                    bail!("{} does not mount {}: {said}", self.name(), pool.path);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Whether it is mounted, and answers.
    fn is_mounted(&self, path: &str) -> Result<bool> {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.holder()?.pid))?;
        let mounted = |line: &str| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(path) && words.next() == Some("fuse.glusterfs")
        };
        Ok(mounts.lines().any(mounted) && fs::read_dir(self.outside(path)?).is_ok())
    }
}
