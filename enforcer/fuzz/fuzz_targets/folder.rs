//! The folder of manifests: a file that cannot be read takes nothing away, and is reported once.
#![no_main]

use std::{collections::BTreeSet, path::PathBuf};

use enforcer_core::{
    manifests::{FolderContents, MAX_MESSAGE, PodFolder},
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::Pod,
    },
};
use enforcer_fuzz::properties::{assert_bounded, assert_safe};
use libfuzzer_sys::fuzz_target;

// A file, and behind a zero byte the file after a change.
fuzz_target!(|data: &[u8]| {
    let (before, after) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b""[..]),
    };
    check(before, after);
});

/// Reads a folder with one file of this content, as the agent reads it: a file that is not UTF-8 cannot be read.
fn refresh(folder: &mut PodFolder, text: &[u8]) -> FolderContents {
    let read = |_: &_| match str::from_utf8(text) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let contents = folder.refresh(BTreeSet::from([PathBuf::from("pods.yaml")]), read);
    sound(&contents);
    contents
}

fn check(before: &[u8], after: &[u8]) {
    let mut folder = PodFolder::default();
    let first = refresh(&mut folder, before);
    let second = refresh(&mut folder, after);
    let names = |pods: &[Pod]| pods.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect::<Vec<_>>();
    // A document that is broken in the same way is not reported again, so a fresh folder is asked.
    let fresh = refresh(&mut PodFolder::default(), after);
    if fresh.problems.is_empty() {
        assert_eq!(second.pods, fresh.pods, "good documents alone count");
    } else {
        let now = names(&second.pods);
        for pod in names(&first.pods) {
            assert!(now.contains(&pod), "{pod:?} is gone, and the file is broken");
        }
    }
    let third = refresh(&mut folder, after);
    assert_eq!((third.pods, third.problems), (second.pods, Vec::new()), "an unchanged file is not reported again");
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
