//! The action for GitHub workflows (action.yml): its steps, run with bash as a runner runs them, with the real program as
//! release, and with hostile inputs.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::End;

type Test = (&'static str, fn());

const TESTS: [Test; 7] = [
    ("release_is_installed_and_checks", release_is_installed_and_checks),
    ("wrong_checksum_is_refused", wrong_checksum_is_refused),
    ("missing_release_and_bad_version_are_refused", missing_release_and_bad_version_are_refused),
    ("installed_plugin_is_used", installed_plugin_is_used),
    ("baseline_and_severity_are_passed_on", baseline_and_severity_are_passed_on),
    ("hostile_inputs_are_no_code", hostile_inputs_are_no_code),
    ("names_in_other_formats_are_no_commands", names_in_other_formats_are_no_commands),
];

/// Programs that the steps need, and every runner has.
const NEEDED: [&str; 5] = ["bash", "curl", "tar", "sha256sum", "awk"];

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-host_ports");

/// Tests that are skipped where a program of the steps is missing.
pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    TESTS.into_iter().map(|(name, run)| {
        Trial::ignorable_test(format!("action::{name}"), move || {
            let is_there = |name: &&str| {
                Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
            };
            if let Some(name) = NEEDED.iter().find(|name| !is_there(name)) {
                return Ok::<_, Failed>(Completion::ignored_with(format!("{name} is not installed")));
            }
            run();
            Ok(Completion::Completed)
        })
    })
}

fn action() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../action.yml");
    let text = fs::read_to_string(path).expect("action.yml");
    serde_saphyr::from_str(&text).expect("YAML")
}

/// A workflow's machine: a folder with the repository, one for temporary files, and a server with releases.
struct Runner {
    folder: TempDir,
    server: String,
    inputs: BTreeMap<String, String>,
}

/// What came of the action: of the step that failed, or the last one.
#[derive(Debug)]
struct Outcome {
    end: End,
    sarif: Option<PathBuf>,
}

