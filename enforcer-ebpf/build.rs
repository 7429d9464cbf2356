//! Builds the BPF object where the feature `object` asks for it, and nothing otherwise.

#[cfg(feature = "object")]
mod build_object;

#[cfg(feature = "object")]
fn main() -> anyhow::Result<()> {
    build_object::main()
}

#[cfg(not(feature = "object"))]
fn main() {}
