//! One reservation table for a volume, whichever protocol its hosts speak.
//!
//! NVMe reservations (NVM Express Base 2.1, section 8.1.22) and SCSI-3 persistent reservations
//! (SPC-4, section 5.13) are two views of it: a volume reserved through one is respected through
//! the other. No I/O and no clock here: orders go in; results, records to keep and registrants to
//! notify come out.
#![forbid(unsafe_code)]
