use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use enforcer_core::yaml::documents::documents;

use crate::{Page, blocks, pages};

/// Kinds that `enforcer check` reads.
const CHECKED: [&str; 4] = ["Pod", "Deployment", "DaemonSet", "StatefulSet"];

#[test]
fn every_manifest_is_valid() {
    let (mut count, mut checked) = (0, 0);
    for Page { path, text } in pages() {
        for (_, first, lines) in blocks(&text).into_iter().filter(|(language, ..)| *language == "yaml") {
            let place = format!("{}:{first}", path.display());
            let text = lines.join("\n");
            for document in documents(&text) {
                let value = document.unwrap_or_else(|error| panic!("{place}: {error:?}")).root.to_json();
                assert!(value.is_object(), "{place}: {value}");
                count += 1;
                if CHECKED.iter().any(|kind| value["kind"] == **kind) {
                    checked += 1;
                    check(&place, &value.to_string());
                }
            }
        }
    }
    assert!(count > 2 && checked > 0, "{count} manifests were found, {checked} of them pods");
}

fn check(place: &str, manifest: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_enforcer"))
        .args(["check", "-"])
        .env_remove("ENFORCER_NODE_RESERVED")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    child.stdin.take().expect("piped").write_all(manifest.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(0), "{place}: {said}");
}
