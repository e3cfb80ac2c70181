//! Secrets that open encrypted disks. What a move brings bears the move's id at the end of its description until the move
//! is over, so that whoever comes later knows whose it is.

use std::collections::BTreeSet;

use evenkeel_engine::port::{Fault, PortError, PortResult, SecretFacts, SecretUsage, SecretValue};
use roxmltree::Node;
use uuid::Uuid;
use virt::{connect::Connect, sys};

use super::{fault::OrFault, raw, xml};

/// What stands before the move's id, and after it.
const MARK: (&str, &str) = ("[brought by evenkeel, move ", "]");

/// A secret, without its value.
pub(crate) fn read(connect: &Connect, id: Uuid) -> PortResult<Option<SecretFacts>> {
    let Some(secret) = connect.lookup_secret_by_uuid(id).or_absent()? else {
        return Ok(None);
    };
    match secret.xml_desc(0).or_absent()? {
        Some(description) => parse(&description).map(Some),
        None => Ok(None),
    }
}

/// The value of a secret that is not private.
pub(crate) fn value(connect: &Connect, id: Uuid) -> PortResult<Option<SecretValue>> {
    let secret = connect.lookup_secret_by_uuid(id).or_fault()?;
    // One without a value is not found either.
    let value = raw::secret_value(&secret).or_absent()?;
    Ok(value.map(SecretValue::new))
}

/// Defines a secret and sets its value.
pub(crate) fn create(
    connect: &Connect,
    secret: &SecretFacts,
    value: &SecretValue,
) -> PortResult<()> {
    let exists = || {
        let what = format!("there is a secret {} already", secret.id);
        PortError::new(Fault::Exists, what)
    };
    // libvirt changes one of the same UUID and usage without a word.
    if connect
        .lookup_secret_by_uuid(secret.id)
        .or_absent()?
        .is_some()
    {
        return Err(exists());
    }
    let made = connect.define_secret_xml(&compose(secret)?, 0).or_fault()?;
    if raw::secret_value(&made).or_absent()?.is_some() {
        // Somebody else's, made in this moment.
        return Err(exists());
    }
    made.set_value(value.bytes(), 0).or_fault()
}

/// Takes our mark off.
pub(crate) fn keep(connect: &Connect, id: Uuid) -> PortResult<()> {
    let Some(mut secret) = read(connect, id)? else {
        return Ok(());
    };
    secret.brought_by = None;
    // Its value is not touched by that.
    connect
        .define_secret_xml(&compose(&secret)?, 0)
        .or_fault()
        .map(drop)
}

/// Removes a secret; no error where it is gone.
pub(crate) fn remove(connect: &Connect, id: Uuid) -> PortResult<()> {
    match connect.lookup_secret_by_uuid(id).or_absent()? {
        Some(secret) => secret.undefine().or_absent().map(drop),
        None => Ok(()),
    }
}

/// The domains that name a secret, by its UUID or by its usage.
pub(crate) fn users(connect: &Connect, id: Uuid) -> PortResult<Vec<String>> {
    let usage = read(connect, id)?.and_then(|secret| secret.usage);
    let usage = usage.map(|usage| usage.name);
    let mut users = BTreeSet::new();
    for domain in connect.list_all_domains(0).or_fault()? {
        for flags in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
            let Some(text) = domain.xml_desc(flags).or_absent()? else {
                continue;
            };
            if names(xml::parse(&text)?.root_element(), id, usage.as_deref()) {
                users.insert(domain.name().or_fault()?);
            }
        }
    }
    Ok(users.into_iter().collect())
}

/// Whether a domain names a secret. Rather once too often than too seldom.
fn names(domain: Node<'_, '_>, id: Uuid, usage: Option<&str>) -> bool {
    let attributes = domain.descendants().flat_map(|node| node.attributes());
    attributes
        .into_iter()
        .any(|attribute| match attribute.name() {
            "uuid" | "secret" => Uuid::parse_str(attribute.value()) == Ok(id),
            "usage" => usage == Some(attribute.value()),
            _ => false,
        })
}

/// The element in which a secret's usage is named.
fn usage_element(kind: &str) -> PortResult<&'static str> {
    match kind {
        "volume" => Ok("volume"),
        "iscsi" => Ok("target"),
        "ceph" | "tls" | "vtpm" => Ok("name"),
        _ => Err(PortError::new(
            Fault::Unsupported,
            format!("secrets for `{}` are not known here", kind.escape_default()),
        )),
    }
}

