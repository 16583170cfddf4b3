//! The binary `crus`.

use std::process::ExitCode;

fn main() -> ExitCode {
    crus_server::cli::main()
}
