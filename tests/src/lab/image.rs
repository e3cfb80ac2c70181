//! The guests' kernel and initramfs: a Debian cloud kernel, a busybox with one script, and the program that counts.
//!
//! Kept in `${EVENKEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/evenkeel}/guest`, made once per kernel and sources.
//! Nothing is installed into the machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::command::{command, output, run};

const INIT: &str = include_str!("../../lab/init");
const COUNTER: &str = include_str!("../../lab/counter.rs");
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// What the guest loads, if the kernel does not have it built in; what these need comes along.
const MODULES: [&str; 6] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "button",
    "evdev",
];

/// The directory with `vmlinuz` and `initrd.img`, made if needed.
pub(crate) fn boot_directory() -> Result<PathBuf> {
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // One maker at a time; the lock goes with the process.
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache")?;
    let kernel = kernel_directory(&cache)?;
    let ready = cache.join(format!("boot-{}", fingerprint(&kernel)?));
    if !ready.exists() {
        let fresh = cache.join("boot-new");
        remove(&fresh)?;
        fs::create_dir_all(&fresh)?;
        fs::copy(kernel_image(&kernel)?, fresh.join("vmlinuz"))?;
        make_initramfs(&kernel, &fresh)?;
        remove(&fresh.join("tree"))?;
        fs::rename(&fresh, &ready)?;
    }
    Ok(ready)
}

fn cache_directory() -> Result<PathBuf> {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = of("EVENKEEL_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|cache| cache.join("evenkeel")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/evenkeel")));
    Ok(cache
        .context("neither EVENKEEL_CACHE nor HOME says where to keep the guests' kernel")?
        .join("guest"))
}

/// The unpacked kernel package, fetched from Debian's archive if it is not there.
fn kernel_directory(cache: &Path) -> Result<PathBuf> {
    let unpacked = cache.join("kernel");
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let depends = run("apt-cache", ["depends", "--important", METAPACKAGE])?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package =
        package.with_context(|| format!("{METAPACKAGE} is unknown to apt: run apt-get update"))?;
    let fresh = cache.join("kernel-new");
    remove(&fresh)?;
    fs::create_dir_all(&fresh)?;
    let download = [
        "-q",
        "-o",
        "APT::Sandbox::User=root",
        "download",
        &format!("linux-image-{package}"),
    ];
    output(command("apt-get", download).current_dir(&fresh))
        .context("run apt-get update and try again")?;
    let archive = fs::read_dir(&fresh)?
        .next()
        .context("apt-get downloaded nothing")??
        .path();
    let tree = fresh.join("tree");
    run(
        "dpkg-deb",
        ["--extract".as_ref(), archive.as_os_str(), tree.as_os_str()],
    )?;
    fs::rename(&tree, &unpacked)?;
    remove(&fresh)?;
    Ok(unpacked)
}

fn kernel_image(kernel: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(kernel.join("boot"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    bail!(
        "the kernel package has no kernel: remove {} and try again",
        kernel.display()
    )
}

/// Changes with the kernel, the script and the program.
fn fingerprint(kernel: &Path) -> Result<String> {
    let image = kernel_image(kernel)?;
    let version = image
        .file_name()
        .context("a kernel has a name")?
        .to_string_lossy()
        .into_owned();
    let busybox = fs::metadata("/usr/bin/busybox")
        .or_else(|_| fs::metadata("/bin/busybox"))?
        .len();
    let text = format!("{INIT} {COUNTER} {MODULES:?} {busybox}");
    Ok(format!(
        "{}-{:08x}",
        version.trim_start_matches("vmlinuz-"),
        super::serial::crc32(text.as_bytes())
    ))
}

fn make_initramfs(kernel: &Path, target: &Path) -> Result<()> {
    let tree = target.join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(tree.join("modules"))?;
    let busybox = [Path::new("/usr/bin/busybox"), Path::new("/bin/busybox")]
        .into_iter()
        .find(|path| path.exists());
    fs::copy(
        busybox.context("there is no busybox")?,
        tree.join("bin/busybox"),
    )?;
    symlink("busybox", tree.join("bin/sh"))?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    compile(COUNTER, &tree.join("bin/counter"))?;

    let mut available = BTreeMap::new();
    find_modules(&kernel.join("lib/modules"), &mut available)?;
    let mut order = Vec::new();
    for module in MODULES {
        load(module, &available, &tree.join("modules"), &mut order)?;
    }
    fs::write(
        tree.join("modules/order"),
        order
            .iter()
            .map(|name| format!("{name}.ko\n"))
            .collect::<String>(),
    )?;
    let pack = "find . -print0 | cpio --null --create --format=newc --quiet > ../initrd.img";
    output(command("sh", ["-c", pack]).current_dir(&tree))?;
    Ok(())
}

/// Makes a program that needs no library at run time.
fn compile(source: &str, target: &Path) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let file = target.with_extension("rs");
    fs::write(&file, source)?;
    let words = [
        "--edition=2024",
        "-Copt-level=s",
        "-Cpanic=abort",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
        "-o",
    ];
    output(Command::new(rustc).args(words).arg(target).arg(&file))
        .context("cannot compile the guests' program")?;
    fs::remove_file(&file)?;
    Ok(())
}

fn find_modules(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_modules(&entry.path(), found)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            found.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

/// Takes a module and, before it, what it needs. One that is not there is built into the kernel.
fn load(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    target: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let Some(file) = all
        .get(name)
        .filter(|_| !order.iter().any(|loaded| loaded == name))
    else {
        return Ok(());
    };
    let copy = target.join(format!("{name}.ko"));
    if file.extension().is_some_and(|ending| ending == "xz") {
        let unpack = "xz --decompress --stdout \"$1\" > \"$2\"";
        run(
            "sh",
            [
                "-c".as_ref(),
                unpack.as_ref(),
                "sh".as_ref(),
                file.as_os_str(),
                copy.as_os_str(),
            ],
        )?;
    } else {
        fs::copy(file, &copy)?;
    }
    let bytes = fs::read(&copy)?;
    let mark = b"\0depends=";
    let place = bytes.windows(mark.len()).position(|window| window == mark);
    ensure!(place.is_some(), "{} is not a kernel module", file.display());
    let needs = bytes
        .iter()
        .skip(place.unwrap_or_default() + mark.len())
        .take_while(|byte| **byte != 0);
    let needs: Vec<u8> = needs.copied().collect();
    for need in String::from_utf8_lossy(&needs)
        .split(',')
        .filter(|need| !need.is_empty())
    {
        load(&need.replace('-', "_"), all, target, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}
