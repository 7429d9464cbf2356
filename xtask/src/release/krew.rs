//! Manifest of the kubectl plugin for krew: `.krew.yaml` with the checksums of the archives and their address.

use std::fs;

use anyhow::{Context as _, bail};

use super::platform::PLATFORMS;
use super::{Files, plugin};
use crate::{process, sbom};

/// What stands in `.krew.yaml` for the address.
pub(super) const URL: &str = "RELEASE_URL";

/// Returns the manifest. Without an address, what stands for it stays.
pub(super) fn manifest(files: &Files, version: &str, url: Option<&str>) -> anyhow::Result<String> {
    let template =
        fs::read_to_string(process::workspace_root().join(".krew.yaml")).context("cannot read .krew.yaml")?;
    fill_in(&template, files, version, url)
}

fn fill_in(template: &str, files: &Files, version: &str, url: Option<&str>) -> anyhow::Result<String> {
    let lines: Vec<&str> = template.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    let mut text = lines.concat();
    for platform in &PLATFORMS {
        let name = plugin::file_name(version, platform);
        let placeholder = format!("SHA256_{}", platform.name.replace('-', "_").to_uppercase());
        let archive = files.get(&name).with_context(|| format!("there is no archive {name}"))?;
        if !text.contains(&placeholder) || !text.contains(&format!("{URL}/{name}")) {
            bail!(".krew.yaml has no {placeholder}, or does not name {name}");
        }
        text = text.replace(&placeholder, &sbom::sha256(archive));
    }
    if let Some(rest) = text.lines().find(|line| line.contains("SHA256_")) {
        bail!(".krew.yaml has a platform that is not built: {}", rest.trim());
    }
    Ok(match url {
        Some(url) => text.replace(URL, url),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        PLATFORMS.iter().map(|platform| (plugin::file_name("0.1.0", platform), platform.name.into())).collect()
    }

    #[test]
    fn every_platform_has_the_sum_of_its_archive() {
        let template = fs::read_to_string(process::workspace_root().join(".krew.yaml")).unwrap();
        let text = fill_in(&template, &files(), "0.1.0", Some("https://example.org/v0.1.0")).unwrap();
        assert!(!text.contains("SHA256_") && !text.contains(URL) && !text.contains('#'), "{text}");
        for platform in &PLATFORMS {
            let name = plugin::file_name("0.1.0", platform);
            let lines = format!(
                "uri: https://example.org/v0.1.0/{name}\n      sha256: {}\n      bin: {}\n",
                sbom::sha256(platform.name.as_bytes()),
                platform.program
            );
            assert!(text.contains(&lines), "{lines}\n{text}");
        }
        assert!(fill_in(&template, &files(), "0.1.0", None).unwrap().contains(URL));
    }

    #[test]
    fn manifest_and_platforms_must_agree() {
        let template = fs::read_to_string(process::workspace_root().join(".krew.yaml")).unwrap();
        let more = format!("{template}      sha256: SHA256_PLAN9_AMD64\n");
        assert!(fill_in(&more, &files(), "0.1.0", None).is_err());
        assert!(fill_in(&template.replace("SHA256_LINUX_ARM64", "x"), &files(), "0.1.0", None).is_err());
        assert!(fill_in(&template, &files(), "0.2.0", None).is_err(), "it names archives of another version");
    }
}
