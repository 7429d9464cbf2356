//! SBOM of a program, in SPDX 2.3.

use std::fmt::Write as _;

use anyhow::Context as _;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::dependencies::{Crate, Dependencies, ToolchainLibrary};

/// Returns the SHA-256 hash of some bytes, in hex digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the SBOM of the program of a package, whose binary has this hash.
pub(crate) fn document(
    program: &str,
    dependencies: &Dependencies,
    version: &str,
    sha256: &str,
    epoch: u64,
) -> anyhow::Result<Vec<u8>> {
    let created = i64::try_from(epoch).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let created = created.context("the time of the SBOM is out of range")?;
    let mut packages = Vec::new();
    let root = format!("SPDXRef-{program}");
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", &root)];
    for ((name, version), Crate { licence, is_local, .. }) in &dependencies.crates {
        let id = if name == program { root.clone() } else { identifier(name, version) };
        let mut package = package(&id, name, version, licence.as_deref());
        if !is_local {
            package["externalRefs"] = json!([{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": format!("pkg:cargo/{name}@{version}"),
            }]);
        }
        if name == program {
            package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
            package["primaryPackagePurpose"] = "APPLICATION".into();
        } else {
            relationships.push(relationship(&root, "STATIC_LINK", &id));
        }
        packages.push(package);
    }
    for ToolchainLibrary { name, version, licence, .. } in &dependencies.libraries {
        let id = identifier(name, version);
        packages.push(package(&id, name, version, Some(licence)));
        relationships.push(relationship(&root, "STATIC_LINK", &id));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{program}-{version}"),
        "documentNamespace": format!("urn:port-enforcer:sbom:{program}:{version}:{sha256}"),
        "creationInfo": { "created": created.to_string(), "creators": ["Tool: port-enforcer-xtask"] },
        "packages": packages,
        "relationships": relationships,
    });
    serde_json::to_vec_pretty(&document).context("cannot serialize the SBOM")
}

fn package(id: &str, name: &str, version: &str, licence: Option<&str>) -> Value {
    json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        // Older crates write `/` for `OR`.
        "licenseDeclared": licence.map_or_else(|| "NOASSERTION".to_owned(), |licence| licence.replace('/', " OR ")),
        "copyrightText": "NOASSERTION",
    })
}

fn relationship(one: &str, kind: &str, other: &str) -> Value {
    json!({ "spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other })
}

/// Returns an SPDX identifier, which consists of letters, digits, dots and hyphens.
fn identifier(name: &str, version: &str) -> String {
    let text = format!("{name}-{version}");
    let safe = text
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() || character == '.' { character } else { '-' });
    format!("SPDXRef-Package-{}", safe.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::arch::Arch;

    #[test]
    fn every_dependency_is_listed_once_and_linked() {
        let dependencies = Dependencies::of_agent(Arch::host()).unwrap();
        let bytes = document("enforcer", &dependencies, "0.1.0", "abc", 0).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), dependencies.crates.len() + dependencies.libraries.len());
        let ids: BTreeSet<&str> = packages.iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), packages.len());
        let linked: BTreeSet<&str> = document["relationships"]
            .as_array()
            .unwrap()
            .iter()
            .map(|relationship| relationship["relatedSpdxElement"].as_str().unwrap())
            .collect();
        assert_eq!(linked, ids);
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:00Z");
        for package in packages {
            let licence = package["licenseDeclared"].as_str().unwrap();
            assert!(licence != "NOASSERTION" && !licence.contains('/'), "{package}");
        }
    }
}
