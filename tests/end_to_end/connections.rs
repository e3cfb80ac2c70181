//! Encrypted connections: everything travels by TLS, and each thing that can be wrong with a certificate has its word.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{Authority, Certificate, GuestSpec, Host, Identity, Lab, SECRET},
    witness,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two hosts on which a move that is not encrypted is refused.
fn lab() -> Result<Lab> {
    Lab::builder()
        .hosts(2)
        .each_host(|host| {
            host.qemu_options("migrate_tls_force = 1")
                // An expired certificate is noticed at the start only; this lets it start all the same.
                .libvirtd_options("tls_no_sanity_certificate = 1")
        })
        .guest(GuestSpec::new("g1").on("h1"))
        .up()
}

fn keys(fleet: &Fleet) -> PathBuf {
    fleet.path().join("credentials").join(SECRET)
}

/// The condition `Reachable` of a host.
fn reachable(fleet: &Fleet, host: &str) -> Result<Value> {
    let host = fleet.get("hosts", host)?;
    let conditions = host["status"]["conditions"].as_array();
    conditions
        .and_then(|all| all.iter().find(|one| one["type"] == "Reachable"))
        .cloned()
        .with_context(|| format!("no condition Reachable: {host}"))
}

fn ensure_unreachable(fleet: &Fleet, host: &str, reason: &str) -> Result<()> {
    let condition = reachable(fleet, host)?;
    ensure!(
        condition["status"] == "False" && condition["reason"] == reason,
        "not {reason}: {condition}"
    );
    // Where keys lay while connecting is nobody's business and another place each time.
    let message = condition["message"].to_string();
    ensure!(!message.contains("evenkeel-"), "{message}");
    Ok(())
}

/// Lets its libvirtd serve with another certificate.
fn serve_with(host: &Host<'_>, certificate: &Certificate) -> Result<()> {
    host.stop_libvirtd()?;
    host.certify_libvirtd(certificate)?;
    host.exec(&["libvirtd", "--daemon", "--listen"])?;
    Ok(())
}

#[test]
fn moves_are_encrypted_and_wrong_certificates_have_their_words() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);

    // The hosts refuse what is plain, so what arrives was encrypted.
    let flags = ["migrate", "--live", "--p2p", "--copy-storage-all"];
    let plain = h1.virsh(&[flags.as_slice(), &["g1", &h2.uri()]].concat());
    ensure!(plain.is_err(), "a plain move was not refused");
    h2.virsh(&["vol-delete", "--pool", "default", "g1-vda.qcow2"])
        .ok();
    let answer = fleet.run(&["migrate", "g1", "h2", "-y", "-o", "json"])?;
    let result = answer.expect(0)?.json()?;
    ensure!(
        result["moves"][0]["status"]["encrypted"] == true,
        "{result}"
    );
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;

    the_clients_own(&lab, &fleet)?;
    the_hosts_own(&lab, &fleet)?;
    between_hosts(&lab, &fleet)?;
    rotated(&lab, &fleet)
}

fn the_clients_own(lab: &Lab, fleet: &Fleet) -> Result<()> {
    let authority = lab.authority()?;
    let stranger = Authority::new()?;
    let me = Identity::of(&["evenkeel"]);
    let good = authority.sign(&me)?;

    // Another's authority: we don't trust the host.
    stranger.sign(&me)?.write_as_secret(&keys(fleet))?;
    ensure_unreachable(fleet, "h1", "CertificateUntrusted")?;
    // Ours is right, our certificate another's: the host doesn't trust us.
    good.write_as_secret(&keys(fleet))?;
    let ours = fs::read(keys(fleet).join("ca.crt"))?;
    stranger.sign(&me)?.write_as_secret(&keys(fleet))?;
    let theirs = fs::read(keys(fleet).join("ca.crt"))?;
    fs::write(keys(fleet).join("ca.crt"), [&ours[..], &theirs].concat())?;
    ensure_unreachable(fleet, "h1", "AuthenticationFailed")?;
    // Ours are not of one another.
    fs::write(keys(fleet).join("ca.crt"), &ours)?;
    ensure_unreachable(fleet, "h1", "CredentialsInvalid")?;
    authority
        .sign(&me.clone().expired())?
        .write_as_secret(&keys(fleet))?;
    ensure_unreachable(fleet, "h1", "CredentialsInvalid")?;
    // The key of another certificate.
    good.write_as_secret(&keys(fleet))?;
    let key = fs::read(keys(fleet).join("tls.key"))?;
    authority.sign(&me)?.write_as_secret(&keys(fleet))?;
    fs::write(keys(fleet).join("tls.key"), key)?;
    ensure_unreachable(fleet, "h1", "CredentialsInvalid")?;
    fs::write(keys(fleet).join("tls.key"), "hunter2")?;
    ensure_unreachable(fleet, "h1", "CredentialsInvalid")?;
    fs::remove_file(keys(fleet).join("tls.key"))?;
    ensure_unreachable(fleet, "h1", "CredentialsMissing")?;
    fs::remove_dir_all(keys(fleet))?;
    ensure_unreachable(fleet, "h1", "CredentialsMissing")?;
    // No certificate at all, for a Host that names none.
    let uri = lab.host("h1")?.uri();
    let named = fs::read_to_string(fleet.path().join("host-0.yaml"))?;
    fleet.write("host-0.yaml", &format!("apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nmetadata: {{name: h1}}\nspec: {{uri: '{uri}'}}\n"))?;
    ensure_unreachable(fleet, "h1", "CredentialsMissing")?;
    fleet.write("host-0.yaml", &named)?;

    good.write_as_secret(&keys(fleet))?;
    let condition = reachable(fleet, "h1")?;
    ensure!(condition["status"] == "True", "{condition}");
    Ok(())
}

