//! Writer of the OCI archive: an OCI image layout in a tar file, which `ctr`, `podman`, `skopeo` and newer versions of
//! `docker` read.

use std::collections::HashMap;
use std::str::FromStr as _;

use anyhow::Context as _;
use jiff::Timestamp;
use oci_spec::image::{
    Arch as OciArch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest, HistoryBuilder, ImageConfigurationBuilder,
    ImageIndex, ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
    Sha256Digest,
};
use serde::Serialize;

use super::layer;
use super::program::{BuiltProgram, ImageProgram};
use crate::arch::Arch;
use crate::file_tree::{self, FileTree};
use crate::sbom::sha256;

/// An image with its archive.
pub(super) struct OciImage {
    /// The OCI archive.
    pub(super) archive: Vec<u8>,
    /// The only layer of each architecture, not compressed.
    pub(super) layers: Vec<(Arch, Vec<u8>)>,
    /// Digest of the manifest, which identifies the image in registries. With several architectures, of the index of
    /// their manifests.
    pub(super) digest: String,
}

impl OciImage {
    /// Creates the image of a program with these builds of it. Its times are `epoch`, in seconds since 1970.
    pub(super) fn of(program: ImageProgram, builds: &[BuiltProgram], epoch: u64) -> anyhow::Result<Self> {
        let version = env!("CARGO_PKG_VERSION");
        let layers = builds.iter().map(|built| Ok((built.arch, layer::build(program, built, version, epoch)?)));
        Self::with_layers(program, layers.collect::<anyhow::Result<_>>()?, version, epoch)
    }

    /// Creates an image with one layer for each architecture.
    fn with_layers(
        program: ImageProgram,
        layers: Vec<(Arch, Vec<u8>)>,
        version: &str,
        epoch: u64,
    ) -> anyhow::Result<Self> {
        let seconds = i64::try_from(epoch).context("the time of the image is out of range")?;
        let created = Timestamp::from_second(seconds).context("the time of the image is out of range")?.to_string();
        let mut blobs = FileTree::default();
        let manifests =
            layers.iter().map(|(arch, layer)| manifest(&mut blobs, program, *arch, layer, version, &created));
        let mut manifests = manifests.collect::<anyhow::Result<Vec<_>>>()?;
        // Like the builders: the index of the archive has one entry, which is an index itself if there are several
        // architectures.
        let entry = match manifests.pop() {
            Some(only) if manifests.is_empty() => only,
            last => {
                manifests.extend(last);
                let index = json(&index_of(manifests)?)?;
                blob(&mut blobs, MediaType::ImageIndex, &index)?.build()?
            }
        };
        let digest = entry.digest().to_string();
        let mut entry = entry;
        // containerd takes the image's name from the first, other tools from the second.
        entry.set_annotations(Some(HashMap::from([
            ("io.containerd.image.name".to_owned(), format!("docker.io/library/{}:{version}", program.name())),
            ("org.opencontainers.image.ref.name".to_owned(), version.to_owned()),
        ])));
        blobs.add_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        blobs.add_file("index.json", json(&index_of(vec![entry])?)?);
        Ok(Self { archive: file_tree::pack(&blobs, epoch)?, layers, digest })
    }
}

/// Adds the layer, the configuration and the manifest of one architecture, and returns the manifest's descriptor.
fn manifest(
    blobs: &mut FileTree,
    program: ImageProgram,
    arch: Arch,
    layer: &[u8],
    version: &str,
    created: &str,
) -> anyhow::Result<Descriptor> {
    let (architecture, system) = (OciArch::from(arch.as_str()), Os::Linux);
    let labels = HashMap::from([
        ("org.opencontainers.image.title".to_owned(), program.name().to_owned()),
        ("org.opencontainers.image.version".to_owned(), version.to_owned()),
        ("org.opencontainers.image.licenses".to_owned(), "MIT OR Apache-2.0".to_owned()),
    ]);
    let config = ImageConfigurationBuilder::default()
        .created(created)
        .architecture(architecture.clone())
        .os(system.clone())
        .config(
            ConfigBuilder::default()
                .entrypoint(vec![format!("/{}", program.path())])
                // For `kubectl exec`.
                .env(vec!["PATH=/usr/bin".to_owned()])
                .user(program.user().to_owned())
                .labels(labels)
                .build()?,
        )
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![format!("sha256:{}", sha256(layer))]).build()?)
        .history(vec![HistoryBuilder::default().created(created).created_by("cargo xtask image".to_owned()).build()?])
        .build()?;
    let config = blob(blobs, MediaType::ImageConfig, &json(&config)?)?;
    let layer = blob(blobs, MediaType::ImageLayer, layer)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config.build()?)
        .layers(vec![layer.build()?])
        .build()?;
    let platform = PlatformBuilder::default().architecture(architecture).os(system).build()?;
    Ok(blob(blobs, MediaType::ImageManifest, &json(&manifest)?)?.platform(platform).build()?)
}

fn index_of(manifests: Vec<Descriptor>) -> anyhow::Result<ImageIndex> {
    Ok(ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use serde_json::Value;
    use tar::Archive;

    use super::*;

    /// Reads the files of an archive.
    fn files(image: &OciImage) -> BTreeMap<String, Vec<u8>> {
        let mut archive = Archive::new(&image.archive[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    /// Reads the blob that a descriptor names, after comparing its size and hash.
    fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let hash = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = &files[&format!("blobs/sha256/{hash}")];
        assert_eq!(descriptor["size"], content.len(), "{descriptor}");
        assert_eq!(sha256(content), hash);
        content
    }

    fn parse(content: &[u8]) -> Value {
        serde_json::from_slice(content).unwrap()
    }

    #[test]
    fn one_architecture_is_a_manifest_and_two_are_an_index_of_manifests() {
        let one =
            OciImage::with_layers(ImageProgram::Plugin, vec![(Arch::Arm64, b"arm".to_vec())], "1.2.3", 7).unwrap();
        let all = files(&one);
        let entry = &parse(&all["index.json"])["manifests"][0];
        assert_eq!(
            (&entry["platform"]["architecture"], entry["digest"].as_str()),
            (&"arm64".into(), Some(&*one.digest))
        );
        assert_eq!(follow(&all, &parse(follow(&all, entry))["layers"][0]), b"arm");

        let layers = || vec![(Arch::Amd64, b"amd".to_vec()), (Arch::Arm64, b"arm".to_vec())];
        let two = OciImage::with_layers(ImageProgram::Agent, layers(), "1.2.3", 7).unwrap();
        let all = files(&two);
        let outer = parse(&all["index.json"]);
        let entry = &outer["manifests"][0];
        assert_eq!(outer["manifests"].as_array().unwrap().len(), 1, "one image, so that tools do not ask which");
        assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert_eq!(entry["digest"], two.digest.as_str());
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.2.3");
        let inner = parse(follow(&all, entry));
        for (manifest, (arch, layer)) in inner["manifests"].as_array().unwrap().iter().zip(layers()) {
            assert_eq!(manifest["platform"], serde_json::json!({ "architecture": arch.as_str(), "os": "linux" }));
            let parsed = parse(follow(&all, manifest));
            assert_eq!(follow(&all, &parsed["layers"][0]), layer);
            let config = parse(follow(&all, &parsed["config"]));
            assert_eq!(config["architecture"], arch.as_str());
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
        }
        assert_eq!(two.archive, OciImage::with_layers(ImageProgram::Agent, layers(), "1.2.3", 7).unwrap().archive);
    }
}
