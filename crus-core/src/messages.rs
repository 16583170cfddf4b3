//! Every text that people read: the messages of a session, the reasons in the workload manager.
//!
//! The wording of the messages is that of the original service wherever it had one, because operators'
//! scripts look for it.
