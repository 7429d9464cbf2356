//! Time and memory of each command on a cluster of 5,000 nodes with 20 ports each, against the tests' API server on this
//! machine, and the time until the page can be used. It prints a table and judges nothing.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::{self, File},
        io::{Read as _, Write as _},
        path::Path,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use enforcer_testing::{apiserver::ApiServer, browser::Browser};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    const NODES: usize = 5_000;
    const PORTS: usize = 20;

    pub(super) fn main() {
        let server = ApiServer::start();
        server.delete_node("node-1");
        for number in 0..NODES {
            let node = format!("worker-{number:04}");
            server.put_node(serde_json::from_value(json!({ "metadata": { "name": node } })).expect("a node"));
            server.put_ledger(ledger(&node, number));
        }
        let waiting = json!({
            "metadata": { "namespace": "shop", "name": "web-0", "uid": "00000000-0000-4000-8000-000000000001" },
            "spec": { "hostNetwork": true, "containers": [
                { "name": "web", "image": "x", "ports": [{ "containerPort": 9000, "hostPort": 9000 }] },
            ] },
        });
        server.put_pod(serde_json::from_value(waiting).expect("a pod"));
        let folder = TempDir::new().expect("a folder");
        let kubeconfig = server.kubeconfig_of_admin(folder.path());
        println!("{NODES} nodes with {PORTS} ports each");
        println!("{:<28} {:>8} {:>10} {:>10} {:>12}", "command", "seconds", "first row", "MiB", "bytes");
        let page = folder.path().join("ports.html");
        for (arguments, file) in [
            (&[][..], None),
            (&["9000"], None),
            (&["-o", "json"], None),
            (&["-o", "html"], Some(page.as_path())),
            (&["free", "8000-9999"], None),
            (&["why", "-n", "shop", "web-0"], None),
        ] {
            let cost = run(arguments, &kubeconfig, file);
            println!(
                "{:<28} {:>8.2} {:>10.2} {:>10} {:>12}",
                arguments.join(" "),
                cost.total.as_secs_f64(),
                cost.first.as_secs_f64(),
                cost.peak_mib,
                cost.bytes
            );
        }
        policy_reports(&server, &kubeconfig);
        match Browser::start() {
            Some(browser) => println!("the page can be used after {} ms", browser.open(&page)),
            None => println!("the page was not opened: chromium or chromedriver is not installed"),
        }
    }

    /// Writes policy reports: with a conflict on some nodes and on all of them, the first time and again.
    fn policy_reports(server: &ApiServer, kubeconfig: &Path) {
        server.set_report_group("wgpolicyk8s.io", true);
        for namespace in ["monitoring", "shop"] {
            let namespace = json!({ "metadata": { "name": namespace } });
            server.put_namespace(serde_json::from_value(namespace).expect("a namespace"));
        }
        println!(
            "{:<28} {:>8} {:>10} {:>10} {:>12} {:>10} {:>12}",
            "policy-reports --apply", "seconds", "lists", "gets", "writes", "MiB or -", "report bytes"
        );
        for conflicts in [50, NODES] {
            for number in 0..conflicts {
                let node = format!("worker-{number:04}");
                let mut ledger = ledger(&node, number);
                ledger["status"]["counts"]["conflicts"] = 1.into();
                ledger["status"]["conflicts"] = json!([{
                    "kind": "claimLost", "ports": "9000/tcp",
                    "who": { "kind": "pod", "namespace": "shop", "name": format!("probe-{number:05}") },
                    "other": { "kind": "pod", "namespace": "monitoring", "name": format!("exporter-0-{number:05}") },
                }]);
                server.put_ledger(ledger);
            }
            for run_name in ["first", "again"] {
                let before = server.requests().len();
                let cost = run(&["policy-reports", "--apply"], kubeconfig, None);
                let requests = server.requests().split_off(before);
                let of = |verbs: &[&str]| requests.iter().filter(|one| verbs.contains(&one.verb.as_str())).count();
                let bytes: usize = server.policy_reports().iter().map(|report| report.to_string().len()).sum();
                println!(
                    "{:<28} {:>8.2} {:>10} {:>10} {:>12} {:>10} {bytes:>12}",
                    format!("{conflicts} conflicts, {run_name}"),
                    cost.total.as_secs_f64(),
                    of(&["list"]),
                    of(&["get"]),
                    of(&["create", "patch", "delete"]),
                    // It writes nothing until its end, where its memory may be gone already.
                    if cost.peak_mib == 0 { "-".to_owned() } else { cost.peak_mib.to_string() },
                );
            }
        }
    }

    fn ledger(node: &str, number: usize) -> Value {
        let rows: Vec<Value> = (0..PORTS)
            .map(|place| {
                json!({
                    "protocol": "tcp", "firstPort": 9000 + place, "lastPort": 9000 + place,
                    "who": {
                        "kind": "pod", "namespace": "monitoring", "name": format!("exporter-{place}-{number:05}"),
                        "workload": format!("DaemonSet exporter-{place}"), "container": "exporter",
                    },
                    "source": "hostPort", "standing": "inForce", "held": true, "declared": true, "reach": "all",
                    "since": "2026-11-28T12:00:00Z",
                })
            })
            .collect();
        json!({
            "metadata": { "name": node }, "spec": {},
            "status": {
                "mode": "audit", "undeclared": "adopt", "agentVersion": "0.1.0", "updated": "2026-11-29T09:00:00Z",
                "counts": { "claims": PORTS, "held": PORTS, "undeclared": 0, "conflicts": 0 },
                "ephemeralPorts": "32768-60999", "ports": rows, "leftOut": 0,
            },
        })
    }

    struct Cost {
        total: Duration,
        first: Duration,
        peak_mib: u64,
        bytes: usize,
    }

    fn run(arguments: &[&str], kubeconfig: &Path, file: Option<&Path>) -> Cost {
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-host_ports"));
        command.args(arguments).arg("--kubeconfig").arg(kubeconfig).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let mut output = child.stdout.take().expect("it is a pipe");
        let mut file = file.map(|path| File::create(path).expect("a file"));
        let (mut first, mut bytes, mut peak) = (None, 0, 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = output.read(&mut buffer).expect("reading its output");
            first.get_or_insert_with(|| began.elapsed());
            peak = peak.max(peak_mib(child.id()));
            if length == 0 {
                break;
            }
            bytes += length;
            if let Some(file) = &mut file {
                file.write_all(&buffer[..length]).expect("writing the page");
            }
        }
        assert!(child.wait().expect("it ends").success(), "{arguments:?}");
        Cost { total: began.elapsed(), first: first.unwrap_or_default(), peak_mib: peak, bytes }
    }

    /// Returns the most memory that a process had so far, in MiB; 0 if it has ended. What `wait` reports counts the
    /// process that started it too.
    fn peak_mib(process: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        kib / 1024
    }
}
