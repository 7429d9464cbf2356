//! Lists in sentences.

use std::fmt::Display;

/// Joins items by commas: `a, b, c`, and `a, b and 4 more` if there are more than `most`. `beyond` items are counted that
/// `items` does not have.
pub fn comma_list(items: impl IntoIterator<Item = impl Display>, most: usize, beyond: usize) -> String {
    join(items, most, beyond, ", ")
}

/// Joins items as a sentence does: `a`, `a and b`, `a, b and c`, and `a, b and 4 more` if there are more than `most`.
pub fn and_list(items: impl IntoIterator<Item = impl Display>, most: usize) -> String {
    join(items, most, 0, " and ")
}

fn join(items: impl IntoIterator<Item = impl Display>, most: usize, beyond: usize, before_last: &str) -> String {
    let mut items = items.into_iter();
    let shown: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    let more = items.count().saturating_add(beyond);
    match shown.as_slice() {
        _ if more > 0 => format!("{} and {more} more", shown.join(", ")),
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{}{before_last}{last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_the_first_items_and_count_the_others() {
        for (items, most, beyond, commas, sentence) in [
            (&[][..], 3, 0, "", ""),
            (&["a"], 3, 0, "a", "a"),
            (&["a", "b"], 3, 0, "a, b", "a and b"),
            (&["a", "b", "c"], 3, 0, "a, b, c", "a, b and c"),
            (&["a", "b", "c", "d", "e"], 3, 0, "a, b, c and 2 more", "a, b, c and 2 more"),
            (&["a", "b"], 3, 4, "a, b and 4 more", "a and b"),
        ] {
            assert_eq!(comma_list(items, most, beyond), commas, "{items:?}");
            assert_eq!(and_list(items, most), sentence, "{items:?}");
        }
    }
}
