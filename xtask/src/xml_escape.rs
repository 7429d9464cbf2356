//! Escaping of text for the SVG files that commands write.

/// Escapes the text of an XML element. Not for attribute values: quotes stay.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
