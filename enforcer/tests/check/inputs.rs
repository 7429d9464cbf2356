//! Inputs of `enforcer check`: files, folders, standard input, and what is wrong with them.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{End, check};

#[test]
fn unreadable_input_is_reported() {
    let End { code, stdout, stderr } = check(&["broken.yaml", "missing.yaml"], b"");
    insta::assert_snapshot!("unreadable", stdout);
    assert_eq!((code, stderr.as_str()), (Some(1), "enforcer: 3 errors, 0 warnings\n"));

    let nothing =
        "enforcer: no manifest could be read; name files or folders with manifests, or - for standard input\n";
    let empty = TempDir::new().unwrap();
    for (arguments, stdin) in [
        (&["missing.yaml"][..], &b""[..]),
        (&["-"], b""),
        (&["-"], b"---\n# Source: chart/templates/empty.yaml\n---\n"),
        (&["-"], b"\xff\xfek\0i\0n\0d\0"),
        (&["-"], b"Error: INSTALLATION FAILED"),
        (&[empty.path().to_str().unwrap()], b""),
    ] {
        let End { code, stdout, stderr } = check(arguments, stdin);
        assert_eq!((code, stderr.as_str()), (Some(2), nothing), "{arguments:?}: {stdout}");
    }
}

#[test]
fn standard_input_and_folders_are_read() {
    let list = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/monitoring.yaml")).unwrap();
    let End { code, stdout, .. } = check(&["ingress-nginx.yaml", "-"], &list);
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("<stdin>:"), "{stdout}");
    assert!(
        stdout
            .ends_with("checked 3 objects and 1 Service in 2 files, 1 of other kinds: 2 errors, 0 warnings, 0 notes\n"),
        "{stdout}"
    );

    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["b.yml", "a\u{1b}[31m.yaml", ".hidden.yaml", "note.txt"] {
        fs::write(path(name), &list).unwrap();
    }
    fs::create_dir(path("folder.yaml")).unwrap();
    fs::File::create(path("z.json")).unwrap().set_len(129 << 20).unwrap();
    let End { code, stdout, .. } = check(&[folder.path().to_str().unwrap()], b"");
    assert_eq!(code, Some(1));
    assert!(!stdout.contains('\u{1b}') && stdout.contains(r"a\u{1b}[31m.yaml:"), "{stdout}");
    assert!(stdout.contains("z.json: error: cannot be read: it is larger than 134217728 bytes"), "{stdout}");
    assert!(
        stdout.ends_with(
            "checked 4 objects and 2 Services in 3 files, 0 of other kinds: 3 errors, 0 warnings, 4 notes\n"
        ),
        "{stdout}"
    );
}

/// A folder with files by name and text; folders are made as needed.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Checks a folder, and returns the exit code and the output without the folder's name.
fn check_folder(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let path = folder.path().to_str().expect("UTF-8");
    let End { code, stdout, .. } = check(&[arguments, &[path]].concat(), b"");
    (code, stdout.replace(path, "FOLDER"))
}

fn pod(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 1, \
         hostPort: {port}}}]}}]}}\n"
    )
}

