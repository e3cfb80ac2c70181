//! Secrets that open encrypted disks, as they are carried from host to host.

use std::fmt;

use uuid::Uuid;
use zeroize::Zeroizing;

/// A secret of a host, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFacts {
    /// Its UUID, by which domains name it.
    pub id: Uuid,
    /// What its owner wrote about it; may be empty.
    pub description: String,
    /// What it is for; absent: not said.
    pub usage: Option<SecretUsage>,
    /// Whether its value is forgotten when libvirtd ends.
    pub ephemeral: bool,
    /// Whether its value is given out to nobody.
    pub private: bool,
    /// The move that brought it here and is not over yet.
    pub brought_by: Option<Uuid>,
}

/// What a secret is for. No two secrets of a host have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUsage {
    /// libvirt's word: `volume`, `ceph`, `iscsi`, `tls`, `vtpm`.
    pub kind: String,
    /// Which one of that kind.
    pub name: String,
}

impl fmt::Display for SecretUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A secret's value, for as long as it is carried: never shown, never copied, and wiped from memory when it is dropped.
#[derive(PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_shown() {
        let value = SecretValue::new(Zeroizing::new(b"open sesame".to_vec()));
        assert_eq!(format!("{value:?}"), "SecretValue");
        assert_eq!(value.bytes(), b"open sesame");
    }
}
