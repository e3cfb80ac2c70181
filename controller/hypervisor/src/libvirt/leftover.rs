//! What a libvirtd that died in a migration left in the guest's QEMU.
//!
//! For each disk it copies, libvirt adds block devices named `migration-<disk>-storage` and `migration-<disk>-format`, and notes
//! them afterwards. One that dies in between forgets them, and from then on no migration of that guest can start: their names
//! are taken (libvirt 9.0). QEMU removes a block device only if nothing uses it, so a copy that runs loses nothing by this.

use evenkeel_engine::port::{Fault, PortError, PortResult};
use serde_json::{Value, json};
use virt::domain::Domain;

use super::fault::OrFault;

/// How libvirt names what it adds for a copy.
const PREFIX: &str = "migration-";

/// Whether a migration failed because of such a device.
pub(crate) fn is_in_the_way(message: &str) -> bool {
    message.contains(&format!("Duplicate nodes with node-name='{PREFIX}"))
}

/// Removes them all, and returns their names. The guest must have no job.
///
/// # Errors
///
/// Where libvirt does not hand on commands to QEMU, or where QEMU says that one is in use.
pub(crate) fn remove(domain: &Domain) -> PortResult<Vec<String>> {
    let all = ask(domain, "query-named-block-nodes", &json!({"flat": true}))?;
    let names = of_copies(&all);
    for name in &names {
        ask(domain, "blockdev-del", &json!({"node-name": name}))?;
    }
    Ok(names)
}

/// The names of those that were added for copies, upper ones first.
fn of_copies(all: &Value) -> Vec<String> {
    let nodes = all.as_array().into_iter().flatten();
    let names = nodes.filter_map(|node| node["node-name"].as_str());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect();
    // A disk's `-format` lies above its `-storage`.
    names.sort();
    names
}

/// A command to the guest's QEMU, and what it returned.
fn ask(domain: &Domain, command: &str, arguments: &Value) -> PortResult<Value> {
    let request = json!({"execute": command, "arguments": arguments}).to_string();
    let answer = domain.qemu_monitor_command(&request, 0).or_fault()?;
    returned(&answer)
}

fn returned(answer: &str) -> PortResult<Value> {
    let odd = |what: &str| PortError::new(Fault::Other, what);
    let mut answer: Value = serde_json::from_str(answer)
        .map_err(|error| odd(&format!("QEMU's answer is no JSON: {error}")))?;
    if let Some(refused) = answer.get("error") {
        let why = refused["desc"].as_str().unwrap_or("no reason is given");
        return Err(odd(&format!("QEMU refuses it: {why}")));
    }
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(odd("QEMU's answer returns nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_taken_names_of_copies_are_in_the_way() {
        let words = "internal error: unable to execute QEMU command 'blockdev-add': Duplicate nodes with node-name=";
        assert!(is_in_the_way(&format!("{words}'migration-vdb-storage'")));
        assert!(!is_in_the_way(&format!("{words}'libvirt-1-storage'")));
        assert!(!is_in_the_way("migration of disk vda failed"));
    }

    #[test]
    fn upper_ones_go_first_and_others_stay() {
        let all = json!([
            {"node-name": "libvirt-1-format"},
            {"node-name": "migration-vda-storage"},
            {"node-name": "migration-vda-format"},
            {"driver": "file"},
            {"node-name": "migration-vdb-storage"},
        ]);
        let expected = [
            "migration-vda-format",
            "migration-vda-storage",
            "migration-vdb-storage",
        ];
        assert_eq!(of_copies(&all), expected);
        assert!(of_copies(&json!({})).is_empty());
    }

    #[test]
    fn what_qemu_refuses_is_told() {
        assert_eq!(returned(r#"{"return": {}}"#).unwrap(), json!({}));
        let refused = r#"{"error": {"class": "GenericError", "desc": "Node migration-vda-storage is in use"}}"#;
        let error = returned(refused).unwrap_err();
        assert!(error.message.contains("is in use"), "{error:?}");
        assert!(returned("{}").is_err());
        assert!(returned("no JSON").is_err());
    }
}
