//! What the process ends with, for scripts: these numbers do not change.

/// Done; of an upgrade that was followed: every node was upgraded.
pub(crate) const OK: u8 = 0;
/// The service did not do it, or could not be reached.
pub(crate) const FAILED: u8 = 1;
/// What was asked for makes no sense: the command line, the configuration, or a request that the service found wrong.
pub(crate) const MISUSED: u8 = 2;
/// The upgrade is done, and not every node was upgraded.
pub(crate) const NOT_ALL: u8 = 3;
/// The session was deleted before it was done.
pub(crate) const DELETED: u8 = 4;
/// The session is paused, and `--exit-on-pause` was given.
pub(crate) const PAUSED: u8 = 5;
/// Somebody pressed Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// Nobody reads the output any more.
pub(crate) const CLOSED: u8 = 141;

/// The end of the help of each command of the client, and a section of its manual page.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done; with watch and --wait: every node was upgraded
  1    the service did not do it, or could not be reached
  2    the command line, the configuration or the request is wrong
  3    the upgrade is done, and nodes failed or were skipped;
       with plan: it could not begin as things are, or nodes would be lost
  4    the session was deleted while it was followed
  5    the session is paused, and --exit-on-pause was given
  130  interrupted (Ctrl-C); what the service does goes on
  141  the output was closed while an upgrade was followed";
