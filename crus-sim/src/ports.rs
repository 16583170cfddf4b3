//! The model behind the ports of `crus-core`.
