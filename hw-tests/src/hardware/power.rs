//! The scenario of [`super::cuts`]: 50 moments of one run, each recovered and audited.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::cuts::Log;
use super::machine::{Machine, Namespace, Ssd};
use crate::bed::Maker;
use crate::scenario::Outcome;

/// Moments.
const CUTS: usize = 50;
/// Images in one machine.
const IMAGES_MAX: usize = 25;
/// Of the SSD, in MiB; the disk that notes what was acknowledged follows it in the log.
const SSD_MIB: u64 = 320;
/// Writers, each with blocks of its own, and rounds over them.
const WRITERS: u64 = 8;
const BLOCKS: u64 = 16;
const WRITES: u64 = 200;

/// Cuts the power of a run at random moments; whatever was acknowledged by then must be there.
pub(crate) fn cut(maker: &mut Maker) -> Result<Outcome> {
    let namespace = Namespace { mib: SSD_MIB, ..Namespace::PLAIN };
    let logged = Ssd { namespaces: vec![namespace], logged: true };
    let machine = Machine::boot(maker, &[logged])?;
    machine.run(&format!(
        "# run
        $B disk bind 0000:01:00.0
        $B disk format pci:0000:01:00.0 --shards 2
        configure pci:0000:01:00.0 1
        start
        $B host allow '*'
        $B volume create v 64MiB --uuid $UUID
        connect --nr-io-queues=2
        d=$(device)
        for a in /sys/block/vd*; do [ \"$(cat $a/serial)\" = ack ] && break; done
        $C ledger $d /dev/${{a##*/}} {WRITERS} {BLOCKS} {WRITES}"
    ))?;
    machine.check()?;
    let log_path = machine.file("ssd1.log");
    let folder = machine.file("cuts");
    // Ends QEMU: the log is whole.
    drop(machine);
    let log = Log::open(&log_path)?;
    fs::create_dir_all(&folder)?;
    let size = SSD_MIB << 20;
    let first = log.first_write_from(size).context("nothing was acknowledged")?;
    let mut lost = 0;
    let mut images = Vec::new();
    for number in 0..CUTS {
        // Spread over the run, and shaken.
        let span = (log.len() - first) / CUTS;
        let shake = (number * 7919) % span.max(1);
        let image = folder.join(format!("{number}.img"));
        let cut = log.cut(first + number * span + shake, number as u64 + 1, &image, size)?;
        lost += cut.lost;
        images.push((image, cut.entry));
    }
    println!("{CUTS} cuts of {} entries; {lost} unflushed writes lost", log.len());
    ensure!(lost > CUTS / 2, "too few writes were lost to show anything");
    for part in images.chunks(IMAGES_MAX) {
        let ssd = Ssd::of(&vec![namespace; part.len()]);
        let files: Vec<_> = part.iter().map(|(image, _)| image.clone()).collect();
        let machine = Machine::boot_on(maker, &[ssd], &files)?;
        machine.finish(|machine| {
            machine.run("# bind\n$B disk bind 0000:01:00.0")?;
            for (index, (_, entry)) in part.iter().enumerate() {
                audit(machine, &log, index + 1, *entry)?;
            }
            Ok(())
        })?;
    }
    fs::remove_dir_all(folder)?;
    fs::remove_file(log_path)?;
    Ok(Outcome::Passed)
}

/// Recovers one image and compares it with what had been acknowledged.
fn audit(machine: &Machine, log: &Log, namespace: usize, entry: usize) -> Result<()> {
    let printed = machine.run(&format!(
        "# audit
        configure pci:0000:01:00.0 {namespace}
        start
        connect --nr-io-queues=1
        $C audit $(device) {}
        nvme disconnect-all > /dev/null
        stop
        $B disk check pci:0000:01:00.0/{namespace} > /tmp/check || {{ cat /tmp/check; false; }}",
        WRITERS * BLOCKS
    ))?;
    let found: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("block ")).collect();
    ensure!(found.len() as u64 == WRITERS * BLOCKS, "{printed}");
    for writer in 0..WRITERS {
        let noted = log.last_word(entry, (SSD_MIB << 20) + writer * 4096)?.unwrap_or(0);
        for block in 0..BLOCKS {
            let shown = found[(writer * BLOCKS + block) as usize];
            // The newest acknowledged write of this block; the next one may be there or not.
            let newest = (0..=noted).rev().take(BLOCKS as usize).find(|w| w % BLOCKS == block);
            let newest = newest.unwrap_or(0);
            let next = noted + 1;
            let allowed = [newest, if next % BLOCKS == block { next } else { newest }];
            let is_good = allowed.iter().any(|write| shown == write.to_string());
            ensure!(
                is_good,
                "cut after entry {entry}: block {block} of writer {writer} holds {shown}, not one \
                 of {allowed:?}"
            );
        }
        ensure!(noted <= WRITES, "{noted} writes were noted");
    }
    Ok(())
}
