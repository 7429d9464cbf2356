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
    fixture.write("c.yml", &pod("four", 4));
    fixture.write("d.manifest", &pod("five", 5));
    fixture.write("etcd", &pod("six", 6));
    fixture.write("f.yaml.bak", &pod("seven", 7));
    fixture.write("g.yaml~", &pod("eight", 8));
    assert_eq!(fixture.names(), ["one", "two", "three", "four", "five", "six", "seven", "eight"]);
    assert_eq!(fixture.problems(), [""; 0]);
    fixture.write("note.txt", "not a manifest");
    assert_eq!(fixture.problems().len(), 1);
}

#[test]
fn unreadable_files_are_problems() {
    let mut fixture = Fixture::new();
    fs::create_dir(fixture.directory.path().join("h.yaml")).unwrap();
    fixture.write("i.yaml", &"#".repeat(usize::try_from(MAX_FILE).unwrap() + 1));
    fs::write(fixture.directory.path().join("j.yaml"), b"\xff\xfe").unwrap();
    fixture.write("k\u{1b}[2J\n.yaml", "kind: x");
    std::os::unix::fs::symlink("nothing", fixture.directory.path().join("m.yaml")).unwrap();
    let problems = fixture.problems();
    for (problem, words) in problems.iter().zip([
        "h.yaml: is not a regular file",
        "i.yaml: is larger than 4194304 bytes",
        "j.yaml: cannot be read: it is UTF-16 or UTF-32; write it as UTF-8",
        r"k\u{1b}[2J\u{a}.yaml, document 1: is a '' 'x'",
    ]) {
        assert!(problem.starts_with(words), "{problem:?} does not begin with {words:?}");
    }
    assert_eq!(problems.len(), 4, "{problems:?}");
    fs::write(fixture.directory.path().join("j.yaml"), b"a: \xff").unwrap();
    assert_eq!(fixture.problems(), ["j.yaml: cannot be read: it is not UTF-8 (at byte 3); write it as UTF-8"]);
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
