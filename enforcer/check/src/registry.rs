//! Files with a registry: a table of ports and their users.

use std::path::Path;

use enforcer_core::{check::registry::PortRegistry, manifests::shown};

use crate::{files::read_text, paths::FilePaths};

/// Reads a registry.
///
/// # Errors
///
/// The reason why there is none, safe to show.
pub(crate) fn read_registry(path: &Path, known: &mut FilePaths) -> Result<PortRegistry, String> {
    let name = shown(path);
    let text = read_text(path).map_err(|error| {
        format!("cannot read the registry {name}: {error}; name one, or make one with --write-registry FILE")
    })?;
    PortRegistry::read(&text, &known.add(path)).map_err(|reason| {
        format!("{name} is no registry: {reason}; its form is in docs/check.md, and --write-registry FILE makes one")
    })
}
