//! Each option of a strategy, each order of an operator, and combinations that could surprise, in virtual time.
//!
//! The world itself checks the promises after every step; a scenario says what else must be so in the end.

mod checks;
mod drains;
mod limits;
mod mutants;
mod orders;
mod reviewed;
mod soak;
mod support;
