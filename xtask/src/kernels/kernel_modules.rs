//! Kernel modules that tests need: socket diagnostics, which Debian does not build into the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::sorted_entries;

/// Names of the modules, in the order of loading.
const NAMES: [&str; 3] = ["inet_diag", "tcp_diag", "udp_diag"];

/// File extensions of modules, with the program that decompresses them.
const EXTENSIONS: [(&str, Option<&str>); 3] = [("ko", None), ("ko.xz", Some("xz")), ("ko.zst", Some("zstd"))];

/// Returns the modules in a kernel's folder, in the order of loading. Returns `None` before [`extract`].
pub(super) fn find(folder: &Path) -> Option<Vec<PathBuf>> {
    sorted_entries(&folder.join("modules")).ok()
}

/// Extracts the modules from unpacked packages into a kernel's folder. A missing module is built into the kernel, or
/// the tests report that it is missing.
pub(super) fn extract(packages: &[PathBuf], release: &str, folder: &Path) -> anyhow::Result<()> {
    let target = folder.join("modules");
    fs::create_dir(&target).with_context(|| format!("cannot create {}", target.display()))?;
    for (number, name) in NAMES.into_iter().enumerate() {
        let folders = packages.iter().flat_map(|root| ["usr/lib", "lib"].map(|lib| root.join(lib).join("modules")));
        let folders = folders.map(|modules| modules.join(release).join("kernel/net/ipv4"));
        let found = folders
            .flat_map(|folder| {
                EXTENSIONS.map(|(extension, program)| (folder.join(format!("{name}.{extension}")), program))
            })
            .find(|(path, _)| path.exists());
        if let Some((path, program)) = found {
            let module = decompress(&path, program)?;
            let target = target.join(format!("{number}-{name}.ko"));
            fs::write(&target, module).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

/// Reads a module, through a program if it is compressed.
fn decompress(path: &Path, program: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let Some(program) = program else {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    };
    let output = Command::new(program).arg("-dc").arg(path).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {program}, which decompresses {}", path.display()))?;
    if !output.status.success() {
        bail!("{program} cannot decompress {}: {}", path.display(), output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_extracted_in_the_order_of_loading() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("package/usr/lib/modules/6.1.0/kernel/net/ipv4");
        fs::create_dir_all(&folder).unwrap();
        for name in ["tcp_diag.ko", "inet_diag.ko", "esp4.ko"] {
            fs::write(folder.join(name), name).unwrap();
        }
        assert_eq!(find(top.path()), None);
        extract(&[top.path().join("nothing"), top.path().join("package")], "6.1.0", top.path()).unwrap();
        let modules = find(top.path()).unwrap();
        let names: Vec<_> = modules.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["0-inet_diag.ko", "1-tcp_diag.ko"]);
        assert_eq!(fs::read_to_string(&modules[0]).unwrap(), "inet_diag.ko");
    }
}
