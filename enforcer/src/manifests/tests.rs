//! The folder source on real folders.

use std::{fs, time::Duration};

use tokio::time::timeout;

use super::*;

fn pod(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{port-enforcer.io/ports: '{port}'}}}}\n\
         spec: {{hostNetwork: true, containers: [{{name: c}}]}}\n"
    )
}

struct Fixture {
    directory: tempfile::TempDir,
    folder: Folder,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().to_owned());
        Self { directory, folder }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn names(&mut self) -> Vec<String> {
        self.folder.read().unwrap().pods.iter().map(|pod| pod.name.clone()).collect()
    }

    fn problems(&mut self) -> Vec<String> {
        let root = format!("{}/", self.directory.path().display());
        self.folder.read().unwrap().problems.iter().map(|problem| problem.to_string().replace(&root, "")).collect()
    }
}

#[test]
fn files_and_documents_that_count() {
    let mut fixture = Fixture::new();
    fixture.write("b.yaml", &format!("{}---\n{}---\n", pod("two", 2), pod("three", 3)));
    fixture.write("a.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"one"},"spec":{"containers":[]}}"#);
    fixture.write(".hidden.yaml", &pod("hidden", 1));
    fixture.write("note.txt", "not a manifest");
    fixture.write("c.yml", &pod("four", 4));
    assert_eq!(fixture.names(), ["one", "two", "three", "four"]);
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn what_breaks_stays_as_it_was_and_is_told_once() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &format!("{}---\n{}", pod("one", 1), pod("two", 2)));
    fixture.write("b.yaml", &pod("three", 3));
    assert_eq!(fixture.names(), ["one", "two", "three"]);

    fixture.write("a.yaml", &format!("{}---\nkind: {{", pod("one", 10)));
    let contents = fixture.folder.read().unwrap();
    let ports: Vec<_> = contents.pods.iter().map(|pod| (pod.name.as_str(), pod.ports_annotation.as_deref())).collect();
    assert_eq!(ports, [("one", Some("10")), ("two", Some("2")), ("three", Some("3"))]);
    assert_eq!(contents.problems.len(), 1);
    assert!(contents.problems[0].to_string().contains("a.yaml, document 2: is not valid YAML"));
    assert_eq!(fixture.problems(), [""; 0], "told once");

    fixture.write("a.yaml", "");
    assert_eq!(fixture.names(), ["one", "two", "three"], "an empty file may be one that is being written");
    fixture.write("a.yaml", &pod("one", 1));
    assert_eq!(fixture.names(), ["one", "three"], "whole again");
    fs::remove_file(fixture.directory.path().join("b.yaml")).unwrap();
    assert_eq!(fixture.names(), ["one"]);
    fixture.write("a.yaml", "kind: {");
    assert_eq!(fixture.problems().len(), 1, "told again, since it had been mended");
}

#[test]
fn what_is_wrong_is_said() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\n");
    fixture.write("b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [], hostNetwork: 7}\n");
    fixture.write("c.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {}\n");
    fixture.write("d.yaml", "- just\n- a list\n");
    fixture.write("e.yaml", "\u{1b}[31m: [");
    fixture.write("f.yaml", &pod("same", 1));
    fixture.write("g.yaml", &pod("same", 2));
    fs::create_dir(fixture.directory.path().join("h.yaml")).unwrap();
    fixture.write("i.yaml", &"#".repeat(usize::try_from(MAX_FILE).unwrap() + 1));
    fs::write(fixture.directory.path().join("j.yaml"), b"\xff\xfe").unwrap();
    fixture.write("k\u{1b}[2J\n.yaml", "kind: x");
    fixture.write("k2\u{1b}.yaml", &pod("other", 1));
    fixture.write("l.yaml", &pod("other", 1));
    let problems = fixture.problems();
    for (problem, words) in problems.iter().zip([
        "a.yaml, document 1: is a 'apps/v1' 'Deployment', and only 'v1' 'Pod' counts here",
        "b.yaml, document 1: is not a valid Pod: ",
        "c.yaml, document 1: has no metadata.name",
        "d.yaml, document 1: is a '' ''",
        "e.yaml, document 1: is not valid YAML: ",
        "h.yaml: is not a regular file",
        "i.yaml: is larger than 4194304 bytes",
        "j.yaml: cannot be read: ",
        r"k\u{1b}[2J\u{a}.yaml, document 1: is a '' 'x'",
        "g.yaml: default/same is also in ",
        r"l.yaml: default/other is also in k2\u{1b}.yaml",
    ]) {
        assert!(problem.starts_with(words), "{problem:?} does not begin with {words:?}");
        assert!(!problem.chars().any(char::is_control), "{problem:?}");
    }
    assert_eq!(problems.len(), 11);
    assert_eq!(fixture.names(), ["same", "other"]);
}

