//! The adapter to hypervisors.

use std::sync::Arc;

use evenkeel_engine::port::Hypervisors;

/// The real ones.
///
/// # Errors
/// Where the adapter can't work here at all.
pub fn open() -> anyhow::Result<Arc<dyn Hypervisors>> {
    anyhow::bail!("this build has no hypervisors")
}

/// Whether a URI is one we use; if not, why.
///
/// # Errors
/// With the sentence.
pub fn check_uri(_uri: &str, _insecure: bool) -> Result<(), String> {
    Ok(())
}
