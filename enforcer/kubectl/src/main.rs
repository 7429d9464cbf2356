//! The program that kubectl runs as `kubectl host-ports`.

use std::process::ExitCode;

fn main() -> ExitCode {
    enforcer_kubectl::main()
}
