//! Texts as YAML has them.

/// Returns a text that is more than one word as YAML has it: as it is where it can only be a text, in quotes else.
#[must_use]
pub fn scalar(text: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || " .:/-".contains(character);
    let begins = text.starts_with(|character: char| character.is_ascii_alphanumeric());
    if begins && text.chars().all(is_plain) && !text.contains(": ") && !text.ends_with(':') {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Returns a text in quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
