//! Certificates: the lab's own authority, what each host and each client of an encrypted lab is given, and wrong ones
//! for tests of what then happens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::Lab;
use super::host::Host;
use super::layout::Layout;

/// A group that everybody may use: ffdhe2048 of RFC 7919.
const DH_PARAMETERS: &str = include_str!("../../lab/dh-params.pem");

/// The name under which manifests of a lab's hosts name their credentials.
pub const SECRET: &str = "lab";

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Names and addresses it is valid for; the first is also its subject.
    pub names: Vec<String>,
    /// Whether it was valid only long ago.
    pub expired: bool,
}

impl Identity {
    /// One that is valid, for these names and addresses.
    #[must_use]
    pub fn of(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            expired: false,
        }
    }

    /// The same, past its time.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }
}

/// A certificate with its key and its authority's certificate, PEM each.
#[derive(Debug, Clone)]
pub struct Certificate {
    authority: String,
    certificate: String,
    key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// Fails if no key can be made.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = authority_params()?;
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    fn read(folder: &Path) -> Result<Self> {
        let text = |file: &str| {
            fs::read_to_string(folder.join(file)).context("the lab has no authority: it is plain")
        };
        Ok(Self {
            certificate: text("authority.crt")?,
            issuer: Issuer::new(
                authority_params()?,
                KeyPair::from_pem(&text("authority.key")?)?,
            ),
        })
    }

    fn write(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("authority.crt"), &self.certificate)?;
        write_key(
            &folder.join("authority.key"),
            &self.issuer.key().serialize_pem(),
        )
    }

    /// Signs a certificate for servers and clients.
    ///
    /// # Errors
    /// Fails if a name is none.
    pub fn sign(&self, identity: &Identity) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(identity.names.clone())?;
        if let Some(name) = identity.names.first() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let last = if identity.expired { 2020 } else { 2120 };
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(last, 1, 1);
        Ok(Certificate {
            authority: self.certificate.clone(),
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The same each time: an authority that is read again signs as it did.
fn authority_params() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    let name = "authority of an evenkeel lab";
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    Ok(params)
}

impl Certificate {
    /// Writes it as a Secret's keys are named: `ca.crt`, `tls.crt`, `tls.key`.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn write_as_secret(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("ca.crt"), &self.authority)?;
        fs::write(folder.join("tls.crt"), &self.certificate)?;
        write_key(&folder.join("tls.key"), &self.key)
    }

    /// Writes it as libvirt's clients want it in `pkipath`.
    fn write_for_client(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("cacert.pem"), &self.authority)?;
        fs::write(folder.join("clientcert.pem"), &self.certificate)?;
        write_key(&folder.join("clientkey.pem"), &self.key)
    }
}

fn write_key(path: &Path, key: &str) -> Result<()> {
    fs::write(path, key)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o600),
    )?)
}

impl Host<'_> {
    /// Its `/etc/pki`.
    fn pki(&self) -> PathBuf {
        self.data().join("pki")
    }

    /// The names and the address it is known by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::of(&[&self.record().hostname, self.address()])
    }

    /// Gives it certificates of its own, for its libvirtd and its QEMUs.
    pub(crate) fn certify(&self, authority: &Authority) -> Result<()> {
        let certificate = authority.sign(&self.identity())?;
        self.certify_libvirtd(&certificate)?;
        self.certify_qemu(&certificate)
    }

    /// Gives its libvirtd another certificate, with which it serves from its next start on and calls others at once.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn certify_libvirtd(&self, certificate: &Certificate) -> Result<()> {
        let pki = self.pki();
        fs::create_dir_all(pki.join("CA"))?;
        fs::create_dir_all(pki.join("libvirt/private"))?;
        fs::write(pki.join("CA/cacert.pem"), &certificate.authority)?;
        for role in ["server", "client"] {
            let file = pki.join(format!("libvirt/{role}cert.pem"));
            fs::write(file, &certificate.certificate)?;
            let file = pki.join(format!("libvirt/private/{role}key.pem"));
            write_key(&file, &certificate.key)?;
        }
        Ok(())
    }

    /// Gives its QEMUs another certificate, for moves from now on.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn certify_qemu(&self, certificate: &Certificate) -> Result<()> {
        let folder = self.pki().join("qemu");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("ca-cert.pem"), &certificate.authority)?;
        // Without it each QEMU that a guest moves to makes new parameters: a second's work.
        fs::write(folder.join("dh-params.pem"), DH_PARAMETERS)?;
        for role in ["server", "client"] {
            let file = folder.join(format!("{role}-cert.pem"));
            fs::write(file, &certificate.certificate)?;
            write_key(&folder.join(format!("{role}-key.pem")), &certificate.key)?;
        }
        Ok(())
    }
}

impl Lab {
    /// Whether its hosts are reached by TLS alone.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.record().encrypted
    }

    /// The authority that all certificates of the lab are from.
    ///
    /// # Errors
    /// Fails if the lab is plain.
    pub fn authority(&self) -> Result<Authority> {
        Authority::read(&self.layout().state())
    }

    /// Where its credentials are, as `--credentials` wants them.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.layout().credentials()
    }

    /// Makes the authority, and what clients on this machine need.
    pub(crate) fn found_authority(&self) -> Result<Authority> {
        let authority = Authority::new()?;
        let layout = self.layout();
        authority.write(&layout.state())?;
        let client = authority.sign(&Identity::of(&["evenkeel"]))?;
        client.write_for_client(&layout.client_keys())?;
        client.write_as_secret(&layout.credentials().join(SECRET))?;
        Ok(authority)
    }
}

impl Layout {
    /// A directory as libvirt's clients want it in `pkipath`.
    pub(crate) fn client_keys(&self) -> PathBuf {
        self.state().join("pki")
    }

    fn credentials(&self) -> PathBuf {
        self.state().join("credentials")
    }
}
