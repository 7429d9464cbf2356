//! Servers of the pods: nginx if it is installed, otherwise the demo's own server.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use super::child_process::ChildProcess;
use super::pods::Pod;
use super::wait;
use crate::process;

/// Time limit for a server to listen or to fail. nginx tries five times in two and a half seconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Programs of the servers, with a folder for their files.
#[derive(Debug)]
pub(super) struct Servers {
    folder: PathBuf,
    nginx: Option<PathBuf>,
}

/// Result of a server's start.
#[derive(Debug)]
pub(super) enum ServerStart {
    /// The server listens.
    Listening(ChildProcess),
    /// The server ended, with this output.
    Failed(Vec<String>),
}

impl Servers {
    /// Looks for an nginx that works with the demo's configuration.
    pub(super) fn find(folder: PathBuf) -> Self {
        let nginx = process::find_program("nginx").filter(|nginx| accepts_configuration(nginx, &folder));
        Self { folder, nginx }
    }

    /// Describes the programs in a sentence.
    pub(super) fn describe(&self) -> String {
        match &self.nginx {
            Some(nginx) => format!("{} in the pods of nginx, the demo's own server in the others", nginx.display()),
            None => "the demo's own server (no usable nginx is installed)".to_owned(),
        }
    }

    /// Starts the server of a pod in its cgroup, and waits until it listens or fails.
    pub(super) fn start(&self, pod: &Pod) -> anyhow::Result<ServerStart> {
        let home = self.folder.join(pod.name());
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let ready = home.join("ready");
        // The file of an earlier server of this pod.
        if ready.exists() {
            fs::remove_file(&ready).with_context(|| format!("cannot remove {}", ready.display()))?;
        }
        let mut server = match &self.nginx {
            // The pods that share a port do not run nginx.
            Some(nginx) if !pod.shares => {
                let configuration = nginx_configuration(&home, pod.port, &pod.full_name());
                let path = home.join("nginx.conf");
                fs::write(&path, configuration).with_context(|| format!("cannot write {}", path.display()))?;
                ChildProcess::start_program(Some(&pod.cgroup), nginx, nginx_arguments(&home))?
            }
            _ => {
                let mut role: Vec<OsString> = vec!["serve".into(), "--pod".into(), pod.full_name().into()];
                role.extend(["--port".into(), pod.port.to_string().into(), "--ready".into(), ready.clone().into()]);
                role.extend(pod.shares.then(|| "--share".into()));
                ChildProcess::start(Some(&pod.cgroup), role)?
            }
        };
        let expectation = format!("the server of {} to listen on port {} or to fail", pod.name(), pod.port);
        let listens = wait::until(&expectation, START_TIMEOUT, || {
            Ok(if ready.exists() { Some(true) } else { server.exit_status()?.map(|_| false) })
        })?;
        Ok(if listens { ServerStart::Listening(server) } else { ServerStart::Failed(server.into_lines()) })
    }
}

/// Returns true if this nginx accepts the demo's configuration. Old versions do not know `-e`, small builds lack
/// directives.
fn accepts_configuration(nginx: &Path, folder: &Path) -> bool {
    let home = folder.join("nginx-test");
    // Any port: with `-t` nginx accepts a port that is in use.
    let configuration = nginx_configuration(&home, 80, "test");
    fs::create_dir_all(&home).is_ok()
        && fs::write(home.join("nginx.conf"), configuration).is_ok()
        && Command::new(nginx)
            .args(nginx_arguments(&home))
            .arg("-t")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Returns the arguments with which nginx writes only below `home`.
fn nginx_arguments(home: &Path) -> [OsString; 6] {
    let log = home.join("error.log");
    ["-p".into(), home.into(), "-e".into(), log.into(), "-c".into(), home.join("nginx.conf").into()]
}

/// Returns the configuration of a server that answers with the name of its pod. nginx writes its pid file after it has
/// bound the port (`main` in src/core/nginx.c), so this file shows that it listens.
fn nginx_configuration(home: &Path, port: u16, pod: &str) -> String {
    let home = home.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("    {module}_temp_path \"{home}/{module}\";\n"))
        .concat();
    format!(
        "\
daemon off;
master_process off;
pid \"{home}/ready\";
error_log \"{home}/error.log\";
events {{}}
http {{
    access_log off;
{temporary}    server {{
        listen 0.0.0.0:{port};
        default_type text/plain;
        location / {{ return 200 \"{pod}\\n\"; }}
    }}
}}
"
    )
}