impl Runner {
    fn new(inputs: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        for name in ["repo", "temp dir", "releases"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let action = action();
        let defaults = action["inputs"].as_object().expect("inputs").iter();
        let mut values: BTreeMap<String, String> = defaults
            .map(|(name, input)| (name.clone(), input["default"].as_str().unwrap_or_default().to_owned()))
            .collect();
        for (name, value) in inputs {
            assert!(values.insert((*name).to_owned(), (*value).to_owned()).is_some(), "there is no input {name}");
        }
        let server = serve(folder.path().join("releases"));
        Self { folder, server, inputs: values }
    }

    /// Adds a manifest to the repository: a `DaemonSet` with this port.
    fn manifest(&self, file: &str, name: &str, port: u16) {
        let path = self.folder.path().join("repo").join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let manifest = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
            "spec": {"template": {"spec": {"hostNetwork": true, "containers": [
                {"name": "c", "ports": [{"containerPort": port}]},
            ]}}},
        });
        fs::write(path, manifest.to_string()).expect("a manifest");
    }

    /// Publishes the program under test as a release, with these checksums in place of its own if there are some.
    fn release(&self, version: &str, sums: Option<&str>) {
        let folder =
            self.folder.path().join("releases").join(format!("example/port-enforcer/releases/download/v{version}"));
        fs::create_dir_all(&folder).expect("a folder");
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let archive = format!("kubectl-host_ports-{version}-linux-{arch}.tar.gz");
        let plugin = Path::new(PLUGIN);
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(folder.join(&archive)).arg("-C").arg(plugin.parent().expect("a folder"));
        assert!(tar.arg(plugin.file_name().expect("a name")).status().expect("tar").success());
        let own = Command::new("sha256sum").arg(&archive).current_dir(&folder).output().expect("sha256sum").stdout;
        let own = format!("{}  another.tar.gz\n{}", "0".repeat(64), String::from_utf8(own).expect("UTF-8"));
        let sums = sums.map_or(own, |sums| sums.replace("ARCHIVE", &archive));
        fs::write(folder.join("SHA256SUMS"), sums).expect("checksums");
    }

    /// Replaces the expressions of a value, as a runner does before a step.
    fn expand(&self, text: &str, outputs: &BTreeMap<String, String>) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${{") {
            let (expression, behind) = behind.split_once("}}").expect("the end of an expression");
            let value = match expression.trim() {
                "github.server_url" => self.server.clone(),
                "github.action_repository || github.repository" => "example/port-enforcer".to_owned(),
                name if name.starts_with("inputs.") => self.inputs[&name["inputs.".len()..]].clone(),
                name if name.starts_with("steps.") => outputs.get(name).cloned().unwrap_or_default(),
                name => panic!("unknown expression {name}"),
            };
            expanded += before;
            expanded += &value;
            rest = behind;
        }
        expanded + rest
    }

    /// Runs the steps until one fails.
    fn run(&self) -> Outcome {
        let mut outputs = BTreeMap::new();
        let mut last = None;
        for step in action()["runs"]["steps"].as_array().expect("steps") {
            let [script, output] = ["script", "output"].map(|name| self.folder.path().join("temp dir").join(name));
            let run = step["run"].as_str().expect("a script");
            assert!(!run.contains("${{"), "no input is in the text of a script");
            fs::write(&script, run).expect("a script");
            fs::write(&output, "").expect("a file");
            let mut command = Command::new("bash");
            command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(&script);
            command.current_dir(self.folder.path().join("repo")).stdin(Stdio::null());
            for (name, value) in step["env"].as_object().expect("variables") {
                command.env(name, self.expand(value.as_str().expect("a text"), &outputs));
            }
            let arch = if cfg!(target_arch = "x86_64") { "X64" } else { "ARM64" };
            command.env("RUNNER_OS", "Linux").env("RUNNER_ARCH", arch).env("GITHUB_OUTPUT", &output);
            command.env("RUNNER_TEMP", self.folder.path().join("temp dir")).env_remove("ENFORCER_NODE_RESERVED");
            command.env("no_proxy", "*").env("KUBECONFIG", "/nonexistent");
            let done = command.output().expect("bash");
            let id = step["id"].as_str().expect("an id");
            for line in fs::read_to_string(&output).expect("outputs").lines() {
                let (name, value) = line.split_once('=').expect("an output");
                outputs.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
            }
            let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
            let end = End { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) };
            let failed = end.code != Some(0);
            last = Some(end);
            if failed {
                break;
            }
        }
        let value = action()["outputs"]["sarif"]["value"].as_str().expect("a text").to_owned();
        let sarif = Some(self.expand(&value, &outputs)).filter(|path| !path.is_empty()).map(PathBuf::from);
        Outcome { end: last.expect("a step"), sarif }
    }
}

/// Serves the files of a folder. Returns the address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is not served.
            let _ = answer(stream, &folder);
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match fs::read(folder.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

fn results(sarif: Option<PathBuf>) -> usize {
    let text = fs::read_to_string(sarif.expect("an output")).expect("a file");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    report["runs"][0]["results"].as_array().expect("results").len()
}

fn release_is_installed_and_checks() {
    let runner = Runner::new(&[("path", "deploy here\nmore.json\n")]);
    runner.release("0.1.0", None);
    runner.manifest("deploy here/below/one.json", "one", 9200);
    runner.manifest("more.json", "two", 9200);
    let Outcome { end, sarif } = runner.run();
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stdout.starts_with("::error file=more.json,line=1,title="), "{end:?}");
    assert_eq!(results(sarif), 1);
    // One of them alone is fine.
    let runner = Runner { inputs: Runner::new(&[("path", "more.json")]).inputs, ..runner };
    let Outcome { end, sarif } = runner.run();
    assert_eq!((end.code, results(sarif)), (Some(0), 0), "{end:?}");
}

fn wrong_checksum_is_refused() {
    let zeros = "0".repeat(64);
    for sums in
        [format!("{zeros}  ARCHIVE\n"), format!("{zeros}  other.tar.gz\n"), String::new(), "ARCHIVE\n".to_owned()]
    {
        let runner = Runner::new(&[]);
        runner.release("0.1.0", Some(&sums));
        runner.manifest("a.json", "one", 9200);
        let Outcome { end, sarif } = runner.run();
        assert_eq!((end.code, sarif), (Some(2), None), "{sums}: {end:?}");
        assert!(end.stdout.contains("does not have the checksum of its release; it is not used"), "{end:?}");
    }
}

