//! `scontrol`, `squeue` and `scancel` of a simulated cluster: see [`crus_sim::stand_in`].

use std::process::ExitCode;

fn main() -> ExitCode {
    crus_sim::stand_in::main(std::env::args_os())
}
