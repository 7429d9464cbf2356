//! Files with a baseline: findings that are accepted.

use std::{io, path::Path};

use enforcer_core::{check::baseline::Baseline, manifests::shown};

use crate::files::read_text;

/// Reads a baseline.
///
/// # Errors
///
/// The reason why there is none, safe to show.
pub(crate) fn read_baseline(path: &Path) -> Result<Baseline, String> {
    let name = shown(path);
    let text = read_text(path).map_err(|error| {
        format!("cannot read the baseline {name}: {error}; name one, or make one with --write-baseline FILE")
    })?;
    Baseline::read(&text).map_err(|reason| {
        format!("{name} is no baseline: {reason}; correct it, or make a new one with --write-baseline FILE")
    })
}

/// Checks whether a new baseline may take the place of a file: there is none, or it is a baseline.
///
/// # Errors
///
/// The reason why it may not, safe to show.
pub(crate) fn check_replaceable(path: &Path) -> Result<(), String> {
    let name = shown(path);
    match read_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(format!("{name} is there and cannot be read: {error}; name another file with --write-baseline"))
        }
        Ok(text) if text.trim().is_empty() => Ok(()),
        Ok(text) => Baseline::read(&text).map(|_| ()).map_err(|reason| {
            format!(
                "{name} is there and is no baseline: {reason}; it is not changed: remove it, or name another file with \
                 --write-baseline"
            )
        }),
    }
}
