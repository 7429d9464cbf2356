//! The pages of both programs: there is one for each command, with what a reader looks for, and the formatters of manual
//! pages have nothing to say about it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use enforcer_manual::{Program, page::pages, programs, write};
use libtest_mimic::{Arguments, Completion, Trial};
use tempfile::TempDir;

/// Date of the pages.
const DATE: &str = "2026-11-30";

fn main() {
    let tests: [(&str, fn()); 5] = [
        ("every_command_has_a_page", every_command_has_a_page),
        ("page_has_the_sections_of_its_command", page_has_the_sections_of_its_command),
        ("examples_are_commands_of_the_program", examples_are_commands_of_the_program),
        ("same_sources_give_the_same_bytes", same_sources_give_the_same_bytes),
        ("completions_know_every_command", completions_know_every_command),
    ];
    let mut trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, run)| {
            Trial::test(name, move || {
                run();
                Ok(())
            })
        })
        .collect();
    for (formatter, arguments) in
        [("groff", &["-man", "-ww", "-z", "-Tutf8"][..]), ("mandoc", &["-Tlint", "-Wwarning"])]
    {
        trials.push(Trial::ignorable_test(format!("{formatter}_has_no_complaint"), move || {
            let found = Command::new(formatter).arg("--version").stdin(Stdio::null()).output();
            if found.is_err() {
                return Ok(Completion::ignored_with(format!("{formatter} is not installed")));
            }
            has_no_complaint(formatter, arguments);
            Ok(Completion::Completed)
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn written() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), DATE).expect("writing the pages");
    folder
}

/// The names of the pages that a program has to have.
fn names(command: &clap::Command, name: &str, names: &mut BTreeSet<String>) {
    names.insert(format!("{name}.1"));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        self::names(below, &format!("{name}-{}", below.get_name()), names);
    }
}

fn every_command_has_a_page() {
    let mut expected = BTreeSet::new();
    for Program { file, command, .. } in programs() {
        names(&command, file, &mut expected);
    }
    assert!(expected.contains("enforcer-boot-install.1") && expected.contains("kubectl-host_ports-why.1"));
    let folder = written();
    let found = fs::read_dir(folder.path().join("man/man1")).expect("pages");
    let found: BTreeSet<String> =
        found.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    assert_eq!(found, expected);
}

fn texts() -> Vec<(String, String)> {
    let folder = written();
    let entries = fs::read_dir(folder.path().join("man/man1")).expect("pages").map(|entry| entry.expect("an entry"));
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, fs::read_to_string(entry.path()).expect("a page"))
    };
    entries.map(read).collect()
}

fn section<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) =
        page.split_once(&format!("\n.SH {name}\n")).or_else(|| page.split_once(&format!("\n.SH \"{name}\"\n")))?;
    Some(after.split("\n.SH").next().unwrap_or_default())
}

fn page_has_the_sections_of_its_command() {
    for (name, page) in texts() {
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"] {
            assert!(section(&page, part).is_some_and(|text| !text.trim().is_empty()), "{name}: {part}: {page}");
        }
        let status = section(&page, "EXIT STATUS").expect("a section");
        for code in 0..=4 {
            assert!(status.contains(&format!("\\fB{code}\\fR")), "{name}: {status}");
        }
        let head = format!(".TH \"{}\" \"1\" \"{DATE}\" \"port-enforcer ", name.trim_end_matches(".1"));
        assert!(page.starts_with(&head), "{name}: {page}");
        assert!(!page.contains("Exit codes:") && !page.contains("Examples:"), "{name}: said twice");
    }
    let run = texts().into_iter().find(|(name, _)| name == "enforcer-run.1").expect("a page").1;
    assert!(section(&run, "ENVIRONMENT").is_some_and(|text| text.contains("ENFORCER_MODE")), "{run}");
    assert!(section(&run, "FILES").is_some_and(|text| text.contains("/run/port\\-enforcer/admin.sock")), "{run}");
}

/// What is shown as an example begins with a command of the program, or with one that is piped into it.
fn examples_are_commands_of_the_program() {
    let mut count = 0;
    for (name, page) in texts() {
        let Some(examples) = section(&page, "EXAMPLES") else { continue };
        for line in examples.lines().filter(|line| line.starts_with("\\fB")) {
            count += 1;
            let own = if name.starts_with("enforcer") { "enforcer " } else { "kubectl " };
            assert!(line.contains(own), "{name}: {line}");
            assert!(!line.contains(" # "), "{name}: {line}");
        }
    }
    assert!(count > 40, "{count} examples were found");
    for program in programs() {
        assert_eq!(pages(&program, DATE)[0].file_name(), format!("{}.1", program.file));
    }
}

fn same_sources_give_the_same_bytes() {
    let (one, two) = (written(), written());
    let paths = write(one.path(), DATE).expect("written again");
    assert!(paths.len() > 20 && paths.is_sorted(), "{paths:?}");
    for path in paths {
        let read = |folder: &Path| fs::read(folder.join(&path)).expect("a file");
        assert_eq!(read(one.path()), read(two.path()), "{}", path.display());
    }
}

fn completions_know_every_command() {
    let folder = written();
    for Program { file, command, .. } in programs() {
        for name in [format!("{file}.bash"), format!("{file}.fish"), format!("_{file}"), format!("{file}.elv")] {
            let script = fs::read_to_string(folder.path().join("completions").join(&name)).expect("a script");
            for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
                assert!(script.contains(below.get_name()), "{name}: {}", below.get_name());
            }
        }
    }
}

fn has_no_complaint(formatter: &str, arguments: &[&str]) {
    let folder = written();
    for entry in fs::read_dir(folder.path().join("man/man1")).expect("pages") {
        let path = entry.expect("an entry").path();
        let output = Command::new(formatter).args(arguments).arg(&path).output().expect("the formatter");
        let complaint = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && complaint.is_empty(), "{}: {complaint}", path.display());
    }
}
