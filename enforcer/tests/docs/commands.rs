use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{Page, blocks, pages, root};

/// Programs that the documentation may name beside our own, and are none of these tests' business but for the files
/// they take.
const OTHERS: [&str; 16] = [
    "apt-get",
    "cargo",
    "cat",
    "ctr",
    "docker",
    "grep",
    "helm",
    "install",
    "jq",
    "kind",
    "kubectl",
    "kustomize",
    "podman",
    "rustup",
    "skopeo",
    "systemctl",
];

/// The commands of a line, as words: what pipes and `&&` divide, without comments, prompts and `sudo`.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.strip_prefix("$ ").unwrap_or(line).chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            (mark @ ('\'' | '"'), None) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            ('|' | ';', None) => {
                commands.last_mut().expect("one").extend(word.take());
                commands.push(Vec::new());
            }
            ('&', None) if characters.peek() == Some(&'&') => {
                characters.next();
                commands.last_mut().expect("one").extend(word.take());
                commands.push(Vec::new());
            }
            (space, None) if space.is_whitespace() => commands.last_mut().expect("one").extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    commands.last_mut().expect("one").extend(word);
    for command in &mut commands {
        if command.first().is_some_and(|word| word == "sudo") {
            command.remove(0);
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// Every command of every block, with its place. In a block with prompts, what has none is what was printed.
fn all() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for Page { path, text } in pages() {
        for (language, first, lines) in blocks(&text) {
            let prompted = lines.iter().any(|line| line.starts_with("$ "));
            for (place, line) in lines.iter().enumerate() {
                if language != "sh" || (prompted && !line.starts_with("$ ")) {
                    continue;
                }
                let place = format!("{}:{}", path.display(), first + place);
                found.extend(commands(line).into_iter().map(|command| (place.clone(), command)));
            }
        }
    }
    found
}

fn enforcer(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ENFORCER_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(root()).stdin(Stdio::null()).output().expect("the binary")
}

/// The words of our own command in a command, such as behind `kubectl exec POD --`.
fn own(command: &[String]) -> Option<&[String]> {
    let place = command.iter().position(|word| word == "enforcer")?;
    let behind = place.checked_sub(1).is_none_or(|before| command[before] == "--");
    behind.then(|| &command[place + 1..])
}

/// The parser comes to the end, where it finds the one thing that it does not know.
#[test]
fn enforcer_commands_parse() {
    let mut count = 0;
    for (place, command) in all() {
        let Some(words) = own(&command) else { continue };
        count += 1;
        let words = [words, &["--no-such-flag".to_owned()]].concat();
        let said = String::from_utf8(enforcer(&words).stderr).expect("UTF-8");
        assert!(said.starts_with("error: unexpected argument '--no-such-flag' found"), "{place}: {command:?}: {said}");
    }
    assert!(count > 30, "{count} commands were found");
}

#[test]
fn other_commands_are_known_and_their_files_exist() {
    for (place, command) in all() {
        let program = command[0].as_str();
        assert!(program == "enforcer" || OTHERS.contains(&program), "{place}: {command:?}");
        for word in &command[1..] {
            let ours = word.starts_with("deploy/") || word.starts_with("docs/") || word.starts_with("enforcer/");
            assert!(!ours || root().join(word).exists(), "{place}: there is no {word}");
        }
    }
}

/// What stands below a prompt is what is printed. Only where that is the same everywhere: what needs no root and no
/// cluster.
#[test]
fn check_output_matches_docs() {
    let mut count = 0;
    for Page { path, text } in pages() {
        for (_, first, lines) in blocks(&text) {
            let Some(prompt) = lines.first().and_then(|line| line.strip_prefix("$ enforcer ")) else { continue };
            let words = commands(prompt).remove(0);
            if words[0] != "check" || !words.iter().skip(1).any(|word| Path::new(word).starts_with("deploy")) {
                continue;
            }
            count += 1;
            let Output { stdout, .. } = enforcer(&words);
            let said = String::from_utf8(stdout).expect("UTF-8");
            assert_eq!(said.trim_end(), lines[1..].join("\n"), "{}:{first}", path.display());
        }
    }
    assert!(count > 0, "none was found");
}

#[test]
fn lines_are_split_like_a_shell() {
    let words = |line: &str| commands(line).iter().map(|command| command.join("+")).collect::<Vec<_>>();
    assert_eq!(
        words("$ sudo enforcer status -o json | jq -r 'a | b' # why"),
        ["enforcer+status+-o+json", "jq+-r+a | b"]
    );
    assert_eq!(words("# a comment"), [""; 0]);
    assert_eq!(words("a && b; c"), ["a", "b", "c"]);
    let exec = ["kubectl", "exec", "POD", "--", "enforcer", "probe"].map(str::to_owned);
    assert_eq!(own(&exec), Some(&["probe".to_owned()][..]));
    assert_eq!(own(&["kubectl".to_owned(), "enforcer".to_owned()]), None);
}
