//! The folder of manifests: what cannot be read takes nothing away, and is told once.
#![no_main]

use std::{fs, path::Path};

use enforcer_core::{
    manifests::FolderContents,
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::Pod,
    },
};
use enforcer_fuzz::manifests::Folder;
use enforcer_fuzz::properties::{assert_bounded, assert_safe};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Longest message, in characters.
const MAX_MESSAGE: usize = 300;

// A file, and behind a zero byte what it is changed to.
fuzz_target!(|data: &[u8]| {
    let (before, after) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b""[..]),
    };
    let folder = folder();
    check(folder.path(), before, after);
});

/// One for each input, so that none is left behind; in memory, where there is such a place.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder for the manifests")
}

fn check(path: &Path, before: &[u8], after: &[u8]) {
    let file = path.join("pods.yaml");
    let mut folder = Folder::new(path.to_owned());
    let mut look = |text: &[u8]| {
        fs::write(&file, text).expect("the file is written");
        let contents = folder.read().expect("the folder is read");
        sound(&contents);
        contents
    };
    let first = look(before);
    let second = look(after);
    let names = |pods: &[Pod]| pods.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect::<Vec<_>>();
    // A document that is broken in the same way is not told again, so ask of what is fresh.
    let fresh = Folder::new(path.to_owned()).read().expect("the folder is read");
    if fresh.problems.is_empty() {
        assert_eq!(second.pods, fresh.pods, "what is good counts alone");
    } else {
        let now = names(&second.pods);
        for pod in names(&first.pods) {
            assert!(now.contains(&pod), "{pod:?} is gone, and the file is broken");
        }
    }
    let third = look(after);
    assert_eq!((third.pods, third.problems), (second.pods, Vec::new()), "what did not change is not told again");
}

fn sound(FolderContents { pods, problems }: &FolderContents) {
    for (at, pod) in pods.iter().enumerate() {
        assert!(!pod.name.is_empty());
        let same = |other: &&Pod| (&other.namespace, &other.name) == (&pod.namespace, &pod.name);
        assert_eq!(pods.iter().position(|other| same(&other)), Some(at), "a pod is there once");
        assert_bounded(&claims_of(pod, &ClaimLimits::default()), &ClaimLimits::default());
    }
    for problem in problems {
        assert!(problem.document != Some(0));
        assert!(problem.message.chars().count() <= MAX_MESSAGE, "{problem}");
        assert_safe(&problem.to_string());
    }
}
