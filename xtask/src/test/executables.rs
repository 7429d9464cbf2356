//! Test executables: built by cargo, with the environment in which cargo would run them.

use std::collections::HashMap;

use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};
use cargo_metadata::{Artifact, Message, TargetKind};

use crate::process;

/// Names of the integration tests that use the real kernel and need root, in any package.
const ROOT_TESTS: [&str; 3] = ["kernel", "agent", "daemonset"];

/// An executable with tests.
#[derive(Debug)]
pub(crate) struct TestExecutable {
    package: String,
    target: String,
    kind: TestKind,
    path: Utf8PathBuf,
    package_folder: Utf8PathBuf,
    /// Names and paths of the package's binaries, which cargo passes to integration tests.
    binaries: Vec<(String, Utf8PathBuf)>,
}

/// Kind of the cargo target that the tests belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TestKind {
    Library,
    Binary,
    Integration,
}

impl TestExecutable {
    /// Returns a name such as `enforcer (library)`, `xtask (binary xtask)` or `enforcer/kernel`.
    pub(crate) fn name(&self) -> String {
        let Self { package, target, kind, .. } = self;
        match kind {
            TestKind::Library => format!("{package} (library)"),
            TestKind::Binary => format!("{package} (binary {target})"),
            TestKind::Integration => format!("{package}/{target}"),
        }
    }

    /// Returns true if the tests must run as root.
    pub(crate) fn needs_root(&self) -> bool {
        self.kind == TestKind::Integration && ROOT_TESTS.contains(&self.target.as_str())
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns the folder in which cargo runs the tests.
    pub(crate) fn package_folder(&self) -> &Utf8Path {
        &self.package_folder
    }

    /// Returns the variables that cargo sets for tests and that test libraries read at run time.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("CARGO_MANIFEST_DIR".to_owned(), self.package_folder.to_string()),
            ("CARGO_PKG_NAME".to_owned(), self.package.clone()),
        ];
        if self.kind == TestKind::Integration {
            let binaries = self.binaries.iter();
            environment.extend(binaries.map(|(name, path)| (format!("CARGO_BIN_EXE_{name}"), path.to_string())));
        }
        environment
    }
}

/// Compiles all tests of the workspace. With the sanitizer, only unit tests and kernel tests of the packages with code
/// that is `unsafe` or decodes data of the kernel.
pub(crate) fn build(sanitized: bool) -> anyhow::Result<Vec<TestExecutable>> {
    let mut cargo = if sanitized { process::nightly("cargo") } else { process::cargo() };
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    if sanitized {
        cargo
            .args(["--package", "enforcer-ebpf", "--package", "enforcer-core", "--package", "enforcer"])
            .args(["--lib", "--test", "kernel"])
            // With --target, build scripts are compiled without the sanitizer.
            .args(["--target", &process::host_triple(), "--target-dir", "target/sanitized"])
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

/// Returns the test executables among cargo's artifacts, sorted by name.
fn collect(artifacts: Vec<Artifact>) -> Vec<TestExecutable> {
    let mut binaries: HashMap<Utf8PathBuf, Vec<(String, Utf8PathBuf)>> = HashMap::new();
    let mut executables = Vec::new();
    for Artifact { package_id, manifest_path, target, profile, executable, .. } in artifacts {
        let Some(path) = executable else { continue };
        let package_folder = manifest_path.parent().unwrap_or(&manifest_path).to_owned();
        let kind = if target.kind.contains(&TargetKind::Test) {
            TestKind::Integration
        } else if target.kind.contains(&TargetKind::Bin) {
            TestKind::Binary
        } else {
            TestKind::Library
        };
        if profile.test {
            let package = process::package_name(&package_id.repr).to_owned();
            let target = target.name;
            executables.push(TestExecutable { package, target, kind, path, package_folder, binaries: Vec::new() });
        } else if kind == TestKind::Binary {
            binaries.entry(package_folder).or_default().push((target.name, path));
        }
    }
    for executable in &mut executables {
        executable.binaries = binaries.get(&executable.package_folder).cloned().unwrap_or_default();
    }
    executables.sort_by_key(TestExecutable::name);
    executables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an artifact as cargo reports it.
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
    fn executable_has_its_package_and_the_binaries_of_it() {
        let executables = collect(vec![
            artifact("enforcer", "bin", "enforcer", false),
            artifact("enforcer", "test", "kernel", true),
            artifact("enforcer", "lib", "enforcer", true),
            artifact("enforcer", "example", "sketch", false),
            artifact("xtask", "bin", "xtask", true),
            artifact("xtask", "bin", "kernel", true),
        ]);
        let names: Vec<_> = executables.iter().map(TestExecutable::name).collect();
        assert_eq!(names, ["enforcer (library)", "enforcer/kernel", "xtask (binary kernel)", "xtask (binary xtask)"]);
        let root: Vec<_> = executables.iter().map(TestExecutable::needs_root).collect();
        assert_eq!(root, [false, true, false, false], "a binary's unit tests need no root, whatever its name");

        let binary = ("CARGO_BIN_EXE_enforcer".to_owned(), "/target/enforcer-false".to_owned());
        assert!(executables[1].environment().contains(&binary));
        assert!(!executables[0].environment().contains(&binary), "cargo does not pass it to unit tests");
        assert_eq!(executables[1].package_folder(), "/checkout/enforcer");
    }
}
