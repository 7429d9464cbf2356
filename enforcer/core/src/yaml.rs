//! YAML and JSON text as documents with line numbers.

pub mod documents;
pub mod scalar;
pub mod spanned;
