//! Manual pages: one for each program and subcommand.

use std::io::{self, Write as _};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::Program;

/// Manual, as the head of a page names it.
const MANUAL: &str = "port-enforcer";

/// A manual page.
pub struct Page {
    name: String,
    date: String,
    command: Command,
    examples: Vec<Example>,
    /// Exit codes with their meanings.
    codes: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    files: Vec<(String, String)>,
    related: Vec<String>,
}

/// A command with what it is for.
struct Example {
    command: String,
    comment: String,
}

/// Returns the pages of a program, its own first. The date may be empty.
#[must_use]
pub fn pages(program: &Program, date: &str) -> Vec<Page> {
    let mut root = program.command.clone().disable_help_subcommand(true);
    root.build();
    let codes = exit_codes(&help_after(&root));
    let mut pages = Vec::new();
    collect(program, &root, program.file, None, &codes, &mut pages);
    for page in &mut pages {
        date.clone_into(&mut page.date);
    }
    pages
}

/// Adds the page of a command and those below it.
fn collect(
    program: &Program,
    command: &Command,
    name: &str,
    parent: Option<&str>,
    codes: &[(String, String)],
    pages: &mut Vec<Page>,
) {
    let below: Vec<(String, &Command)> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .map(|below| (format!("{name}-{}", below.get_name()), below))
        .collect();
    let mut variables = flag_variables(command);
    let mut files = flag_files(command);
    if parent.is_none() {
        variables.extend(program.variables.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())));
        files.extend(program.files.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())));
    }
    let mut related: Vec<String> = parent.into_iter().map(str::to_owned).collect();
    related.extend(below.iter().map(|(name, _)| name.clone()));
    if parent.is_none() {
        let others = crate::programs().into_iter().map(|other| other.file.to_owned());
        related.extend(others.filter(|other| other != program.file));
    }
    pages.push(Page {
        name: name.to_owned(),
        date: String::new(),
        command: without_help_after(command),
        examples: examples(&help_after(command)),
        codes: codes.to_vec(),
        variables,
        files,
        related,
    });
    for (below_name, below) in below {
        collect(program, below, &below_name, Some(name), codes, pages);
    }
}

fn help_after(command: &Command) -> String {
    command.get_after_help().map(ToString::to_string).unwrap_or_default()
}

/// Returns the command without what has a section of its own, and with the name of its page.
fn without_help_after(command: &Command) -> Command {
    command.clone().after_help("").disable_help_subcommand(true)
}

/// Reads the lines below `Examples:` of a help text.
fn examples(help: &str) -> Vec<Example> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .take_while(|line| line.starts_with(' '))
        .map(|line| {
            let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
            Example { command: command.trim().to_owned(), comment: comment.trim().to_owned() }
        })
        .collect()
}

/// Reads `Exit codes: 0 fine, 1 findings of check, …` of a help text.
fn exit_codes(help: &str) -> Vec<(String, String)> {
    let text = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let list = text.split_once("Exit codes: ").map_or("", |(_, after)| after);
    let list = list.split_once(". ").map_or(list, |(list, _)| list).trim_end_matches('.');
    let codes = list.split(", ").filter_map(|item| item.split_once(' '));
    codes.map(|(code, meaning)| (code.to_owned(), meaning.to_owned())).collect()
}

/// Returns the variables of the flags of a command.
fn flag_variables(command: &Command) -> Vec<(String, String)> {
    let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
    let set = flags.filter_map(|flag| {
        let name = flag.get_env()?.to_string_lossy().into_owned();
        Some((name, format!("Value of --{}, where the flag is not given.", flag.get_long()?)))
    });
    set.collect()
}

/// Returns the files of the flags of a command: those whose default is a path.
fn flag_files(command: &Command) -> Vec<(String, String)> {
    let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
    let set = flags.filter_map(|flag| {
        let path = flag.get_default_values().first()?.to_string_lossy().into_owned();
        let help = flag.get_help()?.to_string();
        path.starts_with('/')
            .then(|| (path, format!("{} (--{}).", help.trim_end_matches('.'), flag.get_long().unwrap_or_default())))
    });
    set.collect()
}

