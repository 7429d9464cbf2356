//! Builds this crate's own binary for the BPF target, so that the library can carry it (`OBJECT`).

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, exit},
};

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain};

/// Name of the object, as aya-build leaves it in `OUT_DIR`.
const BINARY: &str = "port-enforcer-bpf";

/// Set for the copy of this script that does the work.
const INNER: &str = "PORT_ENFORCER_BUILD_EBPF";

/// Builds the object for the host build; does nothing in the build for the BPF target.
pub(crate) fn main() -> anyhow::Result<()> {
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // This is a build for the BPF target itself.
        return Ok(());
    }
    if env::var_os(INNER).is_some() {
        return build();
    }
    // aya-build passes on every line that the inner cargo prints as a warning of this package, and cargo would show
    // them all again at every build. Only what is a warning is let through, and everything when it fails.
    let output = Command::new(env::current_exe()?).env(INNER, "1").output().context("cannot run the build script")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprint!("{text}{}", String::from_utf8_lossy(&output.stderr));
        exit(1);
    }
    let warns = text.lines().any(|line| line.starts_with("cargo:warning=warning"));
    for line in text.lines() {
        if warns || !line.starts_with("cargo:warning=") {
            println!("{line}");
        }
    }
    Ok(())
}

fn build() -> anyhow::Result<()> {
    aya_build::build_ebpf(
        [Package { name: env!("CARGO_PKG_NAME"), root_dir: env!("CARGO_MANIFEST_DIR"), ..Package::default() }],
        Toolchain::default(),
    )
    .context("building the BPF object failed; `cargo xtask setup` finds or installs what it needs")?;
    let object = Path::new(&env::var_os("OUT_DIR").context("cargo tells no OUT_DIR")?).join(BINARY);
    strip(&object).with_context(|| format!("{} cannot be stripped", object.display()))
}

/// Leaves out what is for debuggers: it is four fifths of the object, which every agent carries and parses. What the
/// kernel and its verifier's log want to know of types and lines is in `.BTF` and `.BTF.ext`.
fn strip(object: &Path) -> anyhow::Result<()> {
    // The one that rustc itself strips with.
    let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    let sysroot = String::from_utf8(sysroot.context("cannot run rustup")?.stdout)?;
    let host = env::var("HOST").context("cargo tells no HOST")?;
    let tool: PathBuf = [sysroot.trim(), "lib", "rustlib", &host, "bin", "rust-objcopy"].iter().collect();
    // Through rustup, which says where the toolchain's libraries are.
    let mut strip = Command::new("rustup");
    strip.args(["run", "nightly"]).arg(&tool).arg("--strip-debug");
    // Only linkers read these: what a loader needs is in `.BTF` and `.BTF.ext` themselves.
    strip.args(["--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"]);
    let status = strip.arg(object).status();
    let status = status.with_context(|| format!("cannot run {}", tool.display()))?;
    ensure!(status.success(), "{} ended with {status}", tool.display());
    Ok(())
}
