//! Helpers that several targets share: the properties that hold of every claim and text.

pub mod properties;
