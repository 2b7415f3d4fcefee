//! Sessions of open-iscsi: how they begin, what they agree on, what they live through.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{MIB, Outcome, TOOLS, lacking, step, unit};
use crate::bed::Bed;

/// What an initiator offers, and what is agreed on where that differs.
struct Offer {
    header_digest: &'static str,
    data_digest: &'static str,
    initial_r2t: bool,
    immediate_data: bool,
    first_burst: u32,
    burst: u32,
    /// Bytes of a data segment that the initiator receives.
    receive: u32,
}

const fn offer(digests: [&'static str; 2], flags: [bool; 2], lengths: [u32; 3]) -> Offer {
    let [header_digest, data_digest] = digests;
    let [initial_r2t, immediate_data] = flags;
    let [first_burst, burst, receive] = lengths;
    Offer { header_digest, data_digest, initial_r2t, immediate_data, first_burst, burst, receive }
}

/// open-iscsi's own first; then every pair of digests and of flags, the least lengths that there
/// are, and lengths that no page fits into.
const OFFERS: [Offer; 7] = [
    offer(["None", "None"], [false, true], [262_144, 16_776_192, 262_144]),
    offer(["CRC32C", "None"], [true, true], [4096, 8192, 4096]),
    offer(["None", "CRC32C"], [false, false], [65_536, 262_144, 65_536]),
    offer(["CRC32C", "CRC32C"], [true, false], [512, 1024, 512]),
    offer(["CRC32C,None", "None,CRC32C"], [false, true], [12_284, 16_380, 8192]),
    offer(["None,CRC32C", "CRC32C,None"], [true, true], [8000, 20_000, 6000]),
    offer(["CRC32C", "CRC32C"], [false, true], [65_536, 1_048_576, 16_777_212]),
];

/// What the node takes at most, and what it insists on.
const FIRST_BURST_MAX: u32 = 256 << 10;
const BURST_MAX: u32 = 1 << 20;

/// Discovery, login with many offers, data with each, a volume that grows, logout.
pub(crate) fn connect(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-connect", 64 * MIB, 512)?;
    step(bed, "head -c 1M /dev/urandom > /tmp/data")?;
    for (round, offer) in OFFERS.iter().enumerate() {
        negotiate(bed, lun, round, offer)
            .with_context(|| format!("with {}", offer.settings().join(" ")))?;
    }
    unasked(bed, lun)?;
    resize(bed, lun)?;
    Ok(Outcome::Passed)
}

/// All data of all writes come unasked, apart from their commands, with digests; every block is
/// verified.
fn unasked(bed: &Bed, lun: u32) -> Result<()> {
    step(
        bed,
        &format!(
            "login node.conn[0].iscsi.HeaderDigest=CRC32C node.conn[0].iscsi.DataDigest=CRC32C \
                 node.session.iscsi.InitialR2T=No node.session.iscsi.ImmediateData=No \
                 node.session.iscsi.FirstBurstLength=65536
             d=$(unit {lun})
             # What were merged would be longer than a first burst.
             echo 2 > /sys/block/${{d##*/}}/queue/nomerges
             fio --name=unasked --filename=$d --size=2M --rw=randwrite --bsrange=4k-64k \\
                 --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1
             counted() {{ iscsiadm -m session -s | sed -n \"s/^\\s*$1: //p\"; }}
             [ $(counted dataout_pdus) -ge 32 ]
             [ $(counted r2t_pdus) = 0 ]
             logout"
        ),
    )
    .context("with data that come unasked")
    .map(drop)
}

/// Logs in, sees that what was agreed on is right, writes and reads in many sizes, and reads what
/// the session before has left.
fn negotiate(bed: &Bed, lun: u32, round: usize, offer: &Offer) -> Result<()> {
    let said = step(
        bed,
        &format!(
            "login {settings}
             d=$(unit {lun})
             for name in header_digest data_digest initial_r2t immediate_data first_burst_len \
                     max_burst_len max_recv_dlength; do
                 session $name
             done
             [ {round} = 0 ] || dd if=$d bs=1M skip=$(({round} - 1)) count=1 iflag=direct \
                 status=none | cmp - /tmp/before
             at=0
             for blocks in 1 8 3 40 7 300 {rest}; do
                 dd if=/tmp/data of=$d bs=$((blocks * 512)) count=1 iflag=skip_bytes \
                     skip=$((at * 512)) oflag=direct,seek_bytes status=none \
                     seek=$((({round} * 2048 + at) * 512))
                 at=$((at + blocks))
             done
             head -c $((at * 512)) /tmp/data > /tmp/before
             truncate -s 1M /tmp/before
             dd if=$d bs=1M skip={round} count=1 iflag=direct status=none | cmp - /tmp/before
             dd if=$d bs=3584 skip=$(({round} * 1048576)) iflag=direct,skip_bytes count=20 \
                 status=none | cmp -n 71680 - /tmp/before
             logout",
            settings = offer.settings().join(" "),
            // Thousands of bursts teach nothing that hundreds do not.
            rest = if offer.burst < 4096 { 100 } else { 1689 },
        ),
    )?;
    let agreed: Vec<&str> = said.split_whitespace().collect();
    let expected = offer.agreed();
    ensure!(agreed == expected, "agreed on {agreed:?}, not on {expected:?}");
    Ok(())
}

impl Offer {
    /// For the record of open-iscsi.
    fn settings(&self) -> [String; 7] {
        let flag = |value| if value { "Yes" } else { "No" };
        [
            format!("node.conn[0].iscsi.HeaderDigest={}", self.header_digest),
            format!("node.conn[0].iscsi.DataDigest={}", self.data_digest),
            format!("node.session.iscsi.InitialR2T={}", flag(self.initial_r2t)),
            format!("node.session.iscsi.ImmediateData={}", flag(self.immediate_data)),
            format!("node.session.iscsi.FirstBurstLength={}", self.first_burst),
            format!("node.session.iscsi.MaxBurstLength={}", self.burst),
            format!("node.conn[0].iscsi.MaxRecvDataSegmentLength={}", self.receive),
        ]
    }

    /// As the kernel tells it, in the order in which it is asked. The node wants the first digest
    /// of a list that it knows.
    fn agreed(&self) -> [String; 7] {
        let digest = |offered: &str| u32::from(offered.starts_with("CRC32C"));
        [
            digest(self.header_digest),
            digest(self.data_digest),
            u32::from(self.initial_r2t),
            u32::from(self.immediate_data),
            self.first_burst.min(FIRST_BURST_MAX).min(self.burst),
            self.burst.min(BURST_MAX),
            self.receive,
        ]
        .map(|number| number.to_string())
    }
}

/// The volume grows under a session; the host sees it when it looks, and is told to look.
fn resize(bed: &mut Bed, lun: u32) -> Result<()> {
    step(bed, &format!("login; [ $(blockdev --getsize64 $(unit {lun})) = {} ]", 64 * MIB))?;
    bed.resize("iscsi-connect", 96 * MIB)?;
    step(
        bed,
        &format!(
            "d=$(unit {lun})
             grown() {{ [ $(blockdev --getsize64 $d) = {} ]; }}
             iscsiadm -m session --rescan > /dev/null
             until_true 20 grown
             dd if=/tmp/data of=$d bs=1M seek=95 oflag=direct status=none
             dd if=$d bs=1M skip=95 iflag=direct status=none | cmp - /tmp/data
             dd if=$d bs=1M skip=64 count=31 iflag=direct status=none | cmp -n 31M - /dev/zero
             logout
             [ ! -b $d ]",
            96 * MIB
        ),
    )?;
    Ok(())
}

/// LUN resets and kills of the node under a load that verifies every block.
pub(crate) fn faults(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-faults", 64 * MIB, 4096)?;
    step(bed, "login node.conn[0].iscsi.DataDigest=CRC32C")?;
    let disk = format!("{TOOLS}\nd=$(unit {lun})");
    let load = bed.verified_load(&disk)?;
    for _ in 0..4 {
        sleep(Duration::from_millis(1500));
        step(bed, &format!("sg_reset --device $(unit {lun})"))?;
    }
    bed.end_load(load).context("with LUN resets")?;
    let load = bed.verified_load(&disk)?;
    for pause in [1, 3] {
        sleep(Duration::from_secs(2));
        bed.kill_and_restart(Duration::from_secs(pause))?;
        step(bed, "until_true 60 logged_in")?;
    }
    bed.end_load(load).context("with kills")?;
    step(bed, "logout")?;
    // The kernel says which connection was lost, and that it was reset.
    bed.forgive()?;
    Ok(Outcome::Passed)
}
