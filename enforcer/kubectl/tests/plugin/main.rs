//! The program as a user runs it: against an API server over HTTP, with and without agents' ledgers. The program itself
//! has nothing of Linux in it; the API server of the tests has.

#[cfg(target_os = "linux")]
mod action;
#[cfg(target_os = "linux")]
mod answers;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod completion;
#[cfg(target_os = "linux")]
mod page;
#[cfg(target_os = "linux")]
mod policy_reports;
#[cfg(target_os = "linux")]
mod refusals;
#[cfg(target_os = "linux")]
mod requests;
#[cfg(target_os = "linux")]
mod skill;
#[cfg(target_os = "linux")]
mod suggest;

/// A test: its name, and what it does. It panics to fail.
#[cfg(target_os = "linux")]
type Test = (&'static str, fn());

#[cfg(target_os = "linux")]
fn main() {
    use libtest_mimic::{Arguments, Trial};

    let tests = [
        ("answers", answers::TESTS),
        ("check", check::TESTS),
        ("completion", completion::TESTS),
        ("policy_reports", policy_reports::TESTS),
        ("refusals", refusals::TESTS),
        ("requests", requests::TESTS),
        ("suggest", suggest::TESTS),
    ];
    let mut trials: Vec<Trial> = tests
        .into_iter()
        .flat_map(|(subject, tests)| tests.iter().map(move |test| (subject, test)))
        .map(|(subject, &(name, run))| {
            Trial::test(format!("{subject}::{name}"), move || {
                run();
                Ok(())
            })
        })
        .collect();
    trials.extend(action::trials());
    trials.extend(page::trials());
    trials.extend(skill::trials());
    trials.extend(suggest::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

#[cfg(not(target_os = "linux"))]
fn main() {}
