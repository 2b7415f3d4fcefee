//! What a core runs on: mailboxes between cores, and timers.

pub mod mailbox;
pub mod timer;