#[test]
fn a_file_of_rubbish_is_told_in_a_few_words() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &(pod("one", 1) + &"---\nrubbish\n".repeat(1_000)));
    let problems = fixture.problems();
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert!(problems[0].starts_with("a.yaml, document 2: "), "{problems:?}");
    assert_eq!(problems[MAX_PROBLEMS], "a.yaml: 980 more documents of it are wrong");
    assert_eq!(fixture.problems(), [""; 0], "told once");
    assert_eq!(fixture.names(), ["one"]);
}

#[test]
fn what_did_not_change_is_not_parsed_again() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &pod("one", 1));
    fixture.write("b.yaml", "kind: {");
    assert_eq!(fixture.names(), ["one"]);
    let path = fixture.directory.path().join("a.yaml");
    // A mark of the test's own, which only parsing takes away.
    fixture.folder.files.get_mut(&path).unwrap().pods[0].name = "remembered".to_owned();
    assert_eq!(fixture.names(), ["remembered"]);
    // A text of the same length, within the resolution of the file's times.
    fixture.write("a.yaml", &pod("two", 1));
    assert_eq!(fixture.names(), ["two"]);
    fixture.write("b.yaml", &pod("three", 1));
    assert_eq!(fixture.names(), ["two", "three"]);
}

#[test]
fn a_folder_that_goes_takes_nothing_with_it() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &pod("one", 1));
    assert_eq!(fixture.names(), ["one"]);
    let path = fixture.directory.path().to_owned();
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).unwrap();
    assert!(fixture.folder.read().is_err());
    fs::rename(&moved, &path).unwrap();
    assert_eq!(fixture.names(), ["one"]);
}

#[tokio::test]
async fn a_change_is_noticed() {
    let fixture = Fixture::new();
    let mut watch = Watch::new(fixture.directory.path()).unwrap();
    fixture.write("a.yaml", &pod("one", 1));
    watch.changed().await;
    fs::remove_file(fixture.directory.path().join("a.yaml")).unwrap();
    watch.changed().await;
}

#[tokio::test]
async fn a_change_is_not_lost_when_the_wait_is_given_up() {
    let fixture = Fixture::new();
    let mut watch = Watch::new(fixture.directory.path()).unwrap();
    fixture.write("a.yaml", &pod("one", 1));
    // Given up again and again, at whatever point, until the change was told.
    let told = async { while timeout(Duration::from_millis(3), watch.changed()).await.is_err() {} };
    timeout(Duration::from_secs(10), told).await.expect("the change is told in the end");
}

#[tokio::test]
async fn the_watch_follows_the_path() {
    let fixture = Fixture::new();
    let path = fixture.directory.path();
    let mut watch = Watch::new(path).unwrap();
    fs::remove_dir(path).unwrap();
    timeout(Duration::from_secs(10), watch.changed()).await.expect("the end of the folder is noticed");
    watch.follow().unwrap();
    fs::create_dir(path).unwrap();
    watch.follow().unwrap();
    fixture.write("a.yaml", &pod("one", 1));
    timeout(Duration::from_secs(10), watch.changed()).await.expect("a change in the new folder is noticed");
}
