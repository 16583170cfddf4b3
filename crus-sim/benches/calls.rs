//! Counts what an upgrade of 1000 nodes in steps of 50 costs its peers, next to what it cost the original.
#![expect(clippy::print_stdout, reason = "a benchmark reports")]

#[expect(dead_code, clippy::unwrap_used, clippy::panic, reason = "the scenarios use the rest, and may panic")]
mod common;

use common::thousand::{NODES, POLLS, STEP_SIZE};

fn main() -> Result<(), crus_sim::world::Stuck> {
    let cost = common::thousand::run()?;
    println!("{NODES} nodes in steps of {STEP_SIZE}, {POLLS} polls to drain and {POLLS} to return:\n");
    println!("{:<32}{:>10}{:>10}   {:<20}", "", "here", "limit", "the original");
    println!(
        "{:<32}{:>10}{:>10}   {:<20}",
        "scontrol and squeue processes", cost.wlm, 1_400, "33,580 to 62,000"
    );
    println!("{:<32}{:>10}{:>10}   {:<20}", "HSM calls", cost.hsm, 2_200, "3,924");
    println!("{:<32}{:>10}{:>10}   {:<20}", "BOS calls", cost.bos, "", "");
    println!(
        "{:<32}{:>9}s{:>10}   {:<20}",
        "beyond what is waited for",
        cost.own_ms / 1000,
        "",
        "11,600 s of pauses"
    );
    println!("{:<32}{:>9}s", "virtual time in all", cost.took_ms / 1000);
    println!("\nby method:");
    for (method, calls) in &cost.calls {
        println!("  {method:<24}{calls:>8}");
    }
    Ok(())
}
