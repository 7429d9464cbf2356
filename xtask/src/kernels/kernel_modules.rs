//! What of a kernel is in modules, and tests need: socket diagnostics, which Debian builds as such.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::list;

/// In the order in which they are loaded.
const NAMES: [&str; 3] = ["inet_diag", "tcp_diag", "udp_diag"];

/// How a module may be packed, and what unpacks it.
const PACKED: [(&str, Option<&str>); 3] = [("ko", None), ("ko.xz", Some("xz")), ("ko.zst", Some("zstd"))];

/// The modules in a kernel's folder, in order; `None` where nobody looked for them.
pub(super) fn of(folder: &Path) -> Option<Vec<PathBuf>> {
    list(&folder.join("modules")).ok()
}

/// Unpacks the modules of unpacked packages into a kernel's folder. What is not there is built into the kernel, or its
/// tests say that it is missing.
pub(super) fn take(packages: &[PathBuf], release: &str, folder: &Path) -> anyhow::Result<()> {
    let target = folder.join("modules");
    fs::create_dir(&target).with_context(|| format!("{} cannot be made", target.display()))?;
    for (number, name) in NAMES.into_iter().enumerate() {
        let places = packages.iter().flat_map(|root| ["usr/lib", "lib"].map(|lib| root.join(lib).join("modules")));
        let places = places.map(|modules| modules.join(release).join("kernel/net/ipv4"));
        let found = places
            .flat_map(|place| PACKED.map(|(ending, program)| (place.join(format!("{name}.{ending}")), program)))
            .find(|(path, _)| path.exists());
        if let Some((path, program)) = found {
            let module = unpacked(&path, program)?;
            let target = target.join(format!("{number}-{name}.ko"));
            fs::write(&target, module).with_context(|| format!("{} cannot be written", target.display()))?;
        }
    }
    Ok(())
}

fn unpacked(path: &Path, program: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let Some(program) = program else {
        return fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    };
    let output = Command::new(program).arg("-dc").arg(path).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{program} is not here, which unpacks {}", path.display()))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}: {}", path.display(), output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_in_the_order_of_loading() {
        let top = tempfile::tempdir().unwrap();
        let place = top.path().join("package/usr/lib/modules/6.1.0/kernel/net/ipv4");
        fs::create_dir_all(&place).unwrap();
        for name in ["tcp_diag.ko", "inet_diag.ko", "esp4.ko"] {
            fs::write(place.join(name), name).unwrap();
        }
        assert_eq!(of(top.path()), None);
        take(&[top.path().join("nothing"), top.path().join("package")], "6.1.0", top.path()).unwrap();
        let modules = of(top.path()).unwrap();
        let names: Vec<_> = modules.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["0-inet_diag.ko", "1-tcp_diag.ko"]);
        assert_eq!(fs::read_to_string(&modules[0]).unwrap(), "inet_diag.ko");
    }
}
