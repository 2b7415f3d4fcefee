//! What the node does with disks that it drives itself.

use anyhow::{Result, ensure};

use serde_json::json;

use super::machine::{Machine, Ssd};
use crate::bed::Maker;
use crate::scenario::Outcome;

/// A volume on a node on the first SSD, seen as a block device.
const SERVE: &str = "
    $B disk bind 0000:01:00.0
    $B disk format pci:0000:01:00.0 --shards 2
    configure pci:0000:01:00.0 1
    start
    $B host allow '*'
    $B volume create v 256MiB --uuid $UUID
    connect --nr-io-queues=2
    device";

/// VFIO alone: two devices in one address space, an interrupt, resets, once more after they were
/// given back, a killed owner, and a device that is pulled while it is held.
pub(crate) fn raw(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain(), Ssd::plain()])?.finish(|machine| {
        let printed = machine.run(
            "# raw
            ! $C raw 0000:01:00.0 2> /tmp/refused
            grep -q 'driven by nvme; give it up with' /tmp/refused
            $B disk bind 0000:01:00.0 > /dev/null
            $B disk bind 0000:02:00.0 > /dev/null
            $C raw 0000:01:00.0 0000:02:00.0
            for _ in 1 2 3; do
                $C hold 0000:01:00.0 > /tmp/held & p=$!
                until grep -q held /tmp/held; do sleep 0.05; done
                ! $B disk unbind 0000:01:00.0 2> /tmp/refused
                grep -q 'a program drives it' /tmp/refused
                kill -9 $p
                $C raw 0000:01:00.0
            done
            echo 0 > /proc/sys/vm/nr_hugepages
            $C raw 0000:01:00.0",
        )?;
        ensure!(printed.matches("interrupt: yes").count() >= 8, "interrupts: {printed}");
        let mut qmp = machine.qmp()?;
        machine.run("setsid $C hold 0000:02:00.0 > /run/held 2>&1 < /dev/null &\nsleep 2")?;
        qmp.run("device_del", json!({ "id": "ssd2" }))?;
        qmp.wait_for("DEVICE_DELETED", "ssd2")?;
        let said = machine.run("# pulled\ncat /run/held")?;
        ensure!(said.contains("wanted: Leaving"), "{said}");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Bind, format, serve, connect, verify, check; and back to the kernel.
pub(crate) fn first(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        machine.run(
            r#"# bind refuses what is in use, and is idempotent
            mke2fs -q -t ext4 /dev/nvme0n1
            mount /dev/nvme0n1 /mnt
            ! $B disk bind 0000:01:00.0 2> /tmp/refused
            grep -q 'is mounted at /mnt' /tmp/refused
            umount /mnt
            $B disk bind 0000:01:00.0
            $B disk bind 0000:01:00.0 | grep -q 'was already given to vfio-pci'
            [ "$(basename $(readlink /sys/bus/pci/devices/0000:01:00.0/driver))" = vfio-pci ]
            ! $B disk format pci:0000:01:00.0 2> /tmp/refused
            grep -q 'ext2, ext3 or ext4' /tmp/refused
            $B disk format pci:0000:01:00.0 --force
            ! $B disk format pci:0000:01:00.0 2> /tmp/refused
            grep -q 'a Basalt disk' /tmp/refused
            $B disk unbind 0000:01:00.0
            [ -b /dev/nvme0n1 ]
            $B disk list /dev/nvme0n1 --output json > /tmp/list
            jq -e '.[0] | .driver == "nvme" and .pci == "0000:01:00.0" and .serial == "SSD1"
                and .verdict == "good" and .temperature != 0 and .uuid' /tmp/list
            # The kernel left nothing behind that would keep the disk from being formatted anew.
            dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=2 oflag=direct status=none
            blkdiscard -f /dev/nvme0n1"#,
        )?;
        let device = machine.run(SERVE)?;
        let device = device.lines().last().unwrap_or_default().trim();
        ensure!(device.starts_with("/dev/nvme"), "no device: {device}");
        machine.run(&format!(
            "# verify
            fio --name=v --filename={device} --rw=randrw --bsrange=4k-128k --size=64M \
                --io_size=48M --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c \
                --verify_fatal=1 --randseed=7 > /tmp/fio || {{ cat /tmp/fio; false; }}
            ! $B disk unbind 0000:01:00.0 2> /tmp/refused
            grep -q 'a program drives it' /tmp/refused
            $B disk list --output json | jq -e '.[] | select(.pci == \"0000:01:00.0\")
                | .driver == \"vfio-pci\" and .used_by == \"the running node\"
                and (.cores | length) > 0'
            nvme disconnect-all
            stop
            $B disk check pci:0000:01:00.0
            $B disk unbind 0000:01:00.0
            $B disk list /dev/nvme0n1 | grep -q basalt"
        ))?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}
