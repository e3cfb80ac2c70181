//! The claim on a host: a libvirt secret without value.
//!
//! libvirt keeps two secrets apart by UUID and refuses a second one with the same usage, so defining one is
//! exclusive; defining it anew with the same UUID renews it. It outlives libvirtd. Nobody reads the value: there is none.

use evenkeel_engine::port::{ClaimRecord, Fault, PortError, PortResult};
use uuid::Uuid;
use virt::{connect::Connect, sys};

use super::{fault::OrFault, xml};

/// The usage all claims share. A TLS secret of that name is used by nothing unless a domain or qemu.conf names its UUID.
const USAGE: &str = "evenkeel-claim";
const USAGE_TYPE: sys::virSecretUsageType = sys::VIR_SECRET_USAGE_TYPE_TLS;

/// The claim on this host.
pub(crate) fn read(connect: &Connect) -> PortResult<Option<ClaimRecord>> {
    let Some(secret) = with_driver(
        connect
            .lookup_secret_by_usage(USAGE_TYPE as i32, USAGE)
            .or_absent(),
    )?
    else {
        return Ok(None);
    };
    let Some(description) = secret.xml_desc(0).or_absent()? else {
        return Ok(None);
    };
    parse(&description).map(Some)
}

/// Makes or renews the claim.
pub(crate) fn put(connect: &Connect, claim: &ClaimRecord) -> PortResult<()> {
    with_driver(connect.define_secret_xml(&compose(claim)?, 0).or_fault()).map(drop)
}

/// Removes the claim of that id.
pub(crate) fn remove(connect: &Connect, id: Uuid) -> PortResult<()> {
    let Some(secret) = with_driver(connect.lookup_secret_by_uuid(id).or_absent())? else {
        return Ok(());
    };
    let Some(description) = secret.xml_desc(0).or_absent()? else {
        return Ok(());
    };
    let document = xml::parse(&description)?;
    if xml::text(document.root_element(), &["usage", "name"]) != Some(USAGE) {
        return Err(PortError::new(
            Fault::Invalid,
            format!("the secret {id} is no claim"),
        ));
    }
    secret.undefine().or_absent().map(drop)
}

fn with_driver<T>(result: PortResult<T>) -> PortResult<T> {
    result.map_err(|error| match error.fault {
        Fault::Unsupported => PortError::new(
            Fault::Unsupported,
            format!(
                "this libvirtd has no secret driver, where the claim on a host is kept: {}",
                error.message
            ),
        ),
        _ => error,
    })
}

fn compose(claim: &ClaimRecord) -> PortResult<String> {
    let record = serde_json::to_string(claim).map_err(|error| {
        PortError::new(
            Fault::Invalid,
            format!("the claim can't be written: {error}"),
        )
    })?;
    Ok(format!(
        "<secret ephemeral='no' private='yes'><uuid>{}</uuid><description>{}</description>\
         <usage type='tls'><name>{USAGE}</name></usage></secret>",
        claim.id,
        xml::escape(&record)
    ))
}

fn parse(description: &str) -> PortResult<ClaimRecord> {
    let document = xml::parse(description)?;
    let root = document.root_element();
    let id = xml::text(root, &["uuid"])
        .and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(|| PortError::new(Fault::Other, "the claim has no UUID"))?;
    let text = xml::text(root, &["description"]).unwrap_or_default();
    // A claim we can't read is somebody's all the same; it must not look like none.
    let mut claim = serde_json::from_str(text).unwrap_or_else(|_| ClaimRecord {
        id,
        fleet: String::new(),
        holder: format!("unreadable: {}", text.chars().take(200).collect::<String>()),
        process: None,
        epoch: 0,
        beat: 0,
    });
    claim.id = id;
    Ok(claim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use evenkeel_engine::port::ProcessIdentity;
    use proptest::{prelude::*, sample::Index, test_runner::FileFailurePersistence};

    fn claim() -> ClaimRecord {
        ClaimRecord {
            id: Uuid::from_u128(7),
            fleet: "prod <&> 'x' \"y\"".into(),
            holder: "apply@admin-1:4711".into(),
            process: Some(ProcessIdentity {
                boot: "b".into(),
                namespace: 1,
                pid: 2,
                start: 3,
            }),
            epoch: 4,
            beat: 5,
        }
    }

    #[test]
    fn a_claim_comes_back() {
        assert_eq!(parse(&compose(&claim()).unwrap()).unwrap(), claim());
    }

    /// Those that are kept: none, somebody's that can't be read, or one.
    #[test]
    fn damaged_ones_that_are_kept() {
        for (name, text) in crate::libvirt::corpus::texts("claims", "") {
            let kind = match parse(&text) {
                Err(_) => "none",
                Ok(read) if read.holder.starts_with("unreadable") => "unreadable",
                Ok(_) => "one",
            };
            assert!(name.starts_with(kind), "{name} is {kind}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/proptest/claims.txt")))), ..ProptestConfig::default() })]

        /// Whatever became of it, it is somebody's, under its own UUID, or an error; and it is not taken for one that
        /// its holder has renewed.
        #[test]
        fn a_damaged_one_is_still_one(from: Index, to: Index, put in "\\PC{0,6}") {
            let text = compose(&claim()).unwrap();
            let chars: Vec<char> = text.chars().collect();
            let (one, other) = (from.index(chars.len() + 1), to.index(chars.len() + 1));
            let (head, tail) = (&chars[..one.min(other)], &chars[one.max(other)..]);
            let damaged: String = head.iter().copied().chain(put.chars()).chain(tail.iter().copied()).collect();
            if let Ok(read) = parse(&damaged) {
                prop_assert!(damaged.contains("<uuid>"), "{damaged}");
                let readable = !read.holder.starts_with("unreadable");
                prop_assert!(readable || (read.beat, read.epoch, read.process) == (0, 0, None));
            }
        }
    }

    #[test]
    fn one_that_cannot_be_read_is_still_one() {
        let claim = parse("<secret><uuid>00000000-0000-0000-0000-000000000007</uuid><description>{</description></secret>").unwrap();
        assert_eq!(claim.id, Uuid::from_u128(7));
        assert!(claim.holder.starts_with("unreadable"));
    }
}
