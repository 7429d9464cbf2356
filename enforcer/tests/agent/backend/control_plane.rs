//! A control plane of the tests' own: `etcd` and `kube-apiserver` from the folder that `KUBEBUILDER_ASSETS` names, and
//! nothing else. There are no controllers and no kubelet: what a test puts there stays as it is.
//!
//! Only flags that kube-apiserver 1.28 to 1.34 document are used.

mod program;
pub(super) mod tests;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::Request;
use enforcer_core::yaml::documents as yaml;
use k8s_openapi::ByteString;
use kube::{
    Api, Client, Config,
    api::{DynamicObject, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime, time};

use self::program::Program;

/// Names the folder, by the convention of controller-runtime's envtest.
pub(super) const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Whom the manifests of the `DaemonSet` give the `ClusterRole` to.
const AGENT: &str = "system:serviceaccount:port-enforcer:port-enforcer";

/// Why there is no control plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The folder is not what it should be.
    #[error(
        "{ASSETS} names a folder, but its {program} cannot be run ({path}): {why}. The folder must hold etcd and \
         kube-apiserver; without {ASSETS} the tests run against the project's own API server"
    )]
    Incomplete { path: String, program: &'static str, why: String },
    /// A program was started and did not last.
    #[error("{program} ended ({status}) before it was ready. It was started by\n{command}\nThe end of its log:\n{log}")]
    Ended { program: &'static str, status: String, command: String, log: String },
    /// A program was started and is of no use.
    #[error(
        "{program} was not ready within {timeout:?} ({answer}). It was started by\n{command}\nThe end of its log:\n{log}"
    )]
    NeverReady { program: &'static str, timeout: Duration, answer: String, command: String, log: String },
    /// All run, but the agent's rights could not be written.
    #[error("kube-apiserver is ready but refuses what {file} holds: {why}")]
    Refused { file: &'static str, why: String },
}

/// A control plane that runs. Its programs end when it is dropped, and when this process ends in whatever way.
pub(super) struct ControlPlane {
    kubeconfigs: Kubeconfigs,
    /// Dropped to end it.
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// The two who speak to it.
#[derive(Clone, Debug)]
pub(super) struct Kubeconfigs {
    /// Who may do everything.
    pub(super) admin: PathBuf,
    /// Who may do what the agent's `ClusterRole` allows, and no more.
    pub(super) agent: PathBuf,
}

impl ControlPlane {
    /// Starts the programs of a folder, and waits for each until it is ready, so long at most.
    pub(super) fn start(assets: &Path, timeout: Duration) -> Result<Self, Failure> {
        let paths = ["etcd", "kube-apiserver"].map(|program| executable(assets, program));
        let [etcd, server] = paths;
        let (etcd, server) = (etcd?, server?);
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        // The kernel ends a program when the *thread* ends that started it: this one stays as long as they are needed.
        let keeper = thread::spawn(move || match Running::start(&etcd, &server, timeout) {
            Ok(running) => {
                ready.send(Ok(running.kubeconfigs.clone())).expect("the starter waits");
                let _ = stopped.recv();
            }
            Err(failure) => ready.send(Err(failure)).expect("the starter waits"),
        });
        let started = is_ready.recv();
        let Ok(outcome) = started else {
            panic!("the control plane could not be set up: {:?}", keeper.join().err());
        };
        match outcome {
            Ok(kubeconfigs) => Ok(Self { kubeconfigs, stop: Some(stop), keeper: Some(keeper) }),
            Err(failure) => {
                keeper.join().expect("it has answered");
                Err(failure)
            }
        }
    }

    pub(super) fn kubeconfigs(&self) -> &Kubeconfigs {
        &self.kubeconfigs
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl Failure {
    fn of_file(path: &Path, program: &'static str, error: &io::Error) -> Self {
        Self::Incomplete { path: path.display().to_string(), program, why: error.to_string() }
    }
}

/// The path of a program that can be run.
fn executable(folder: &Path, program: &'static str) -> Result<PathBuf, Failure> {
    let path = folder.join(program);
    match rustix::fs::access(&path, rustix::fs::Access::EXEC_OK) {
        Ok(()) => Ok(path),
        Err(error) => Err(Failure::of_file(&path, program, &error.into())),
    }
}

/// The programs and what they write. The fields are dropped in their order.
struct Running {
    kubeconfigs: Kubeconfigs,
    _server: Program,
    _etcd: Program,
    _folder: TempDir,
}

impl Running {
    fn start(etcd: &Path, server: &Path, timeout: Duration) -> Result<Self, Failure> {
        let folder = TempDir::new().expect("a folder");
        let [client_port, server_port] = free_ports();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");

        let url = format!("http://127.0.0.1:{client_port}");
        let mut etcd = Program::start("etcd", etcd, folder.path(), &etcd_flags(folder.path(), &url))?;
        let config = Config::new(url.parse().expect("a URL"));
        runtime.block_on(answers(&config, "/health", &mut [&mut etcd], timeout))?;

        let [admin_token, agent_token] =
            [random(), random()].map(|bytes| format!("{:032x}", u128::from_be_bytes(bytes)));
        let tokens = format!("{admin_token},tests,1,system:masters\n{agent_token},{AGENT},2\n");
        write(&folder.path().join("tokens"), &tokens);
        write(&folder.path().join("key"), &signing_key());
        let mut server =
            Program::start("kube-apiserver", server, folder.path(), &server_flags(folder.path(), &url, server_port))?;
        let [admin, agent] = [("admin", admin_token), ("agent", agent_token)].map(|(name, token)| {
            let path = folder.path().join(name);
            write(&path, &kubeconfig(server_port, &token).to_string());
            path
        });
        runtime.block_on(async {
            let file = Kubeconfig::read_from(&admin).expect("a kubeconfig");
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            let config = config.expect("a configuration");
            answers(&config, "/readyz", &mut [&mut etcd, &mut server], timeout).await?;
            let client = Client::try_from(config).expect("a client");
            for file in ["namespace.yaml", "rbac.yaml"] {
                for object in documents(&format!("base/{file}")) {
                    create(&client, object).await.map_err(|error| Failure::Refused { file, why: error.to_string() })?;
                }
            }
            Ok(())
        })?;
        Ok(Self { kubeconfigs: Kubeconfigs { admin, agent }, _server: server, _etcd: etcd, _folder: folder })
    }
}

fn etcd_flags(folder: &Path, url: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        // Nobody else is in this cluster.
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
    ]
}

fn server_flags(folder: &Path, etcd: &str, port: u16) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers={etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        // Where it makes a certificate for itself.
        format!("--cert-dir={}", path("certificates")),
        // In a network namespace without routes it finds no address of its own; and nobody looks for it as a Service.
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--token-auth-file={}", path("tokens")),
        "--authorization-mode=RBAC".to_owned(),
        // It does not start without; nothing here uses the tokens that it could sign.
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path("key")),
        format!("--service-account-signing-key-file={}", path("key")),
        // Without controllers no namespace gets the service account that each pod would need.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ]
}

fn kubeconfig(port: u16, token: &str) -> Value {
    // The certificate is the server's own; it listens on the loopback, on a port that was free a moment ago.
    let cluster = json!({"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true});
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
}

/// Waits until the last of the programs answers well, and all of them run.
async fn answers(config: &Config, path: &str, programs: &mut [&mut Program], timeout: Duration) -> Result<(), Failure> {
    // What comes of a single try can be told.
    let mut config = config.clone();
    config.default_retry = false;
    let client = Client::try_from(config).expect("a client");
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(failure) = programs.iter_mut().find_map(|program| program.ended()) {
            return Err(failure);
        }
        let request = Request::get(path).body(Vec::new()).expect("a request");
        let answer = match time::timeout(Duration::from_secs(1), client.request_text(request)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer to {path}"),
        };
        if Instant::now() >= deadline {
            let program = programs.last().expect("one is waited for");
            return Err(program.never_ready(timeout, answer));
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

/// The objects of a manifest in `deploy`.
pub(crate) fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = fs::read_to_string(path).expect("the manifest");
    yaml::documents(&text).map(|document| document.expect("YAML").root.to_json()).collect()
}

async fn create(client: &Client, object: Value) -> kube::Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let types = object.types.as_ref().expect("its kind");
    let kind = GroupVersionKind::try_from(types).expect("its kind");
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await
}

/// Ports of the loopback that nobody has now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

/// Writes what only this user may read.
fn write(path: &Path, text: &str) {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    io::Write::write_all(&mut file.expect("a new file"), text.as_bytes()).expect("writing a file");
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut source = fs::File::open("/dev/urandom").expect("the kernel's random numbers");
    io::Read::read_exact(&mut source, &mut bytes).expect("the kernel's random numbers");
    bytes
}

/// A new key for ECDSA on the curve P-256, in PEM.
fn signing_key() -> String {
    // Any number below the curve's order will do, which begins with 32 set bits.
    let mut number = random::<32>();
    number[0] &= 0x7f;
    // RFC 5915: an ECPrivateKey of version 1, the number, and the curve's name; the public key can be left out.
    let sequence_and_version = [0x30, 49, 0x02, 1, 1];
    let octets = [0x04, 32];
    let curve = [0xa0, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let key = [&sequence_and_version[..], &octets, &number, &curve].concat();
    // Bytes are base64 in JSON. Their 68 letters are more than the 64 of a line.
    let text = serde_json::to_value(ByteString(key)).expect("bytes are JSON");
    let (line, rest) = text.as_str().expect("a string").split_at(64);
    format!("-----BEGIN EC PRIVATE KEY-----\n{line}\n{rest}\n-----END EC PRIVATE KEY-----\n")
}
