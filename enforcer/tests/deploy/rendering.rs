//! What kubectl makes of the overlays. Without kubectl these tests are skipped, and say so.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use insta::Settings;
use libtest_mimic::{Completion, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

use enforcer_testing::tests;

use crate::{
    Test, components,
    strict::{assert_same, deploy, documents},
};

/// Every overlay.
pub(crate) const OVERLAYS: [&str; 3] = ["audit", "enforce", "uninstall"];

const TESTS: &[Test] = tests![
    overlays_match_snapshots,
    base_change_reaches_every_overlay,
    user_overlay_sets_the_registry,
    old_kernels_component_adds_one_capability
];

pub(crate) fn trials() -> Vec<Trial> {
    let kubectl = has_kubectl();
    let own = TESTS.iter().map(|test| ("rendering", test));
    let trials = own.chain(components::TESTS.iter().map(|test| ("components", test))).map(|(subject, &(name, run))| {
        Trial::ignorable_test(format!("{subject}::{name}"), move || {
            if !kubectl {
                return Ok(Completion::ignored_with("kubectl is not installed"));
            }
            run();
            Ok(Completion::Completed)
        })
    });
    trials.collect()
}

/// Only a program that is not there is a reason to skip; one that fails is a failure.
pub(crate) fn has_kubectl() -> bool {
    let result = Command::new("kubectl").args(["kustomize", "--help"]).stdout(Stdio::null()).status();
    !matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// What kubectl makes of a kustomization.
pub(crate) fn render(folder: &Path) -> String {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("running kubectl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {} {said}", folder.display(), output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn snapshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/snapshots")
}

/// What an overlay is committed to render to.
pub(crate) fn committed(overlay: &str) -> String {
    let text = fs::read_to_string(snapshots().join(format!("{overlay}.snap"))).expect("a snapshot");
    // The head, between two lines of dashes, is insta's.
    let rest = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).expect("a snapshot's head");
    rest.1.to_owned()
}

fn overlays_match_snapshots() {
    for overlay in OVERLAYS {
        let mut settings = Settings::clone_current();
        settings.set_snapshot_path(snapshots());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let rendered = render(&deploy().join("overlays").join(overlay));
        settings.bind(|| insta::assert_snapshot!(overlay, rendered));
    }
}

/// `deploy/`, to be changed.
pub(crate) fn copy() -> TempDir {
    let top = TempDir::new().expect("a folder");
    let copied = Command::new("cp").arg("-r").arg(deploy()).arg(top.path().join("deploy")).status().expect("cp");
    assert!(copied.success(), "cp: {copied}");
    top
}

/// So that a snapshot that is older than the base is found to be.
fn base_change_reaches_every_overlay() {
    for (file, from, to) in [
        ("daemonset.yaml", "type: DirectoryOrCreate", "type: Directory"),
        ("rbac.yaml", "verbs: [create, patch]", "verbs: [create]"),
        ("namespace.yaml", "warn: privileged", "warn: baseline"),
        ("quota.yaml", "\"1000000\"", "\"1\""),
    ] {
        let top = copy();
        let path = top.path().join("deploy/base").join(file);
        let text = fs::read_to_string(&path).expect("a manifest");
        assert!(text.contains(from), "{file} says {from}");
        fs::write(&path, text.replace(from, to)).expect("a manifest");
        for overlay in OVERLAYS {
            let rendered = render(&top.path().join("deploy/overlays").join(overlay));
            assert_ne!(rendered.trim_end(), committed(overlay).trim_end(), "{overlay}: {file}");
        }
    }
}

/// Renders a kustomization on top of the audit overlay.
pub(crate) fn on_top(kustomization: &Value) -> Vec<Value> {
    let top = copy();
    let folder = top.path().join("mine");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("kustomization.yaml"), kustomization.to_string()).expect("a file");
    documents(&render(&folder))
}

fn user_overlay_sets_the_registry() {
    let rendered = on_top(&json!({
        "resources": ["../deploy/overlays/audit"],
        "images": [{ "name": "port-enforcer", "newName": "registry.example/tools/port-enforcer" }],
    }));
    let mut expected = documents(&committed("audit"));
    let image = concat!("registry.example/tools/port-enforcer:", env!("CARGO_PKG_VERSION"));
    *expected.last_mut().and_then(|object| object.pointer_mut(IMAGE)).expect("an image") = image.into();
    assert_same(&rendered, &expected, "an overlay on top");
}

fn old_kernels_component_adds_one_capability() {
    let rendered = on_top(&json!({
        "resources": ["../deploy/overlays/audit"],
        "components": ["../deploy/components/linux-5.10"],
    }));
    let mut expected = documents(&committed("audit"));
    let capabilities = expected.last_mut().and_then(|object| object.pointer_mut(ADDED)).expect("capabilities");
    capabilities.as_array_mut().expect("a list").push("SYS_RESOURCE".into());
    assert_same(&rendered, &expected, "the component");
}

const IMAGE: &str = "/spec/template/spec/containers/0/image";
const ADDED: &str = "/spec/template/spec/containers/0/securityContext/capabilities/add";
