//! The image and the archive that it travels in: an OCI image layout in a tar file, which `ctr`, `podman`, `skopeo` and newer
//! versions of `docker` read.

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
use super::layer::{self, Tree};

/// Where the agent is in the image.
pub(super) const PROGRAM: &str = "usr/bin/enforcer";

/// An image that is made.
pub(super) struct Image {
    /// What goes into a file.
    pub(super) archive: Vec<u8>,
    /// The one layer, not compressed.
    pub(super) layer: Vec<u8>,
    /// The manifest's, by which registries know it.
    pub(super) digest: String,
}

/// The hash of some bytes, in hex digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Image {
    /// With this binary in it.
    pub(super) fn of(binary: &Path, dependencies: &Dependencies, arch: &str, epoch: u64) -> anyhow::Result<Self> {
        let program = fs::read(binary).with_context(|| format!("{} cannot be read", binary.display()))?;
        let version = env!("CARGO_PKG_VERSION");
        Self::new(&layer::layer(&program, dependencies, version, epoch)?, version, arch, epoch)
    }

    /// Around one layer.
    fn new(layer: &[u8], version: &str, arch: &str, epoch: u64) -> anyhow::Result<Self> {
        let seconds = i64::try_from(epoch).context("a time far away")?;
        let created = Timestamp::from_second(seconds).context("a time far away")?.to_string();
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
                    .entrypoint(vec![format!("/{PROGRAM}")])
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
        let mut blobs = Tree::default();
        let config = blob(&mut blobs, MediaType::ImageConfig, &json(&config)?)?;
        let layer_of = blob(&mut blobs, MediaType::ImageLayer, layer)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config.build()?)
            .layers(vec![layer_of.build()?])
            .build()?;
        let manifest = json(&manifest)?;
        let digest = sha256(&manifest);
        let described = blob(&mut blobs, MediaType::ImageManifest, &manifest)?
            .platform(PlatformBuilder::default().architecture(architecture).os(system).build()?)
            // By the first, containerd names it; by the second, others do.
            .annotations(HashMap::from([
                ("io.containerd.image.name".to_owned(), name),
                ("org.opencontainers.image.ref.name".to_owned(), version.to_owned()),
            ]))
            .build()?;
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![described])
            .build()?;
        blobs.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        blobs.file("index.json", json(&index)?);
        Ok(Self { archive: layer::pack(&blobs, epoch)?, layer: layer.to_vec(), digest: format!("sha256:{digest}") })
    }
}

/// The bytes of an object, whose maps are in order whatever order they are kept in.
fn json(object: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    // A `serde_json::Value` keeps keys in order; the maps of the image's own types do not.
    let value = serde_json::to_value(object).context("an image's object is no JSON")?;
    serde_json::to_vec(&value).context("an image's object is no JSON")
}

/// Adds bytes under their hash.
fn blob(blobs: &mut Tree, kind: MediaType, bytes: &[u8]) -> anyhow::Result<DescriptorBuilder> {
    let hash = sha256(bytes);
    blobs.file(&format!("blobs/sha256/{hash}"), bytes.to_vec());
    let digest: Digest = Sha256Digest::from_str(&hash).context("a hash")?.into();
    let size = u64::try_from(bytes.len()).context("a large image")?;
    Ok(DescriptorBuilder::default().media_type(kind).digest(digest).size(size))
}
