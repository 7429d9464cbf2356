//! Every file of `deploy/`, as it stands.

use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};

use enforcer_testing::tests;

use crate::{
    Test,
    strict::{check, deploy, documents, files, lost, read},
};

pub(crate) const TESTS: &[Test] =
    tests![manifests_use_known_fields_only, unknown_field_is_found, every_file_is_used, no_image_names_a_registry];

/// What the kustomizations here may say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Kustomization {
    #[expect(dead_code, reason = "that there is nothing else is the point")]
    api_version: String,
    #[expect(dead_code, reason = "that there is nothing else is the point")]
    kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    images: Vec<Image>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    #[expect(dead_code, reason = "rendering shows whether it fits")]
    replacements: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "rendering shows whether it fits")]
struct Generator {
    name: String,
    namespace: String,
    files: Vec<String>,
    options: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: Option<String>,
    #[expect(dead_code, reason = "rendering shows whether it fits")]
    target: Option<Target>,
    #[expect(dead_code, reason = "rendering shows whether it fits")]
    #[serde(rename = "patch")]
    inline: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "rendering shows whether it fits")]
struct Target {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    name: String,
    new_tag: String,
}

fn is_kustomization(document: &Value) -> bool {
    document["apiVersion"].as_str().is_some_and(|version| version.starts_with("kustomize.config.k8s.io/"))
}

fn manifests_use_known_fields_only() {
    let files = files();
    for path in &files {
        let documents = read(path);
        assert!(!documents.is_empty(), "{}", path.display());
        for document in &documents {
            let known = if is_kustomization(document) {
                serde_json::from_value::<Kustomization>(document.clone()).map(drop).map_err(|error| error.to_string())
            } else {
                check(document)
            };
            assert_eq!(known, Ok(()), "{}", path.display());
        }
    }
    assert!(files.len() > 10, "{files:?}");
}

/// The net itself: misspelt, at the wrong place, in the wrong form.
fn unknown_field_is_found() {
    let good = || read(&deploy().join("base/daemonset.yaml")).remove(0);
    assert_eq!(check(&good()), Ok(()));
    for (pointer, key, value) in [
        ("/spec/template/spec", "hostNetwrok", json!(true)),
        ("/spec/template/spec", "readOnlyRootFilesystem", json!(true)),
        ("/spec/updateStrategy/rollingUpdate", "maxSurges", json!(0)),
        ("/spec/template/spec/containers/0/securityContext", "capabilites", json!({ "drop": ["ALL"] })),
        ("/spec/template/spec", "terminationGracePeriodSeconds", json!("5")),
        ("", "kind", json!("DaemonSets")),
    ] {
        let mut bad = good();
        bad.pointer_mut(pointer).expect("it is there")[key] = value;
        let said = check(&bad).expect_err(key);
        assert!(!said.is_empty(), "{key}");
    }
    assert_eq!(lost(&json!({ "a": [{ "b": 1, "c": null }] }), &json!({ "a": [{ "b": 2 }] })), [".a[0].b"]);
    assert_eq!(documents("a: 1\n---\nb: 2\n"), [json!({ "a": 1 }), json!({ "b": 2 })]);
}

fn kustomization(folder: &str) -> Kustomization {
    let path = deploy().join(folder).join("kustomization.yaml");
    serde_json::from_value(read(&path).remove(0)).expect("a kustomization")
}

/// A manifest that no kustomization names is one that nobody gets.
fn every_file_is_used() {
    for folder in [
        "base",
        "overlays/audit",
        "overlays/enforce",
        "overlays/uninstall",
        "components/host-processes",
        "components/linux-5.10",
        "components/monitoring",
        "components/node-ports",
        "components/openshift",
        "components/policies",
        "components/scheduling",
    ] {
        let Kustomization { resources, patches, config_map_generator, .. } = kustomization(folder);
        let mut named: Vec<_> = resources.into_iter().filter(|resource| !resource.starts_with("../")).collect();
        named.extend(patches.into_iter().filter_map(|patch| patch.path));
        named.extend(config_map_generator.into_iter().flat_map(|generator| generator.files));
        named.push("kustomization.yaml".to_owned());
        named.sort();
        let mut present: Vec<_> = fs::read_dir(deploy().join(folder))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        present.sort();
        assert_eq!(named, present, "{folder}");
    }
}

/// Where the image comes from is for who installs it to say.
fn no_image_names_a_registry() {
    let Kustomization { images, .. } = kustomization("base");
    let [Image { name, new_tag }] = &images[..] else { panic!("one image: {images:?}") };
    assert_eq!((name.as_str(), new_tag.as_str()), ("port-enforcer", env!("CARGO_PKG_VERSION")));
    // What is rendered has the tag.
    for path in files().into_iter().filter(|path| !path.ends_with("install.yaml")) {
        for line in fs::read_to_string(&path).expect("a manifest").lines() {
            if let Some(image) = line.trim_start_matches([' ', '-']).strip_prefix("image: ") {
                // Only the examples' server has a tag of its own.
                let name = image.strip_suffix(":alpine").unwrap_or(image);
                assert!(!name.contains(['/', ':']), "{}: {image}", path.display());
            }
        }
    }
}