impl Page {
    /// Returns the name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.1", self.name)
    }

    /// Returns the page.
    ///
    /// # Errors
    ///
    /// If it cannot be rendered.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.render(&mut text)?;
        Ok(text)
    }

    fn render(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let version = self.command.get_version().unwrap_or(env!("CARGO_PKG_VERSION"));
        let man = Man::new(self.command.clone().display_name(&self.name));
        // clap_mangen writes an empty date in a way that makes the source the date.
        writeln!(out, ".TH \"{}\" \"1\" \"{}\" \"{MANUAL} {version}\" \"{MANUAL}\"", self.name, self.date)?;
        man.render_name_section(out)?;
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        if self.command.get_arguments().any(|flag| !flag.is_hide_set()) {
            let mut options = Vec::new();
            man.render_options_section(&mut options)?;
            let options = String::from_utf8_lossy(&options);
            out.extend(breakable(&without_needless_breaks(&options)).into_bytes());
        }
        let mut more = Roff::new();
        self.subcommands(&mut more);
        self.examples(&mut more);
        terms(&mut more, "EXIT STATUS", &self.codes);
        terms(&mut more, "ENVIRONMENT", &self.variables);
        terms(&mut more, "FILES", &self.files);
        self.related(&mut more);
        more.to_writer(out)
    }

    fn subcommands(&self, roff: &mut Roff) {
        let below = self.command.get_subcommands().filter(|below| !below.is_hide_set());
        let terms_below: Vec<(String, String)> = below
            .map(|below| {
                let about = below.get_about().map(ToString::to_string).unwrap_or_default();
                (format!("{}-{}(1)", self.name, below.get_name()), about)
            })
            .collect();
        terms(roff, "COMMANDS", &terms_below);
    }

    fn examples(&self, roff: &mut Roff) {
        if self.examples.is_empty() {
            return;
        }
        roff.control("SH", ["EXAMPLES"]);
        for (place, Example { command, comment }) in self.examples.iter().enumerate() {
            // A section begins with a paragraph anyhow.
            if place > 0 {
                roff.control("PP", []);
            }
            if !comment.is_empty() {
                let colon = if comment.ends_with('?') { "" } else { ":" };
                roff.text([roman(format!("{comment}{colon}"))]);
            }
            roff.control("RS", ["4"]);
            roff.control("nf", []);
            roff.text([bold(command.as_str())]);
            roff.control("fi", []);
            roff.control("RE", []);
        }
    }

    fn related(&self, roff: &mut Roff) {
        if self.related.is_empty() {
            return;
        }
        roff.control("SH", ["SEE ALSO"]);
        let last = self.related.len() - 1;
        let names = self.related.iter().enumerate().flat_map(|(place, name)| {
            let end = if place == last { "(1)" } else { "(1), " };
            [bold(name.as_str()), roman(end)]
        });
        roff.text(names.collect::<Vec<_>>());
    }
}

/// Removes the breaks beside empty lines, which break a line themselves.
fn without_needless_breaks(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_empty = |place: Option<usize>| place.and_then(|place| lines.get(place)).is_some_and(|line| line.is_empty());
    let is_needless =
        |place: usize| lines[place] == ".br" && (is_empty(place.checked_sub(1)) || is_empty(Some(place + 1)));
    let kept = (0..lines.len()).filter(|place| !is_needless(*place)).map(|place| format!("{}\n", lines[place]));
    kept.collect()
}

/// Lets long lists be broken behind their commas: nothing else in them can be.
fn breakable(text: &str) -> String {
    const LONG: usize = 40;
    let broken = text.split_inclusive(char::is_whitespace).map(|word| match word.len() {
        0..LONG => word.to_owned(),
        _ => word.replace(',', ",\\:"),
    });
    broken.collect()
}

/// Writes a section with terms and what they mean.
fn terms(roff: &mut Roff, section: &str, terms: &[(String, String)]) {
    if terms.is_empty() {
        return;
    }
    roff.control("SH", [section]);
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([bold(term.as_str())]);
        roff.text([roman(meaning.as_str())]);
    }
}
