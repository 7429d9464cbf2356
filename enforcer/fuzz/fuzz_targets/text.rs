//! Text that others chose: whatever goes in, nothing that a terminal or a log would obey comes out.
#![no_main]

use enforcer_core::model::{
    name::Name,
    text::{escape, escape_bounded},
};
use enforcer_fuzz::properties::assert_safe;
use libfuzzer_sys::fuzz_target;

// The most characters, and the text.
fuzz_target!(|input: (u8, &str)| {
    let (max, text) = input;
    let max = usize::from(max);
    let whole = escape(text);
    assert_safe(&whole);
    assert_eq!(escape(&whole), whole, "what is safe is not changed");
    assert_eq!(unescape(&whole), unescape(text), "nothing is lost");

    let cut = escape_bounded(text, max);
    assert_safe(&cut);
    assert!(cut.chars().count() <= max);
    if whole.chars().count() <= max {
        assert_eq!(cut, whole);
    } else if max > 0 {
        let kept = cut.strip_suffix('…').expect("a text that was cut says so");
        assert!(whole.starts_with(kept));
        let (before, after) = whole.split_at(kept.len());
        assert!(text.starts_with(&unescape(kept)) || text.contains(r"\u{"));
        // The next character, or its escape, would not have fit.
        let next = if after.starts_with('\\') { after.find('}').map_or(1, |end| end + 1) } else { 1 };
        assert!(before.chars().count() + next >= max, "{cut:?} has room for more of {whole:?}");
    }

    for name in [
        Name {
            namespace: text.to_owned(),
            name: whole,
            uid: String::new(),
            mirror: None,
            handover: None,
            service: false,
        },
        Name::node(),
    ] {
        assert_safe(&name.to_string());
    }
});

/// The text that an escaped one stands for.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(r"\u{") {
        plain.push_str(&rest[..at]);
        let digits = &rest[at + 3..];
        let character = digits.find('}').and_then(|end| {
            let character = u32::from_str_radix(&digits[..end], 16).ok().and_then(char::from_u32)?;
            Some((character, end))
        });
        if let Some((character, end)) = character {
            plain.push(character);
            rest = &digits[end + 1..];
        } else {
            plain.push_str(r"\u{");
            rest = digits;
        }
    }
    plain.push_str(rest);
    plain
}
