use super::*;
use crate::manifests::pod_file::MAX_PROBLEMS;

fn pod(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{port-enforcer.io/ports: '{port}'}}}}\n\
         spec: {{hostNetwork: true, containers: [{{name: c}}]}}\n"
    )
}

/// A folder without a filesystem.
#[derive(Default)]
struct Fixture {
    files: BTreeMap<PathBuf, Result<String, String>>,
    folder: PodFolder,
}

impl Fixture {
    fn write(&mut self, name: &str, text: &str) {
        self.files.insert(name.into(), Ok(text.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        self.files.remove(Path::new(name));
    }

    fn refresh(&mut self) -> FolderContents {
        let paths = self.files.keys().cloned().collect();
        self.folder.refresh(paths, |path| self.files.get(path).cloned().transpose())
    }

    fn names(&mut self) -> Vec<String> {
        self.refresh().pods.iter().map(|pod| pod.name.clone()).collect()
    }

    fn problems(&mut self) -> Vec<String> {
        self.refresh().problems.iter().map(FileProblem::to_string).collect()
    }

    /// The one pod of a text.
    fn only_pod(text: &str) -> Pod {
        let mut fixture = Self::default();
        fixture.write("a.yaml", text);
        let FolderContents { pods, problems } = fixture.refresh();
        assert_eq!(problems, [], "{text:?}");
        let [pod] = <[Pod; 1]>::try_from(pods).expect("one pod");
        pod
    }
}

#[test]
fn pods_of_broken_documents_stay_and_problems_are_reported_once() {
    let mut fixture = Fixture::default();
    fixture.write("a.yaml", &format!("{}---\n{}", pod("one", 1), pod("two", 2)));
    fixture.write("b.yaml", &pod("three", 3));
    assert_eq!(fixture.names(), ["one", "two", "three"]);

    fixture.write("a.yaml", &format!("{}---\nkind: {{", pod("one", 10)));
    let contents = fixture.refresh();
    let ports: Vec<_> = contents.pods.iter().map(|pod| (pod.name.as_str(), pod.ports_annotation.as_deref())).collect();
    assert_eq!(ports, [("one", Some("10")), ("two", Some("2")), ("three", Some("3"))]);
    assert_eq!(contents.problems.len(), 1);
    assert!(contents.problems[0].to_string().contains("a.yaml, document 2: is not valid YAML"));
    assert_eq!(fixture.problems(), [""; 0], "reported once");

    fixture.write("a.yaml", "");
    assert_eq!(fixture.names(), ["one", "two", "three"], "an empty file may be one that is being written");
    fixture.write("a.yaml", &pod("one", 1));
    assert_eq!(fixture.names(), ["one", "three"], "whole again");
    fixture.remove("b.yaml");
    assert_eq!(fixture.names(), ["one"]);
    fixture.write("a.yaml", "kind: {");
    assert_eq!(fixture.problems().len(), 1, "reported again, since it had been mended");
}

#[test]
fn problems_name_file_and_document() {
    let mut fixture = Fixture::default();
    fixture.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\n");
    fixture.write("b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [], hostNetwork: 7}\n");
    fixture.write("c.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {}\n");
    fixture.write("d.yaml", "- just\n- a list\n");
    fixture.write("e.yaml", "\u{1b}[31m: [");
    fixture.write("f.yaml", &pod("same", 1));
    fixture.write("g.yaml", &pod("same", 2));
    fixture.files.insert("h.yaml".into(), Err("cannot be read: \u{1b}[2J".to_owned()));
    fixture.write("k\u{1b}[2J\n.yaml", "kind: x");
    fixture.write("k2\u{1b}.yaml", &pod("other", 1));
    fixture.write("l.yaml", &pod("other", 1));
    let problems = fixture.problems();
    for (problem, words) in problems.iter().zip([
        "a.yaml, document 1: is a 'apps/v1' 'Deployment', and only 'v1' 'Pod' counts here",
        "b.yaml, document 1: is not a valid Pod: spec.hostNetwork is 7; write true or false (line 4 of the document)",
        "c.yaml, document 1: has no metadata.name",
        "d.yaml, document 1: is a '' ''",
        "e.yaml, document 1: is not valid YAML: ",
        r"h.yaml: cannot be read: \u{1b}[2J",
        r"k\u{1b}[2J\u{a}.yaml, document 1: is a '' 'x'",
        "g.yaml: default/same is also in ",
        r"l.yaml: default/other is also in k2\u{1b}.yaml",
    ]) {
        assert!(problem.starts_with(words), "{problem:?} does not begin with {words:?}");
        assert!(!problem.chars().any(char::is_control), "{problem:?}");
    }
    assert_eq!(problems.len(), 9);
    assert_eq!(fixture.names(), ["same", "other"]);
}

#[test]
fn problems_of_one_file_are_bounded() {
    let mut fixture = Fixture::default();
    fixture.write("a.yaml", &(pod("one", 1) + &"---\nrubbish\n".repeat(1_000)));
    let problems = fixture.problems();
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert!(problems[0].starts_with("a.yaml, document 2: "), "{problems:?}");
    assert_eq!(problems[MAX_PROBLEMS], "a.yaml: 980 more documents of it are wrong");
    assert_eq!(fixture.problems(), [""; 0], "reported once");
    assert_eq!(fixture.names(), ["one"]);
}

#[test]
fn unchanged_text_is_not_parsed_again() {
    let mut fixture = Fixture::default();
    fixture.write("a.yaml", &pod("one", 1));
    fixture.write("b.yaml", "kind: {");
    assert_eq!(fixture.names(), ["one"]);
    // A mark of the test's own, which only parsing takes away.
    let file = fixture.folder.files.get_mut(Path::new("a.yaml")).unwrap();
    file.pods[0].name = "remembered".to_owned();
    assert_eq!(fixture.names(), ["remembered"]);
    fixture.write("a.yaml", &pod("two", 1));
    assert_eq!(fixture.names(), ["two"]);
    fixture.write("b.yaml", &pod("three", 1));
    assert_eq!(fixture.names(), ["two", "three"]);
}

#[test]
fn pods_are_read_as_the_kubelet_reads_them() {
    let ports = |pod: &Pod| pod.ports.iter().map(|port| port.host_port).collect::<Vec<_>>();
    let with = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{rest}");
    for (rest, host_network, expected) in [
        (
            "x: &x {hostNetwork: true}\nspec:\n  <<: *x\n  containers: [{name: c, ports: [{containerPort: 7037}]}]",
            true,
            7037,
        ),
        ("spec: {hostNetwork: yes, containers: [{name: c, ports: [{containerPort: 015576}]}]}", true, 7038),
        ("spec: {hostNetwork: off, containers: [{name: c, ports: [{containerPort: 80, hostPort: 0943}]}]}", false, 943),
        (
            "spec: {containers: []}\nspec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}",
            false,
            80,
        ),
        (
            "spec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 80, hostIP: '10.0.0.1'}]}]} # x",
            false,
            80,
        ),
    ] {
        let pod = Fixture::only_pod(&with(rest));
        assert_eq!((pod.host_network, ports(&pod)), (host_network, vec![expected]), "{rest}");
    }
    let tabs =
        with("spec:\n  hostNetwork: true\n  containers:\n  - {name: c,\n\tports: [\n\t{containerPort: 7044}]}\n");
    assert_eq!(ports(&Fixture::only_pod(&tabs)), [7044]);
    let text = with("spec: {containers: []}\n");
    assert_eq!(Fixture::only_pod(&format!("\u{feff}{text}")).name, "a");
    assert_eq!(Fixture::only_pod(&format!("# a comment\n---\n\u{feff}{text}---\nnull\n")).name, "a");
}

#[test]
fn documents_after_a_broken_one_are_read() {
    let mut fixture = Fixture::default();
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[]}}"#;
    fixture.write("a.yaml", &format!("{}---\na: {{\n---\n{}", pod("one", 1), pod("two", 2)));
    fixture.write("b.json", &format!("{json}\n{}\n", json.replace('x', "y")));
    let FolderContents { pods, problems } = fixture.refresh();
    let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["one", "two", "x", "y"]);
    assert!(problems.len() == 1 && problems[0].document == Some(2), "{problems:?}");
}
