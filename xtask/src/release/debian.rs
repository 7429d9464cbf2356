//! Debian package of the agent for nodes without Kubernetes, by cargo-deb (`package.metadata.deb` in
//! `enforcer/Cargo.toml`).

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, bail};

use super::agent::Contents;
use super::recreate;
use crate::arch::Arch;
use crate::{file_tree, process};

/// Folder with what the package contains, as `enforcer/Cargo.toml` names it.
const FOLDER: &str = "target/package";

/// Paths of the program that units name, for installations by hand and by `enforcer boot install`.
const OTHER_PATHS: [&str; 2] = ["/usr/local/bin/enforcer", "/usr/local/libexec/port-enforcer/enforcer"];
/// Path of the program in the package.
const PATH: &str = "/usr/bin/enforcer";

/// Returns the name of the package's file.
pub(super) fn file_name(version: &str, arch: Arch) -> String {
    format!("port-enforcer_{version}-1_{}.deb", arch.as_str())
}

/// Makes the package.
pub(super) fn package(contents: &Contents, arch: Arch, version: &str, epoch: u64) -> anyhow::Result<Vec<u8>> {
    eprintln!("release: packing {}", file_name(version, arch));
    let folder = process::workspace_root().join(FOLDER);
    recreate(&folder)?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    write("enforcer", &contents.program)?;
    write("sbom.spdx.json", &contents.sbom)?;
    write("copyright", copyright(contents)?.as_bytes())?;
    for (name, text) in &contents.units {
        write(&format!("systemd/{name}"), packaged_unit(name, text)?.as_bytes())?;
    }
    for (name, content) in &contents.man {
        write(&format!("man/{name}.gz"), &file_tree::gzip(content)?)?;
    }
    for (name, content) in &contents.completions {
        write(&format!("completions/{name}"), content)?;
    }
    let out = folder.join(file_name(version, arch));
    let mut cargo = process::cargo();
    cargo
        .args(["deb", "--package", "enforcer", "--target", arch.triple(), "--no-build", "--no-strip", "--quiet"])
        .args(["--deb-revision", "1", "--output"])
        .arg(&out)
        .env("SOURCE_DATE_EPOCH", epoch.to_string());
    process::output(&mut cargo).context("cannot make the Debian package")?;
    fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
}

/// Returns a unit with the package's path of the program.
fn packaged_unit(name: &str, text: &str) -> anyhow::Result<String> {
    let mut packaged = text.to_owned();
    for path in OTHER_PATHS {
        packaged = packaged.replace(path, PATH);
    }
    // A folder of its own needs no mount that /usr has not.
    packaged = packaged.replace(" /usr/local/libexec/port-enforcer\n", "\n");
    packaged = packaged.replace(
        "# Installed by `enforcer boot install` or the component boot; removed by `enforcer boot remove`.\n",
        "",
    );
    if !packaged.contains(&format!("ExecStart={PATH} ")) || packaged.contains("/usr/local/") {
        bail!("deploy/systemd/{name} does not start the program at one of {OTHER_PATHS:?}");
    }
    Ok(packaged)
}

/// Returns the licences of the project and of everything that is linked in, in one text.
fn copyright(contents: &Contents) -> anyhow::Result<String> {
    let mut text = String::new();
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let licence = fs::read_to_string(process::workspace_root().join(name));
        let licence = licence.with_context(|| format!("cannot read {name}"))?;
        // Writing to a string cannot fail.
        let _ = write!(text, "== {name} ==\n\n{licence}\n");
    }
    for (name, licence) in &contents.licences {
        let _ = write!(text, "== {name} ==\n\n{}\n", String::from_utf8_lossy(licence));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_package_start_its_program() {
        let folder = process::workspace_root().join("deploy/systemd");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            let packaged = packaged_unit(&name, &text).unwrap();
            assert!(!packaged.contains("boot install"), "dpkg removes it:\n{packaged}");
            count += 1;
            assert!(packaged_unit(&name, &text.replace("ExecStart=", "ExecStart=/opt")).is_err());
        }
        assert_eq!(count, 2);
    }
}
