//! What a plan says is what then happens: the order, the outcomes, and the time that it takes.

mod conditions;
mod order;
mod range;
mod site;
