//! Text that others chose, made safe to show.
//!
//! Names, annotations and commands come from whoever wrote the manifest or runs the process. Shown as they are, they
//! could move a terminal's cursor, start a line of their own in a log, or turn the reading direction around.

use std::fmt::Write as _;

/// Ends a text that was cut.
const ELLIPSIS: char = '…';

/// Returns the text with everything invisible as `\u{…}`: control characters, line and paragraph separators,
/// bidirectional overrides, zero-width and unassigned characters, combining marks, spaces other than U+0020.
///
/// All else stays as it is, backslashes and quotes too, so that text that is safe already is not changed, and
/// escaping twice is the same as escaping once.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        push(&mut safe, character);
    }
    safe
}

/// Escapes as [`escape`] does, and cuts the result to at most `max` characters of output. A text that was cut ends in
/// `…`, which counts; no escape is cut in two. Reads no more of the text than it needs.
#[must_use]
pub fn escape_bounded(text: &str, max: usize) -> String {
    let mut safe = String::new();
    let mut length = 0;
    // Bytes and characters that still leave room for the ellipsis.
    let mut cut = 0;
    for character in text.chars() {
        let before = safe.len();
        push(&mut safe, character);
        length += safe[before..].chars().count();
        if length > max {
            safe.truncate(cut);
            if max > 0 {
                safe.push(ELLIPSIS);
            }
            return safe;
        }
        if length < max {
            cut = safe.len();
        }
    }
    safe
}

/// Returns an error's message with those of its causes, which the messages of API clients leave out. Not escaped.
#[must_use]
pub fn message_with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn push(safe: &mut String, character: char) {
    if is_plain(character) {
        safe.push(character);
    } else {
        write!(safe, "{}", character.escape_unicode()).expect("writing to a string never fails");
    }
}

/// Checks whether a character is plain. The standard library knows what can be seen; of what it escapes beyond that,
/// quotes and backslashes are plain.
fn is_plain(character: char) -> bool {
    matches!(character, '\\' | '\'' | '"') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shown_as_it_is() {
        for text in ["", "default/nginx-6fdf99c8b-rglm7", r#"C:\u{41} "quoted" 'twice'"#, "größer, 大, ☃ …"] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn what_is_escaped() {
        for (text, safe) in [
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("a\nb\r\tc\0", r"a\u{a}b\u{d}\u{9}c\u{0}"),
            ("\u{7f}\u{85}\u{9b}", r"\u{7f}\u{85}\u{9b}"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}", r"\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}"),
            ("\u{2066}\u{2067}\u{2068}\u{2069}", r"\u{2066}\u{2067}\u{2068}\u{2069}"),
            ("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}"),
            ("\u{200b}\u{200d}\u{feff}\u{ad}\u{e0041}", r"\u{200b}\u{200d}\u{feff}\u{ad}\u{e0041}"),
            ("\u{a0}\u{3000}", r"\u{a0}\u{3000}"),
            ("e\u{301}", r"e\u{301}"),
        ] {
            assert_eq!(escape(text), safe);
        }
    }

    #[test]
    fn what_is_cut() {
        for (text, max, safe) in [
            ("", 0, ""),
            ("a", 0, ""),
            ("a", 1, "a"),
            ("ab", 1, "…"),
            ("abcd", 4, "abcd"),
            ("abcde", 4, "abc…"),
            ("größer", 4, "grö…"),
            ("a\n", 6, r"a\u{a}"),
            ("a\nb", 6, "a…"),
            ("ab\n", 6, "ab…"),
            ("\n\n", 10, r"\u{a}\u{a}"),
            ("\n\n", 9, r"\u{a}…"),
        ] {
            assert_eq!(escape_bounded(text, max), safe, "{text:?} cut to {max}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_plain_and_stays(text in any::<String>()) {
            let safe = escape(&text);
            prop_assert!(safe.chars().all(is_plain));
            prop_assert!(!safe.chars().any(char::is_control));
            prop_assert_eq!(escape(&safe), safe);
        }

        #[test]
        fn bounded_text_is_a_beginning_of_the_whole(text in any::<String>(), max in 0usize..80) {
            let whole = escape(&text);
            let safe = escape_bounded(&text, max);
            prop_assert!(safe.chars().count() <= max);
            if whole.chars().count() <= max {
                prop_assert_eq!(safe, whole);
            } else if max > 0 {
                let beginning = safe.strip_suffix(ELLIPSIS).expect("a cut text says so");
                prop_assert!(whole.starts_with(beginning));
            }
        }
    }
}