fn missing_release_and_bad_version_are_refused() {
    let runner = Runner::new(&[("version", "9.9.9")]);
    let Outcome { end, .. } = runner.run();
    assert_eq!(end.code, Some(2), "{end:?}");
    assert!(end.stdout.contains("of version 9.9.9; is it released?"), "{end:?}");
    for version in ["", "v0.1.0", "0.1.0/../../evil", "0.1.0\n0.1.0", "0.1.0;id", "$(id)"] {
        let Outcome { end, .. } = Runner::new(&[("version", version)]).run();
        assert_eq!(end.code, Some(2), "{version}: {end:?}");
        assert!(end.stdout.contains("the input version is no version"), "{end:?}");
    }
}

fn installed_plugin_is_used() {
    let runner = Runner::new(&[("binary", PLUGIN), ("version", "9.9.9")]);
    runner.manifest("a.json", "one", 9200);
    assert_eq!(runner.run().end.code, Some(0));
    let runner = Runner::new(&[("binary", PLUGIN), ("path", "missing")]);
    let Outcome { end, sarif } = runner.run();
    assert_eq!(end.code, Some(2), "what cannot be read never passes: {end:?}");
    assert_eq!(results(sarif), 1);
}

fn baseline_and_severity_are_passed_on() {
    let arguments = "--nodes=3\n--write-baseline=base line.yaml\n\n";
    let runner = Runner::new(&[("binary", PLUGIN), ("arguments", arguments), ("format", "text")]);
    runner.manifest("a.json", "one", 9200);
    runner.manifest("b.json", "two", 9200);
    let Outcome { end, .. } = runner.run();
    assert_eq!(end.code, Some(0), "{end:?}");
    assert!(end.stdout.contains("wrote 1 finding to base line.yaml"), "{end:?}");
    let with = |inputs: &[(&str, &str)]| {
        let all = [&[("binary", PLUGIN)], inputs].concat();
        let inputs = Runner::new(&all).inputs;
        let repo = runner.folder.path();
        let next = Runner::new(&[]);
        for file in ["a.json", "b.json", "base line.yaml"] {
            fs::copy(repo.join("repo").join(file), next.folder.path().join("repo").join(file)).expect("a copy");
        }
        Runner { inputs, ..next }.run().end
    };
    let files = ("path", "a.json\nb.json");
    assert_eq!(with(&[files]).code, Some(1));
    assert_eq!(with(&[files, ("baseline", "base line.yaml")]).code, Some(0));
    assert_eq!(with(&[files, ("baseline", "missing.yaml")]).code, Some(2));
    assert_eq!(with(&[files, ("fail-on", "never")]).code, Some(0));
    assert_eq!(with(&[files, ("fail-on", "sometimes")]).code, Some(2));
}

fn hostile_inputs_are_no_code() {
    for hostile in
        ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "\"; touch pwned #", "--write-baseline=pwned", "*"]
    {
        for input in ["path", "baseline", "format", "fail-on", "binary", "version"] {
            let mut inputs = vec![(input, hostile)];
            if input != "binary" {
                inputs.push(("binary", PLUGIN));
            }
            let runner = Runner::new(&inputs);
            runner.manifest("a.json", "one", 9200);
            let Outcome { end, .. } = runner.run();
            let files = fs::read_dir(runner.folder.path().join("repo")).expect("the repository").count();
            assert_eq!(files, 1, "{input} {hostile}: {end:?}");
            // A version is not looked at where a plugin is there.
            assert_eq!(end.code == Some(0), input == "version", "{input} {hostile}: {end:?}");
        }
    }
}

fn names_in_other_formats_are_no_commands() {
    let runner = Runner::new(&[("binary", PLUGIN), ("format", "text")]);
    runner.manifest("a.json", "##[error]one", 9200);
    runner.manifest("b.json", "::add-mask::two", 9200);
    let Outcome { end, .. } = runner.run();
    assert_eq!(end.code, Some(1), "{end:?}");
    let lines: Vec<&str> = end.stdout.lines().collect();
    let token = lines[0].strip_prefix("::stop-commands::").expect("commands stop");
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    assert_eq!(lines.last().copied(), Some(format!("::{token}::").as_str()));
    assert!(lines.iter().any(|line| line.contains("##[error]one")), "{end:?}");
}
