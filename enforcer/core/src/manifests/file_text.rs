//! Names and bytes of files, before anything of them is read as a manifest.

use std::path::Path;

/// Checks whether the name of a file begins with a dot.
#[must_use]
pub fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Returns the text of a file's bytes.
///
/// # Errors
///
/// Why they are no text, for a sentence about the file.
pub fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    // A manifest begins with an ASCII character, and none of its characters is NUL.
    if matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..]) {
        return Err("it is UTF-16 or UTF-32; write it as UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        format!("it is not UTF-8 (at byte {place}); write it as UTF-8")
    })
}
