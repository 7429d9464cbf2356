//! Writer of the OCI archive: an OCI image layout in a tar file, which `ctr`, `podman`, `skopeo` and newer versions of
//! `docker` read.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::Context as _;
use jiff::Timestamp;
use oci_spec::image::{
    Arch as OciArch, ConfigBuilder, DescriptorBuilder, Digest, HistoryBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
    Sha256Digest,
};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::dependencies::Dependencies;
use super::layer::{self, FileTree};

/// Path of the agent in the image.
pub(super) const AGENT_PATH: &str = "usr/bin/enforcer";

/// An image with its archive.
pub(super) struct OciImage {
    /// The OCI archive.
    pub(super) archive: Vec<u8>,
    /// The only layer, not compressed.
    pub(super) layer: Vec<u8>,
    /// Digest of the manifest, which identifies the image in registries.
    pub(super) digest: String,
}

/// Returns the SHA-256 hash of some bytes, in hex digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl OciImage {
    /// Creates the image with this agent. Its times are `epoch`, in seconds since 1970.
    pub(super) fn with_agent(
        binary: &Path,
        dependencies: &Dependencies,
        arch: &str,
        epoch: u64,
    ) -> anyhow::Result<Self> {
        let program = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
        let version = env!("CARGO_PKG_VERSION");
        Self::with_layer(&layer::build(&program, dependencies, version, epoch)?, version, arch, epoch)
    }

    /// Creates an image with one layer.
    fn with_layer(layer: &[u8], version: &str, arch: &str, epoch: u64) -> anyhow::Result<Self> {
        let seconds = i64::try_from(epoch).context("the time of the image is out of range")?;
        let created = Timestamp::from_second(seconds).context("the time of the image is out of range")?.to_string();
        let name = format!("docker.io/library/port-enforcer:{version}");
        let (architecture, system) = (OciArch::from(arch), Os::Linux);
        let labels = HashMap::from([
            ("org.opencontainers.image.title".to_owned(), "port-enforcer".to_owned()),
            ("org.opencontainers.image.version".to_owned(), version.to_owned()),
            ("org.opencontainers.image.licenses".to_owned(), "MIT OR Apache-2.0".to_owned()),
        ]);
        let config = ImageConfigurationBuilder::default()
            .created(created.clone())
            .architecture(architecture.clone())
            .os(system.clone())
            .config(
                ConfigBuilder::default()
                    .entrypoint(vec![format!("/{AGENT_PATH}")])
                    // For `kubectl exec`.
                    .env(vec!["PATH=/usr/bin".to_owned()])
                    .user("0:0".to_owned())
                    .labels(labels)
                    .build()?,
            )
            .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![format!("sha256:{}", sha256(layer))]).build()?)
            .history(vec![
                HistoryBuilder::default().created(created).created_by("cargo xtask image".to_owned()).build()?,
            ])
            .build()?;
        let mut blobs = FileTree::default();
        let config = blob(&mut blobs, MediaType::ImageConfig, &json(&config)?)?;
        let layer_descriptor = blob(&mut blobs, MediaType::ImageLayer, layer)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config.build()?)
            .layers(vec![layer_descriptor.build()?])
            .build()?;
        let manifest = json(&manifest)?;
        let digest = sha256(&manifest);
        let descriptor = blob(&mut blobs, MediaType::ImageManifest, &manifest)?
            .platform(PlatformBuilder::default().architecture(architecture).os(system).build()?)
            // containerd takes the image's name from the first, other tools from the second.
            .annotations(HashMap::from([
                ("io.containerd.image.name".to_owned(), name),
                ("org.opencontainers.image.ref.name".to_owned(), version.to_owned()),
            ]))
            .build()?;
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![descriptor])
            .build()?;
        blobs.add_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        blobs.add_file("index.json", json(&index)?);
        Ok(Self { archive: layer::pack(&blobs, epoch)?, layer: layer.to_vec(), digest: format!("sha256:{digest}") })
    }
}

/// Serializes an object with sorted keys.
fn json(object: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    // A `serde_json::Value` sorts its keys; the hash maps in the types of oci-spec do not.
    let value = serde_json::to_value(object).context("cannot serialize an object of the image")?;
    serde_json::to_vec(&value).context("cannot serialize an object of the image")
}

/// Adds bytes as a blob named by their hash, and returns its descriptor.
fn blob(blobs: &mut FileTree, kind: MediaType, bytes: &[u8]) -> anyhow::Result<DescriptorBuilder> {
    let hash = sha256(bytes);
    blobs.add_file(&format!("blobs/sha256/{hash}"), bytes.to_vec());
    let digest: Digest = Sha256Digest::from_str(&hash).context("cannot parse a SHA-256 digest")?.into();
    let size = u64::try_from(bytes.len()).context("a blob of the image is too large")?;
    Ok(DescriptorBuilder::default().media_type(kind).digest(digest).size(size))
}
