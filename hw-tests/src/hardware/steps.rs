//! Steps that scenarios on SSDs and on SATA drives share.

use anyhow::{Result, ensure};
use serde_json::json;

use super::machine::Machine;
use super::qmp::Qmp;

/// A disk behind the first root port, as each side names it.
pub(super) struct Place {
    /// For the command line of the node.
    pub(super) device: &'static str,
    /// In a node's configuration: which of a controller's disks it is, and its number.
    pub(super) key: &'static str,
    pub(super) number: u32,
    /// QEMU's block node, with `-base` another below it.
    pub(super) node: &'static str,
    /// What the operator says beyond the name to every command that opens it; also in the node's
    /// configuration.
    pub(super) word: &'static str,
}

/// Starts a node with a volume on the disk, and connects: the block device.
pub(super) fn serve(machine: &Machine, place: &Place) -> Result<String> {
    let Place { device, key, number, word, .. } = place;
    let printed = machine.run(&format!(
        "# serve
        WORD={word}
        $B disk bind 0000:01:00.0 $WORD
        $B disk format {device} --shards 2 --force $WORD > /tmp/formatted
        grep -q '^{key} = {number}' /tmp/formatted
        configure pci:0000:01:00.0 {number} {key}
        start
        $B host allow '*'
        $B volume create v 256MiB --uuid $UUID
        connect --nr-io-queues=2
        device"
    ))?;
    device_of(&printed)
}

/// As [`serve`], a disk of the kernel's by this path, with these lines about it besides.
pub(super) fn serve_path(machine: &Machine, path: &str, lines: &str) -> Result<String> {
    let printed = machine.run(&format!(
        r#"# serve
        $B disk format {path} --shards 2 --force
        configure pci:0000:01:00.0 1
        sed -i -e 's|^device = .*|path = "{path}"\n{lines}|' -e '/^namespace/d' /run/node.toml
        start
        $B host allow '*'
        $B volume create v 256MiB --uuid $UUID
        connect --nr-io-queues=2
        device"#
    ))?;
    device_of(&printed)
}

/// The block device of the host, which the last line of a script tells (`device`).
pub(super) fn device_of(printed: &str) -> Result<String> {
    let device = printed.lines().last().unwrap_or_default().trim();
    ensure!(device.starts_with("/dev/nvme"), "no device: {printed}");
    Ok(device.to_owned())
}

/// Kills the node ten times under a verified load, and starts it again.
pub(super) fn ten_kills(machine: &Machine, place: &Place) -> Result<()> {
    let block = serve(machine, place)?;
    kills(machine, &block, 10)?;
    let Place { device, word, .. } = place;
    machine.run(&format!("# end\nnvme disconnect-all; stop; $B disk check {device} {word}"))?;
    Ok(())
}

/// Kills the node some times under a verified load, and starts it again.
pub(super) fn kills(machine: &Machine, block: &str, count: u32) -> Result<()> {
    let load = machine.start(&format!(
        "# load
        fio --name=v --filename={block} --rw=randwrite --bs=4k --size=32M --io_size=24M \
            --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
            --rate_iops=250 --randseed=3 > /tmp/fio || {{ cat /tmp/fio; false; }}"
    ))?;
    for _ in 0..count {
        machine.run("# kill\nsleep 1; crash; start")?;
    }
    machine.guest.finish(load).map(drop)
}

/// Some blocks go bad: reads of these fail, and of no others.
pub(super) fn bad_blocks(machine: &Machine, place: &Place) -> Result<()> {
    const BAD: [u64; 3] = [0, 5 << 20, (63 << 20) + 4096];
    let Place { number, node, .. } = place;
    machine.run("# bind\n$B disk bind 0000:01:00.0")?;
    let scan =
        format!("# scan\n$C scan 0000:01:00.0/{number} > /tmp/scan; grep bad /tmp/scan || true");
    let clean = machine.run(&scan)?;
    ensure!(clean.is_empty(), "{clean}");
    let errors = BAD.map(
        |offset| json!({ "event": "none", "iotype": "read", "errno": 5, "sector": offset / 512 }),
    );
    let bad = json!({ "driver": "blkdebug", "node-name": "bad", "image": format!("{node}-base"),
        "inject-error": errors });
    let mut qmp = machine.qmp()?;
    qmp.run("blockdev-add", bad)?;
    reopen(&mut qmp, place, "bad")?;
    let found = machine.run(&scan)?;
    let mut expected = BAD.map(|offset| format!("bad {offset}"));
    expected.sort();
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    ensure!(found == expected, "these failed: {found:?}; these are bad: {expected:?}");
    Ok(())
}

/// Pulls the second SSD while a program holds it: it is told, and lets go.
pub(super) fn pull_held(machine: &Machine) -> Result<()> {
    let mut qmp = machine.qmp()?;
    machine.run("setsid $C hold 0000:02:00.0 > /run/held 2>&1 < /dev/null &\nsleep 2")?;
    qmp.run("device_del", json!({ "id": "ssd2" }))?;
    qmp.wait_for("DEVICE_DELETED", "ssd2")?;
    let said = machine.run("# pulled\ncat /run/held")?;
    ensure!(said.contains("wanted: Leaving"), "{said}");
    Ok(())
}

/// Puts another node below the disk.
pub(super) fn reopen(qmp: &mut Qmp, place: &Place, below: &str) -> Result<()> {
    let top = json!({ "driver": "raw", "node-name": place.node, "file": below });
    qmp.run("blockdev-reopen", json!({ "options": [top] })).map(drop)
}
