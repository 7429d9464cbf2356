//! Scripts of a shell, as far as it takes to find the programs that stay.

use std::iter::Peekable;

/// Names of shells.
const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];
/// Longest script that is read, in bytes.
const MAX_SCRIPT: usize = 16 * 1024;

/// A command of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Command {
    words: Vec<String>,
    /// It goes on beside what follows.
    background: bool,
}

/// Returns the script if a shell runs one: `sh -c SCRIPT`.
pub(super) fn script<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    let program = arguments.first()?.rsplit('/').next()?;
    if !SHELLS.contains(&program) {
        return None;
    }
    let is_command = |word: &str| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c');
    let place = arguments.iter().position(|word| is_command(word))?;
    arguments.get(place + 1).copied()
}

/// Returns the words of each program that a script leaves running: those that it becomes or starts in the background, and
/// the last one. All others end before.
pub(super) fn lasting_programs(script: &str) -> Vec<Vec<String>> {
    let mut end = script.len().min(MAX_SCRIPT);
    while !script.is_char_boundary(end) {
        end -= 1;
    }
    let commands = commands(&without_here_documents(&script[..end]));
    let count = commands.len();
    let becomes = |command: &Command| command.words.first().is_some_and(|word| word == "exec");
    let replaced = commands.iter().any(becomes);
    let lasting = commands
        .into_iter()
        .enumerate()
        .filter(|(place, command)| command.background || becomes(command) || !replaced && place + 1 == count);
    lasting.map(|(_, command)| command.words).collect()
}

/// Leaves out the texts that a script gives to its commands.
fn without_here_documents(script: &str) -> String {
    let mut kept = String::new();
    let mut delimiter: Option<&str> = None;
    for line in script.lines() {
        if let Some(end) = delimiter {
            if line.trim() == end {
                delimiter = None;
            }
            continue;
        }
        if let Some((_, rest)) = line.split_once("<<")
            && !rest.starts_with('<')
        {
            let word = rest.trim_start_matches(['-', ' ']).split_whitespace().next().unwrap_or_default();
            delimiter = Some(word.trim_matches(['\'', '"'])).filter(|word| !word.is_empty());
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

fn commands(script: &str) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut command = Command::default();
    let mut word: Option<String> = None;
    let mut letters = script.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                None | Some('\n') => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            '\'' | '"' => quoted(&mut letters, letter, word.get_or_insert_default()),
            '#' if word.is_none() => while letters.next_if(|next| *next != '\n').is_some() {},
            '\n' | ';' | '&' | '|' => {
                command.words.extend(word.take());
                let is_double = letters.next_if_eq(&letter).is_some();
                command.background = letter == '&' && !is_double;
                // `2>&1`, and not the end of a command.
                let is_redirection = command.background && command.words.last().is_some_and(|word| word.ends_with('>'));
                if is_redirection {
                    command.background = false;
                } else if !command.words.is_empty() {
                    commands.push(std::mem::take(&mut command));
                }
            }
            _ if letter.is_whitespace() => command.words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    command.words.extend(word);
    if !command.words.is_empty() {
        commands.push(command);
    }
    commands
}

/// Reads up to the closing quote.
fn quoted(letters: &mut Peekable<std::str::Chars<'_>>, quote: char, word: &mut String) {
    while let Some(letter) = letters.next_if(|letter| *letter != quote) {
        let escaped = (letter == '\\' && quote == '"').then(|| letters.next()).flatten();
        word.push(escaped.unwrap_or(letter));
    }
    letters.next();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(script: &str) -> Vec<String> {
        lasting_programs(script).into_iter().map(|words| words.join("|")).collect()
    }

    #[test]
    fn lasting_programs_of_a_script_are_found() {
        for (script, expected) in [
            ("exec app --port=80", &["exec|app|--port=80"][..]),
            ("app --port 80", &["app|--port|80"]),
            ("wait-for db 5432 && app -x\n", &["app|-x"]),
            ("setup; a --port=1 & exec b \\\n  --port=2\n", &["a|--port=1", "exec|b|--port=2"]),
            ("exec a\nb", &["exec|a"]),
            ("a 'x; y' \"z \\\" $(w)\" ''", &["a|x; y|z \" $(w)|"]),
            ("a # --port=80\n# b\n", &["a"]),
            ("cat > f <<'EOF'\nlisten :80\nEOF\napp", &["app"]),
            ("a 2>&1 --b", &["a|2>|1|--b"]),
            ("", &[]),
            ("'open", &["open\n"]),
            ("\\", &[]),
        ] {
            assert_eq!(programs(script), expected, "{script}");
        }
        assert!(programs(&"é ".repeat(MAX_SCRIPT)).concat().len() <= MAX_SCRIPT);
    }

    #[test]
    fn script_is_what_follows_the_flag_of_a_shell() {
        for (arguments, expected) in [
            (&["/bin/sh", "-c", "x"][..], Some("x")),
            (&["bash", "-o", "errexit", "-ec", "x", "y"], Some("x")),
            (&["sh", "/run.sh"], None),
            (&["sh", "-c"], None),
            (&["app", "-c", "x"], None),
            (&[], None),
        ] {
            assert_eq!(script(arguments), expected, "{arguments:?}");
        }
    }
}
