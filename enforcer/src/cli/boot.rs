//! `enforcer boot`.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use crate::cli::Failure;

/// The unit, as it is in the source tree.
const UNIT: &str = include_str!("../../../deploy/systemd/port-enforcer-restore.service");
/// Name of the unit.
const UNIT_NAME: &str = "port-enforcer-restore.service";
/// Folder of the units of whoever administers the node.
const UNITS: &str = "etc/systemd/system";
/// Folder of the units that systemd starts before all usual ones, whatever the kubelet's is called.
const WANTS: &str = "etc/systemd/system/basic.target.wants";
/// Folder of the program: what is made there gets the type of a program under `SELinux`.
const PROGRAM_FOLDER: &str = "usr/local/libexec/port-enforcer";
/// Name of the program.
const PROGRAM: &str = "enforcer";

/// Install or remove the unit that restores claims at boot
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer boot install                # on a node, as root\n  \
    enforcer boot install --root /host   # in a container, with the node's folders below /host\n  \
    enforcer boot remove")]
pub(super) struct Boot {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Copy this program to /usr/local/libexec/port-enforcer, and enable a systemd unit that runs `enforcer restore` with it
    /// before the kubelet starts. A file that is as it should be is left alone
    Install(Root),
    /// Remove both
    Remove(Root),
}

#[derive(Debug, Args)]
struct Root {
    /// Root of the node's file system
    #[arg(long, value_name = "PATH", default_value = "/")]
    root: PathBuf,
}

impl Boot {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Install(Root { root }) => install(&root),
            Action::Remove(Root { root }) => remove(&root),
        }
    }
}

fn install(root: &Path) -> Result<(), Failure> {
    let units = root.join(UNITS);
    if !units.is_dir() {
        return Err(Failure::unsupported(format!(
            "the folder {} is not there: this node does not run systemd; see docs/immutable-hosts.md for other ways",
            units.display()
        )));
    }
    let own = Path::new("/proc/self/exe");
    let program = fs::read(own).map_err(failed("read", own))?;
    let path = root.join(PROGRAM_FOLDER).join(PROGRAM);
    let changed = replace(&path, &program, 0o755)?;
    report(&path, changed);
    // Only now is there a program for it to run.
    let unit = units.join(UNIT_NAME);
    let changed = replace(&unit, UNIT.as_bytes(), 0o644)?;
    report(&unit, changed);
    let link = root.join(WANTS).join(UNIT_NAME);
    let target = Path::new("..").join(UNIT_NAME);
    if fs::read_link(&link).is_ok_and(|present| present == target) {
        report(&link, false);
        return Ok(());
    }
    fs::create_dir_all(root.join(WANTS)).map_err(failed("make the folder", &root.join(WANTS)))?;
    remove_file(&link)?;
    symlink(&target, &link).map_err(failed("make the link", &link))?;
    report(&link, true);
    Ok(())
}

fn remove(root: &Path) -> Result<(), Failure> {
    // First the link, so that systemd never looks for a unit or a program that is gone.
    let paths =
        [root.join(WANTS).join(UNIT_NAME), root.join(UNITS).join(UNIT_NAME), root.join(PROGRAM_FOLDER).join(PROGRAM)];
    let mut found = false;
    for path in &paths {
        if remove_file(path)? {
            found = true;
            println!("removed {}", path.display());
        }
    }
    for folder in [WANTS, PROGRAM_FOLDER] {
        // It stays where it is a mount or holds what is not ours.
        let _ = fs::remove_dir(root.join(folder));
    }
    if !found {
        println!("the unit is not installed below {}", root.display());
    }
    Ok(())
}

fn report(path: &Path, changed: bool) {
    println!("{} {}", if changed { "wrote" } else { "unchanged:" }, path.display());
}

/// Replaces a file in one step, unless it has this content already. Returns whether it had not.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<bool, Failure> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    let next = path.with_extension("next");
    let write = || {
        // What a crash left may be a program that runs, which cannot be written to.
        remove_file(&next).map_err(|failure| io::Error::other(failure.message))?;
        fs::write(&next, content)?;
        fs::set_permissions(&next, fs::Permissions::from_mode(mode))?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(&next, path)
    };
    write().map_err(failed("write", path))?;
    Ok(true)
}

fn remove_file(path: &Path) -> Result<bool, Failure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let message = format!("cannot {action} {}: {error}; run this as root", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Failure::unsupported(message),
            _ => Failure::runtime(message),
        }
    }
}
