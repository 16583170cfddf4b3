//! What is shipped: the version that it says it is, and the files of `crus-server/packaging`.

mod chart;
mod sandbox;
mod unit;
mod version;
