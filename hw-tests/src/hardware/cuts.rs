//! Power cuts: what an SSD with a volatile cache holds after one, made from the log that QEMU keeps
//! of all its writes and flushes.
//!
//! Ending QEMU loses nothing that was written: the host has it. So one run is logged to its end,
//! and cut afterwards, at any of its entries: all before the last flush is there, of what came
//! after it a random half. What the host had been told by then is in the same log, on a disk of
//! its own.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One write, discard or flush.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it went, in bytes.
    at: u64,
    len: u64,
    flags: u64,
    /// Where its data lie in the log.
    data: u64,
}

/// The log of a run (the format of Linux's dm-log-writes, version 1).
pub(crate) struct Log {
    file: File,
    entries: Vec<Entry>,
}

/// A cut: after so many entries, with so many writes lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) entry: usize,
    pub(crate) lost: usize,
}

impl Log {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut head = [0; 28];
        reader.read_exact(&mut head)?;
        ensure!(word(&head, 0) == MAGIC, "{} is no log of writes", path.display());
        let count = word(&head, 2);
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into()?));
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            reader.seek(SeekFrom::Start(at))?;
            let mut bytes = [0; 32];
            reader.read_exact(&mut bytes)?;
            let (start, sectors, flags) = (word(&bytes, 0), word(&bytes, 1), word(&bytes, 2));
            let len = sectors * sector;
            entries.push(Entry { at: start * sector, len, flags, data: at + sector });
            at += sector + if flags & DISCARD == 0 { len } else { 0 };
        }
        Ok(Self { file: File::open(path)?, entries })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first entry at or after byte `from` of the disk.
    pub(crate) fn first_write_from(&self, from: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.at >= from && entry.len > 0)
    }

    /// What the last write before the cut put at byte `at`, if there was one: eight bytes.
    pub(crate) fn last_word(&self, cut: usize, at: u64) -> Result<Option<u64>> {
        let covers = |entry: &&Entry| {
            entry.flags & DISCARD == 0 && entry.at <= at && at + 8 <= entry.at + entry.len
        };
        let Some(entry) = self.entries[..=cut].iter().rev().find(covers) else { return Ok(None) };
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, entry.data + (at - entry.at))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    /// Makes the disk's first `size` bytes as a cut after `entry` leaves them.
    pub(crate) fn cut(&self, entry: usize, seed: u64, image: &Path, size: u64) -> Result<Cut> {
        let file = File::create(image)?;
        file.set_len(size)?;
        let kept = &self.entries[..=entry];
        let flushed = kept.iter().rposition(|entry| entry.flags & FLUSH != 0);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut lost = 0;
        for (index, entry) in kept.iter().enumerate() {
            if entry.at >= size || entry.len == 0 {
                continue;
            }
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if flushed.is_none_or(|flushed| index > flushed) && state >> 63 == 1 {
                lost += 1;
                continue;
            }
            let mut bytes = vec![0; entry.len as usize];
            if entry.flags & DISCARD == 0 {
                self.file.read_exact_at(&mut bytes, entry.data)?;
            }
            file.write_all_at(&bytes, entry.at)?;
        }
        Ok(Cut { entry, lost })
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[index * 8..][..8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of these entries: sector, flags, and the byte that fills each of its sectors.
    fn log(name: &str, entries: &[(u64, u64, &[u8])]) -> (Log, std::path::PathBuf) {
        let mut bytes = Vec::new();
        let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        bytes.extend(words(&[MAGIC, 1, entries.len() as u64, 512]));
        bytes.resize(512, 0);
        for (sector, flags, data) in entries {
            let end = bytes.len() + 512;
            bytes.extend(words(&[*sector, data.len() as u64, *flags, 0]));
            bytes.resize(end, 0);
            if flags & DISCARD == 0 {
                data.iter().for_each(|byte| bytes.extend([*byte; 512]));
            }
        }
        let path = std::env::temp_dir().join(format!("cuts-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("room");
        (Log::open(&path).expect("a log"), path)
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_some_is_lost() {
        let mut entries: Vec<(u64, u64, &[u8])> =
            vec![(0, 0, &[1, 1]), (1, 0, &[2]), (0, FLUSH, &[])];
        entries.extend((2..34).map(|sector| (sector, 0, &[3_u8][..])));
        entries.push((1, DISCARD, &[0]));
        let (log, path) = log("flush", &entries);
        let image = path.with_extension("img");
        let cut = log.cut(34, 5, &image, 40 * 512).expect("cut");
        let bytes = std::fs::read(&image).expect("the image");
        assert_eq!((bytes[0], bytes[512]), (1, 2));
        let there = (2..34).filter(|sector| bytes[sector * 512] == 3).count();
        assert_eq!(there + cut.lost, 32);
        assert!(there > 4 && cut.lost > 4, "{cut:?}");
        assert_eq!(log.last_word(0, 512).expect("read"), Some(0x0101_0101_0101_0101));
        assert_eq!(log.last_word(1, 512).expect("read"), Some(0x0202_0202_0202_0202));
        assert_eq!(log.last_word(34, 39 * 512).expect("read"), None);
        assert_eq!((log.len(), log.first_write_from(1024)), (36, Some(3)));
        for file in [path, image] {
            std::fs::remove_file(file).expect("ours");
        }
    }
}
