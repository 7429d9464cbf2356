//! The test executables: built by cargo, and run as cargo would run them.

use std::collections::HashMap;

use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};
use cargo_metadata::{Artifact, Message, TargetKind};

use crate::process;

/// The test targets that work on the real kernel and need root.
const NEED_ROOT: [&str; 3] = ["kernel", "agent", "daemonset"];

/// An executable with tests, and the environment it is run in.
#[derive(Debug)]
pub(super) struct Executable {
    package: String,
    target: String,
    kind: Kind,
    path: Utf8PathBuf,
    package_folder: Utf8PathBuf,
    /// The binaries of the same package, by name; cargo tells integration tests where they are.
    binaries: Vec<(String, Utf8PathBuf)>,
}

/// What the tests were compiled into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Library,
    Binary,
    Integration,
}

impl Executable {
    /// `enforcer (library)`, `xtask (binary xtask)`, `enforcer/kernel`.
    pub(super) fn name(&self) -> String {
        let Self { package, target, kind, .. } = self;
        match kind {
            Kind::Library => format!("{package} (library)"),
            Kind::Binary => format!("{package} (binary {target})"),
            Kind::Integration => format!("{package}/{target}"),
        }
    }

    pub(super) fn needs_root(&self) -> bool {
        self.kind == Kind::Integration && NEED_ROOT.contains(&self.target.as_str())
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Where cargo runs tests.
    pub(super) fn package_folder(&self) -> &Utf8Path {
        &self.package_folder
    }

    /// What cargo sets for tests and test libraries read at run time.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("CARGO_MANIFEST_DIR".to_owned(), self.package_folder.to_string()),
            ("CARGO_PKG_NAME".to_owned(), self.package.clone()),
        ];
        if self.kind == Kind::Integration {
            let binaries = self.binaries.iter();
            environment.extend(binaries.map(|(name, path)| (format!("CARGO_BIN_EXE_{name}"), path.to_string())));
        }
        environment
    }
}

/// Compiles all tests of the workspace or, sanitized, what of them runs the code that is `unsafe`.
pub(super) fn build(sanitized: bool) -> anyhow::Result<Vec<Executable>> {
    let mut cargo = if sanitized { process::nightly("cargo") } else { process::cargo() };
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    if sanitized {
        cargo
            .args(["--package", "enforcer-ebpf", "--package", "enforcer", "--lib", "--test", "kernel"])
            // With the platform named, build scripts go without the sanitizer.
            .args(["--target", &process::triple(), "--target-dir", "target/sanitized"])
            .env("RUSTFLAGS", "-Zsanitizer=address");
    } else {
        cargo.arg("--workspace");
    }
    let messages = process::cargo_messages(&mut cargo)?;
    let artifacts = messages.into_iter().filter_map(|message| match message {
        Message::CompilerArtifact(artifact) => Some(artifact),
        _ => None,
    });
    Ok(collect(artifacts.collect()))
}

/// The test executables among what cargo built, in the order of their names.
fn collect(artifacts: Vec<Artifact>) -> Vec<Executable> {
    let mut binaries: HashMap<Utf8PathBuf, Vec<(String, Utf8PathBuf)>> = HashMap::new();
    let mut executables = Vec::new();
    for Artifact { package_id, manifest_path, target, profile, executable, .. } in artifacts {
        let Some(path) = executable else { continue };
        let package_folder = manifest_path.parent().unwrap_or(&manifest_path).to_owned();
        let kind = if target.kind.contains(&TargetKind::Test) {
            Kind::Integration
        } else if target.kind.contains(&TargetKind::Bin) {
            Kind::Binary
        } else {
            Kind::Library
        };
        if profile.test {
            let package = process::package_name(&package_id.repr).to_owned();
            let target = target.name;
            executables.push(Executable { package, target, kind, path, package_folder, binaries: Vec::new() });
        } else if kind == Kind::Binary {
            binaries.entry(package_folder).or_default().push((target.name, path));
        }
    }
    for executable in &mut executables {
        executable.binaries = binaries.get(&executable.package_folder).cloned().unwrap_or_default();
    }
    executables.sort_by_key(Executable::name);
    executables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as cargo prints it.
    fn artifact(package: &str, kind: &str, target: &str, test: bool) -> Artifact {
        let line = format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file:///checkout/{package}#0.1.0",
            "manifest_path":"/checkout/{package}/Cargo.toml","target":{{"kind":["{kind}"],"crate_types":["bin"],
            "name":"{target}","src_path":"/checkout/{package}/x.rs","edition":"2024","doc":true,"doctest":false,
            "test":true}},"profile":{{"opt_level":"0","debuginfo":1,"debug_assertions":true,"overflow_checks":true,
            "test":{test}}},"features":[],"filenames":[],"executable":"/target/{target}-{test}","fresh":true}}"#
        );
        match Message::parse_stream(line.replace('\n', "").as_bytes()).next().unwrap().unwrap() {
            Message::CompilerArtifact(artifact) => artifact,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn executables_know_their_package_and_its_binaries() {
        let executables = collect(vec![
            artifact("enforcer", "bin", "enforcer", false),
            artifact("enforcer", "test", "kernel", true),
            artifact("enforcer", "lib", "enforcer", true),
            artifact("enforcer", "example", "sketch", false),
            artifact("xtask", "bin", "xtask", true),
            artifact("xtask", "bin", "kernel", true),
        ]);
        let names: Vec<_> = executables.iter().map(Executable::name).collect();
        assert_eq!(names, ["enforcer (library)", "enforcer/kernel", "xtask (binary kernel)", "xtask (binary xtask)"]);
        let root: Vec<_> = executables.iter().map(Executable::needs_root).collect();
        assert_eq!(root, [false, true, false, false], "a binary's unit tests need no root, whatever its name");

        let binary = ("CARGO_BIN_EXE_enforcer".to_owned(), "/target/enforcer-false".to_owned());
        assert!(executables[1].environment().contains(&binary));
        assert!(!executables[0].environment().contains(&binary), "unit tests do not get it from cargo either");
        assert_eq!(executables[1].package_folder(), "/checkout/enforcer");
    }
}