fn the_hosts_own(lab: &Lab, fleet: &Fleet) -> Result<()> {
    let (authority, stranger) = (lab.authority()?, Authority::new()?);
    let host = lab.host("h1")?;
    for wrong in [
        stranger.sign(&host.identity())?,
        authority.sign(&host.identity().expired())?,
        authority.sign(&Identity::of(&["elsewhere.example.net", "192.0.2.1"]))?,
    ] {
        serve_with(&host, &wrong)?;
        ensure_unreachable(fleet, "h1", "CertificateUntrusted")?;
    }
    serve_with(&host, &authority.sign(&host.identity())?)?;
    let condition = reachable(fleet, "h1")?;
    ensure!(condition["status"] == "True", "{condition}");
    Ok(())
}

fn between_hosts(lab: &Lab, fleet: &Fleet) -> Result<()> {
    let (authority, stranger) = (lab.authority()?, Authority::new()?);
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let elsewhere = Identity::of(&["elsewhere.example.net", "192.0.2.1"]);
    let good = |host: &Host<'_>| authority.sign(&host.identity());
    let refused = |what: &str| -> Result<()> {
        let mut run = fleet.start(&["migrate", "g1", "h1", "-y"])?;
        let said = run.wait_for("PeerCertificateUntrusted", PATIENCE);
        said.with_context(|| what.to_owned())?;
        run.signal("INT")?;
        run.end(PATIENCE)?;
        ensure!(lab.guest("g1")?.host()?.name() == "h2", "{what}: it moved");
        witness::all_is_well(lab)?;
        witness::nothing_is_left(lab)
    };
    // What memory and disks travel by: the target's own.
    for (what, wrong) in [
        ("QEMU's names another host", authority.sign(&elsewhere)?),
        (
            "QEMU's has expired",
            authority.sign(&h1.identity().expired())?,
        ),
        (
            "QEMU's is another authority's",
            stranger.sign(&h1.identity())?,
        ),
    ] {
        h1.certify_qemu(&wrong)?;
        refused(what)?;
    }
    h1.certify_qemu(&good(&h1)?)?;
    // What the source's libvirtd shows the target's.
    for (what, wrong) in [
        (
            "the source's has expired",
            authority.sign(&h2.identity().expired())?,
        ),
        (
            "the source's is another authority's",
            stranger.sign(&h2.identity())?,
        ),
    ] {
        h2.certify_libvirtd(&wrong)?;
        refused(what)?;
    }
    h2.certify_libvirtd(&good(&h2)?)?;
    fleet.run(&["migrate", "g1", "h1", "-y"])?.expect(0)?;
    witness::all_is_well(lab)?;
    witness::nothing_is_left(lab)
}

/// Keys that are changed are used at once by a program that runs.
fn rotated(lab: &Lab, fleet: &Fleet) -> Result<()> {
    let me = Identity::of(&["evenkeel"]);
    Authority::new()?.sign(&me)?.write_as_secret(&keys(fleet))?;
    fleet.write("move.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: over}\nspec: {guest: g1, target: h2}\n")?;
    let mut run = fleet.start(&["apply", "--yes", "--watch"])?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(!run.said().contains("Preparing"), "{}", run.said());
    lab.authority()?.sign(&me)?.write_as_secret(&keys(fleet))?;
    run.wait_for("Succeeded", PATIENCE)?;
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "it did not move");
    // And those that stop being good are dropped.
    Authority::new()?.sign(&me)?.write_as_secret(&keys(fleet))?;
    fleet.write("move.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: back}\nspec: {guest: g1, target: h1}\n")?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(
        lab.guest("g1")?.host()?.name() == "h2",
        "moved with wrong keys"
    );
    lab.authority()?.sign(&me)?.write_as_secret(&keys(fleet))?;
    run.wait_for("g1: Succeeded (h2 -> h1", PATIENCE)?;
    run.signal("INT")?;
    run.end(PATIENCE)?;
    witness::all_is_well(lab)?;
    witness::nothing_is_left(lab)
}
