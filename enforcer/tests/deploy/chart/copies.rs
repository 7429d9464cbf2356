//! A chart reads nothing outside of its folder, and not every tool that fetches charts follows links. So what is plain data
//! is there as copies, which these tests hold equal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use enforcer_testing::tests;
use serde_json::{Value, json};

use super::{chart, is_update};
use crate::{
    Test,
    strict::{deploy, read},
};

pub(super) const TESTS: &[Test] = tests![copies_equal_their_sources, versions_are_the_workspaces, hub_data_is_true];

/// The files below a folder, by their paths in it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(folder).expect("it is below").to_owned());
            }
        }
    }
    files.sort();
    files
}

fn copies_equal_their_sources() {
    let folder = chart().join("files");
    let copies = files_below(&folder);
    assert!(copies.len() > 10, "{copies:?}");
    for copy in copies {
        let [source, text] = [deploy().join(&copy), folder.join(&copy)]
            .map(|path| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        if is_update() && source != text {
            fs::write(folder.join(&copy), &source).expect("writing a copy");
            continue;
        }
        assert!(
            source == text,
            "deploy/helm/port-enforcer/files/{0} is not the same as deploy/{0}; \
             INSTA_UPDATE=always cargo test --package enforcer --test deploy copies it anew",
            copy.display()
        );
    }
}

fn metadata() -> Value {
    read(&chart().join("Chart.yaml")).remove(0)
}

fn versions_are_the_workspaces() {
    let version = env!("CARGO_PKG_VERSION");
    let metadata = metadata();
    assert_eq!((&metadata["version"], &metadata["appVersion"]), (&json!(version), &json!(version)));
}

/// Finds the repositories of all images, wherever they stand in the values.
fn repositories(values: &Value, found: &mut Vec<String>) {
    for (key, value) in values.as_object().into_iter().flatten() {
        match value["repository"].as_str().filter(|_| key == "image") {
            Some(repository) => found.push(repository.to_owned()),
            None => repositories(value, found),
        }
    }
}

/// What Artifact Hub shows of the chart.
fn hub_data_is_true() {
    let metadata = metadata();
    let annotation = |name: &str| {
        let text = metadata["annotations"][format!("artifacthub.io/{name}")].as_str().expect("an annotation");
        crate::strict::documents(text).remove(0)
    };
    let values = read(&chart().join("values.yaml")).remove(0);
    let mut images = Vec::new();
    repositories(&values, &mut images);
    let expected: Vec<_> = images
        .iter()
        .map(|name| {
            let image = format!("{name}:{}", env!("CARGO_PKG_VERSION"));
            json!({ "name": name, "image": image, "platforms": ["linux/amd64", "linux/arm64"] })
        })
        .collect();
    assert_eq!(annotation("images"), Value::from(expected), "the images of the values");
    let definition = read(&deploy().join("base/nodehostports.yaml")).remove(0);
    let [crd] = annotation("crds").as_array().expect("a list").clone().try_into().expect("one definition");
    assert_eq!(crd["name"], definition["metadata"]["name"]);
    assert_eq!(crd["kind"], definition["spec"]["names"]["kind"]);
    assert_eq!(crd["version"], definition["spec"]["versions"][0]["name"]);
    assert!(!annotation("changes").as_array().expect("a list").is_empty());
    assert!(read(&chart().join("artifacthub-repo.yml"))[0]["owners"].is_array());
}
