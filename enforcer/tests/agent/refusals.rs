//! What the agent refuses to start with, where it takes root to show it.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStringExt as _, process::CommandExt as _},
    process::{Command, Output, Stdio},
    ptr,
};

use enforcer_testing::{agent::enforcer, agent_fixture::AgentFixture, cgroup_sandbox, pods::api_uid, tests};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    root_that_is_no_cgroup_is_refused,
    missing_cgroup_v2_is_refused,
    foreign_listen_address_is_refused,
    cgroup_without_kubelet_pods_is_reported
];

/// `enforcer run` on the fixture's folder.
fn run(fixture: &AgentFixture) -> Command {
    let mut command = enforcer();
    command.arg("run").arg("--source").arg(format!("dir:{}", fixture.folder().display())).stdin(Stdio::null());
    command
}

/// The exit code, and the one sentence.
fn refusal(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("running the agent");
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    let text = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    (status.code(), text.trim_end().to_owned())
}

fn root_that_is_no_cgroup_is_refused() {
    let fixture = AgentFixture::new();
    let folder = fixture.folder();
    let (code, sentence) = refusal(run(&fixture).arg("--cgroup-root").arg(&folder));
    let expected = format!("enforcer: {} is not a directory of a cgroup v2 hierarchy", folder.display());
    assert_eq!((code, sentence), (Some(2), expected));
    let missing = fixture.root().join("missing");
    let (code, sentence) = refusal(run(&fixture).arg("--cgroup-root").arg(&missing));
    assert_eq!(code, Some(2), "{sentence}");
    assert!(sentence.contains("missing is not a directory of a cgroup v2 hierarchy: No such file"), "{sentence}");
}

/// The command, in a mount namespace of its own that has no cgroup v2.
fn without_cgroups(command: &mut Command) -> &mut Command {
    let points = cgroup_sandbox::mount_points().into_iter().map(|point| point.into_os_string().into_vec());
    let points: Vec<CString> = points.map(|point| CString::new(point).expect("no NUL")).collect();
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let leave = move || {
        // SAFETY: system calls without memory effects, with strings that were made before the fork. The process is
        // the child, which gets a mount namespace of its own, cut off from this one's, before it unmounts anything.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()))?;
            points.iter().rev().try_for_each(|point| check(libc::umount2(point.as_ptr(), libc::MNT_DETACH)))
        }
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(leave) }
}

fn missing_cgroup_v2_is_refused() {
    let fixture = AgentFixture::new();
    for scope in ["pods", "node"] {
        let (code, sentence) = refusal(without_cgroups(run(&fixture).args(["--scope", scope])));
        assert_eq!(code, Some(3), "{sentence}");
        let expected = "enforcer: no cgroup v2 hierarchy is mounted here (looked in /proc/self/mountinfo): boot with \
                        systemd.unified_cgroup_hierarchy=1 or mount one, or name its directory with --cgroup-root";
        assert_eq!(sentence, expected);
    }
    assert!(!cgroup_sandbox::mount_points().is_empty(), "this namespace has kept its own");
}

/// Waiting would not help.
fn foreign_listen_address_is_refused() {
    let fixture = AgentFixture::new();
    let root = fixture.root().display().to_string();
    let (code, sentence) = refusal(run(&fixture).args(["--cgroup-root", &root, "--listen", "192.0.2.1:9489"]));
    let expected = "enforcer: cannot serve health and metrics on 192.0.2.1:9489: Cannot assign requested address (os \
                    error 99); choose another address with --listen, or none";
    assert_eq!((code, sentence.as_str()), (Some(4), expected));
}

/// The hierarchy may have a kubelet's cgroup or not, one or several: it is always said what to do.
fn cgroup_without_kubelet_pods_is_reported() {
    let stages = [AgentFixture::new(), AgentFixture::new()];
    for stage in &stages {
        stage.make_container_cgroup(&api_uid());
    }
    let (code, sentence) = refusal(&mut run(&stages[0]));
    assert_eq!(code, Some(3), "{sentence}");
    assert!(sentence.starts_with("enforcer: several cgroups could hold the pods ("), "{sentence}");
    assert!(sentence.ends_with("name the right one with --cgroup-root"), "{sentence}");
}