#[test]
fn folders_below_are_named_or_read() {
    let folder = folder(&[
        ("a.yaml", &pod("a", 1)),
        ("b/b.yaml", &pod("b", 1)),
        ("c/d/d.yaml", &pod("d", 1)),
        (".git/e.yaml", "{"),
    ]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    let (code, stdout) = check_folder(&folder, &[]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("FOLDER: note: holds 3 folders that are not read: b, c, loop [not_read]"), "{stdout}");
    assert!(stdout.contains("remedy: --recursive reads them too"), "{stdout}");
    assert!(stdout.contains("checked 1 object in 1 file"), "{stdout}");
    let (code, stdout) = check_folder(&folder, &["--recursive"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("FOLDER: note: holds a folder that is not read: loop [not_read]"), "{stdout}");
    assert!(stdout.contains("checked 3 objects in 3 files, 0 of other kinds: 3 errors"), "{stdout}");
}

#[test]
fn files_without_ending_count_if_they_are_manifests() {
    let json = r#"{
  "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "c"}, "spec": {"containers": []}}"#;
    let folder = folder(&[
        ("a.manifest", &pod("a", 1)),
        ("kube-apiserver", &format!("# static\n{}", pod("b", 2))),
        ("json", json),
        ("LICENSE", "All rights\n"),
        ("Makefile", "all:\n\ttrue\n"),
        ("notes.txt", &pod("d", 3)),
    ]);
    let (code, stdout) = check_folder(&folder, &[]);
    let expected = "checked 3 objects in 3 files, 0 of other kinds: 0 errors, 0 warnings, 0 notes\n";
    assert_eq!((code, stdout.as_str()), (Some(0), expected));
}

#[test]
fn files_of_other_tools_in_a_folder_are_notes() {
    let kustomization = "patches:\n- path: ./patch.yaml\n  target: {kind: Pod}\nconfigMapGenerator:\n- name: x\n  files: \
                         [config=data.json]\n";
    let folder = folder(&[
        ("data.json", "{\"a\": 1}"),
        ("docker-compose.yaml", "services: {}\n"),
        ("kustomization.yaml", kustomization),
        ("ops.json", r#"[{"op": "remove", "path": "/spec"}]"#),
        ("patch.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: 2}\n"),
        ("pod.yaml", &pod("a", 1)),
        ("values.yaml", "replicas: 2\n"),
    ]);
    let (code, stdout) = check_folder(&folder, &[]);
    assert_eq!(code, Some(0), "{stdout}");
    for words in [
        "kustomization.yaml: note: has data.json, patch.yaml among its patches and other inputs",
        "kustomization.yaml:1: note: is a kustomization",
        "docker-compose.yaml:1: note: has neither apiVersion nor kind",
        "ops.json:1: note: is a JSON patch",
        "values.yaml:1: note: is a file of Helm values",
        "remedy: kubectl kustomize FOLDER | enforcer check -",
        "remedy: helm template FOLDER | enforcer check -",
        "0 errors, 0 warnings, 5 notes",
    ] {
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
    // Who names a file means it to be a manifest, unless it is known what it is.
    let named = |name: &str| check(&[folder.path().join(name).to_str().expect("UTF-8")], b"").code;
    assert_eq!(["docker-compose.yaml", "values.yaml", "patch.yaml", "pod.yaml"].map(named), [2, 2, 2, 0].map(Some));
}

#[test]
fn templates_of_a_chart_are_not_read() {
    let chart = "apiVersion: v2\nname: x\nversion: 1.0.0\n";
    let folder = folder(&[
        ("chart/Chart.yaml", chart),
        ("chart/charts/y/Chart.yaml", chart),
        ("chart/templates/a.yaml", "{{ if }}\n"),
        ("pod.yaml", &pod("a", 1)),
    ]);
    let (code, stdout) = check_folder(&folder, &["-r"]);
    assert_eq!(code, Some(0), "{stdout}");
    let note =
        "FOLDER/chart/Chart.yaml:1: note: is the description of a Helm chart: neither it nor its templates are read";
    assert!(stdout.starts_with(note) && stdout.contains("0 errors, 0 warnings, 1 note"), "{stdout}");
    assert!(stdout.contains("remedy: helm template FOLDER/chart | enforcer check -"), "{stdout}");
}

#[test]
fn utf_16_is_named() {
    let utf_16 = |mark: &[u16]| -> Vec<u8> {
        mark.iter().copied().chain(pod("a", 1).encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    for text in [utf_16(&[0xfeff]), utf_16(&[])] {
        let End { code, stdout, .. } = check(&["-"], &text);
        assert_eq!(code, Some(2));
        assert!(
            stdout.starts_with("<stdin>: error: cannot be read: it is UTF-16 or UTF-32; write it as UTF-8"),
            "{stdout}"
        );
    }
}
