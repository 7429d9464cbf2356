//! Writing answers.

pub(crate) mod html;
pub(crate) mod table;

use std::io::{self, Write as _};

use serde::Serialize;

use crate::{cli::AnswerFormat, failure::Failure};

/// Encoding for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// Encodes an answer for programs.
pub(crate) fn encode(answer: &impl Serialize, encoding: Encoding) -> Result<String, Failure> {
    match encoding {
        Encoding::Json => serde_json::to_string_pretty(answer).map(|text| text + "\n").map_err(Failure::runtime),
        Encoding::Yaml => serde_saphyr::to_string(answer).map_err(Failure::runtime),
    }
}

/// Writes an answer: `message` for people, all of it for programs.
pub(crate) fn answer(answer: &impl Serialize, message: &str, format: AnswerFormat) -> Result<(), Failure> {
    print(&match format {
        AnswerFormat::Text => format!("{message}\n"),
        AnswerFormat::Json => encode(answer, Encoding::Json)?,
        AnswerFormat::Yaml => encode(answer, Encoding::Yaml)?,
    })
}

/// Writes to standard output. A reader that does not read to the end is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes notes to standard error, so that they are in no table and no JSON.
pub(crate) fn notes(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}