fn compose(secret: &SecretFacts) -> PortResult<String> {
    let flag = |set| if set { "yes" } else { "no" };
    let mark = secret
        .brought_by
        .map(|id| format!("{}{id}{}", MARK.0, MARK.1));
    let own = Some(secret.description.clone()).filter(|own| !own.is_empty());
    let description: Vec<String> = own.into_iter().chain(mark).collect();
    let usage = match &secret.usage {
        None => String::new(),
        Some(usage) => {
            let (kind, name) = (&usage.kind, xml::escape(&usage.name));
            let element = usage_element(kind)?;
            format!("<usage type='{kind}'><{element}>{name}</{element}></usage>")
        }
    };
    Ok(format!(
        "<secret ephemeral='{}' private='{}'><uuid>{}</uuid><description>{}</description>{}</secret>",
        flag(secret.ephemeral),
        flag(secret.private),
        secret.id,
        xml::escape(&description.join(" ")),
        usage,
    ))
}

fn parse(description: &str) -> PortResult<SecretFacts> {
    let document = xml::parse(description)?;
    let root = document.root_element();
    let id = xml::text(root, &["uuid"])
        .and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(|| PortError::new(Fault::Other, "a secret has no UUID"))?;
    let usage = xml::child(root, "usage")
        .map(|usage| {
            let kind = usage.attribute("type").unwrap_or_default();
            let name = xml::text(usage, &[usage_element(kind)?]).unwrap_or_default();
            Ok::<_, PortError>(SecretUsage {
                kind: kind.to_owned(),
                name: name.to_owned(),
            })
        })
        .transpose()?;
    let text = xml::text(root, &["description"]).unwrap_or_default();
    let marked = text.rsplit_once(MARK.0).and_then(|(own, rest)| {
        let by = Uuid::parse_str(rest.strip_suffix(MARK.1)?).ok()?;
        Some((own.trim_end(), by))
    });
    let (own, brought_by) = marked.map_or((text, None), |(own, by)| (own, Some(by)));
    Ok(SecretFacts {
        id,
        description: own.to_owned(),
        usage,
        ephemeral: root.attribute("ephemeral") == Some("yes"),
        private: root.attribute("private") == Some("yes"),
        brought_by,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret() -> SecretFacts {
        SecretFacts {
            id: Uuid::from_u128(7),
            description: "the key of <web-1> & 'web-2'".into(),
            usage: Some(SecretUsage {
                kind: "volume".into(),
                name: "/images/web-1 & 2.img".into(),
            }),
            ephemeral: true,
            private: false,
            brought_by: None,
        }
    }

    #[test]
    fn one_comes_back_with_and_without_its_mark() {
        for brought_by in [None, Some(Uuid::from_u128(9))] {
            for description in ["", "a key", "[brought by evenkeel, move on]"] {
                for usage in [None, secret().usage] {
                    let one = SecretFacts {
                        description: description.to_owned(),
                        usage,
                        brought_by,
                        ..secret()
                    };
                    assert_eq!(parse(&compose(&one).unwrap()).unwrap(), one);
                }
            }
        }
    }

    #[test]
    fn as_libvirt_writes_it() {
        let one = parse(
            "<secret ephemeral='no' private='yes'>\n  <uuid>00000000-0000-0000-0000-000000000007</uuid>\n  \
             <description>a key</description>\n  <usage type='iscsi'>\n    <target>libvirtiscsi</target>\n  </usage>\n</secret>",
        )
        .unwrap();
        assert!(one.private && !one.ephemeral);
        assert_eq!(one.usage.unwrap().to_string(), "iscsi libvirtiscsi");
        assert_eq!(one.brought_by, None);
        assert!(parse("<secret><usage type='new'/></secret>").is_err());
    }

    #[test]
    fn domains_that_name_one() {
        let named = |text: &str| {
            let document = xml::parse(text).unwrap();
            names(document.root_element(), Uuid::from_u128(7), Some("/a.img"))
        };
        let id = "00000000-0000-0000-0000-000000000007";
        assert!(named(&format!(
            "<domain><x><secret type='passphrase' uuid='{id}'/></x></domain>"
        )));
        assert!(named(&format!(
            "<domain><tpm><encryption secret='{id}'/></tpm></domain>"
        )));
        assert!(named(
            "<domain><secret type='passphrase' usage='/a.img'/></domain>"
        ));
        assert!(!named(&format!(
            "<domain><uuid>{id}</uuid><secret usage='/b.img'/></domain>"
        )));
    }
}
