//! What a core runs on: mailboxes between cores, and timers.
