//! The servers in the pods: real nginx where it is installed, the demo's own elsewhere.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use super::child_process::Process;
use super::pods::Pod;
use super::wait;
use crate::process;

/// How long a server may take until it listens or gives up; nginx tries five times in two and a half seconds.
const STARTING: Duration = Duration::from_secs(20);

/// What runs in the pods, with a folder for its files.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    nginx: Option<PathBuf>,
}

/// What became of a server.
#[derive(Debug)]
pub(super) enum Start {
    /// It listens.
    Listening(Process),
    /// It ended, with these words.
    Failed(Vec<String>),
}

impl Programs {
    pub(super) fn find(folder: PathBuf) -> Self {
        let nginx = process::find("nginx").filter(|nginx| works(nginx, &folder));
        Self { folder, nginx }
    }

    /// What runs in the pods of the Deployment.
    pub(super) fn describe(&self) -> String {
        match &self.nginx {
            Some(nginx) => format!("{} in the pods of nginx, the demo's own server in the others", nginx.display()),
            None => "the demo's own (a usable nginx is not installed)".to_owned(),
        }
    }

    /// Starts the server of a pod in its cgroup, and waits until it listens or ends.
    pub(super) fn start(&self, pod: &Pod) -> anyhow::Result<Start> {
        let home = self.folder.join(pod.name());
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let ready = home.join("ready");
        // Of an earlier server of this pod.
        if ready.exists() {
            fs::remove_file(&ready).with_context(|| format!("cannot remove {}", ready.display()))?;
        }
        let mut server = match &self.nginx {
            // The other pods are other people's programs.
            Some(nginx) if !pod.shares => {
                let configuration = nginx_configuration(&home, pod.port, &pod.full_name());
                let path = home.join("nginx.conf");
                fs::write(&path, configuration).with_context(|| format!("cannot write {}", path.display()))?;
                Process::start_program(Some(&pod.cgroup), nginx, nginx_arguments(&home))?
            }
            _ => {
                let mut role: Vec<OsString> = vec!["serve".into(), "--pod".into(), pod.full_name().into()];
                role.extend(["--port".into(), pod.port.to_string().into(), "--ready".into(), ready.clone().into()]);
                role.extend(pod.shares.then(|| "--share".into()));
                Process::start(Some(&pod.cgroup), role)?
            }
        };
        let what = format!("the server of {} to listen on port {} or to end", pod.name(), pod.port);
        let listens = wait::until(&what, STARTING, || {
            Ok(if ready.exists() { Some(true) } else { server.ended()?.map(|_| false) })
        })?;
        Ok(if listens { Start::Listening(server) } else { Start::Failed(server.last_words()) })
    }
}

/// Whether this nginx takes the demo's configuration: old ones do not know `-e`, small ones lack directives.
fn works(nginx: &Path, folder: &Path) -> bool {
    let home = folder.join("nginx-test");
    // The port does not matter: with `-t` it may be taken.
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

/// Everything that nginx writes is below `home`.
fn nginx_arguments(home: &Path) -> [OsString; 6] {
    let log = home.join("error.log");
    ["-p".into(), home.into(), "-e".into(), log.into(), "-c".into(), home.join("nginx.conf").into()]
}

/// A server that tells its pod's name. nginx writes the file with its pid once it has bound its port (`main` in
/// src/core/nginx.c), so that file tells that it listens.
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
