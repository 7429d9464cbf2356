//! Services, ports of Kubernetes, ranges and the registry, on the command line.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::{End, check};

/// An exporter on a port that the registry gives to another, a node port on one of the kubelet's, and a port that the
/// kernel may give away.
const MANIFESTS: &[u8] = b"\
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec:
  type: NodePort
  selector: {app: front}
  ports:
  - {port: 80, targetPort: http, nodePort: 10250}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: front, namespace: shop}
spec:
  template:
    metadata: {labels: {app: front}}
    spec:
      hostNetwork: true
      containers:
      - name: web
        ports:
        - {containerPort: 9100}
        - {containerPort: 40000}
";

const REGISTRY: &str = "\
apiVersion: port-enforcer.io/v1alpha1
kind: PortRegistry
ports:
- {port: 9100, user: DaemonSet monitoring/node-exporter}
- {port: 40000, user: shop/*}
- {port: 0, user: shop/*}
- {port: 10250, user: node}
";

#[test]
fn services_ranges_and_registry_match_snapshot() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("registry.yaml");
    fs::write(&path, REGISTRY).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let End { code, stdout, stderr } = check(&["--registry", path, "-"], MANIFESTS);
    insta::assert_snapshot!("services", stdout.replace(path, "registry.yaml"));
    assert_eq!((code, stderr.as_str()), (Some(1), "enforcer: 3 errors, 3 warnings\n"));
    let End { stdout, .. } = check(&["-o", "json", "-"], MANIFESTS);
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&report["summary"]["services"], &report["summary"]["objects"]), (&1.into(), &1.into()), "{report}");
}

#[test]
fn presets_and_ranges_are_turned_off_by_none() {
    let counts = |arguments: &[&str]| {
        let End { stdout, .. } = check(&[arguments, &["-"]].concat(), MANIFESTS);
        ["[reserved]", "[ephemeral]", "[node_port_range]"].map(|code| stdout.matches(code).count())
    };
    assert_eq!(counts(&[]), [1, 1, 0]);
    assert_eq!(counts(&["--node-reserved", "kubernetes"]), [1, 1, 0]);
    // Then the node port is only one outside of the range.
    assert_eq!(counts(&["--node-reserved", "none"]), [0, 1, 1]);
    assert_eq!(counts(&["--node-reserved", ""]), [0, 1, 1]);
    assert_eq!(counts(&["--node-reserved", "none", "--service-node-port-range", "none"]), [0, 1, 0]);
    assert_eq!(counts(&["--ephemeral-ports", "none"]), [1, 0, 0]);
    assert_eq!(counts(&["--ephemeral-ports", "9000-9999", "--service-node-port-range", "40000-40100"]), [1, 1, 1]);
    let End { stdout, .. } = check(&["--node-reserved", "53/udp,kubernetes", "-"], MANIFESTS);
    assert!(stdout.contains("<stdin>:8: error: Service shop/front takes 10250/tcp"), "{stdout}");
}

#[test]
fn registry_is_written_once_and_read_back() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("ports.yaml");
    let path_text = path.to_str().expect("UTF-8");
    let End { stdout, .. } = check(&["--write-registry", path_text, "-"], MANIFESTS);
    assert!(stdout.ends_with(&format!("wrote 3 entries to {path_text}\n")), "{stdout}");
    let text = fs::read_to_string(&path).expect("the registry");
    let entries = "\
ports:
- port: 9100/tcp
  user: DaemonSet shop/front
- port: 10250/tcp
  user: Service shop/front
- port: 40000/tcp
  user: DaemonSet shop/front
";
    assert!(text.ends_with(entries), "{text}");
    let End { stdout, .. } = check(&["--registry", path_text, "-"], MANIFESTS);
    assert!(!stdout.contains("[registry]"), "{stdout}");
    let End { code, stdout, stderr } = check(&["--write-registry", path_text, "-"], b"");
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("is there, and is not changed"), "{stderr}");
    assert_eq!(fs::read_to_string(&path).expect("the registry"), text);
    let missing = folder.path().join("missing/ports.yaml");
    let End { code, stderr, .. } = check(&["--write-registry", missing.to_str().expect("UTF-8"), "-"], MANIFESTS);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("cannot write the registry"), "{stderr}");
}

#[test]
fn registry_that_is_none_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("registry.yaml");
    let path_text = path.to_str().expect("UTF-8");
    for (text, words) in [
        (None, "cannot read the registry"),
        (Some("a: b: c"), "is no registry: line 1"),
        (Some("kind: PortRegistry"), "is no registry: it does not begin with apiVersion: port-enforcer.io/v1alpha1"),
    ] {
        if let Some(text) = text {
            fs::write(&path, text).expect("a file");
        }
        let End { code, stdout, stderr } = check(&["--registry", path_text, "-"], MANIFESTS);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("--write-registry FILE"), "{stderr}");
    }
}
