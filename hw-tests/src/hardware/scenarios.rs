//! What the node does with disks that it drives itself.

use anyhow::{Result, ensure};

use serde_json::json;

use super::machine::{Machine, Namespace, Ssd};
use super::steps::{self, Place};
use crate::bed::Maker;
use crate::scenario::Outcome;

/// The first namespace of the first SSD.
pub(super) const SSD: &Place =
    &Place { device: "pci:0000:01:00.0", key: "namespace", number: 1, node: "disk1-1", word: "" };

/// The suite of every driver on namespaces of all kinds; and our own driver's reads of bad blocks.
pub(crate) fn conformance(maker: &mut Maker) -> Result<Outcome> {
    let of = |mib, block, metadata| Namespace { mib, block, metadata };
    let ssds = [
        Ssd::of(&[of(128, 512, 0)]),
        Ssd::of(&[of(128, 4096, 0), of(128, 4096, 8)]),
        Ssd::of(&[of(128, 512, 0), of(128, 512, 8), of(128, 4096, 0), of(128, 4096, 64)]),
    ];
    Machine::boot(maker, &ssds)?.finish(|machine| {
        machine.run("# bind\nfor a in 1 2 3; do $B disk bind 0000:0$a:00.0; done")?;
        for (number, ssd) in ssds.iter().enumerate() {
            for namespace in 1..=ssd.namespaces.len() {
                let name = format!("0000:0{}:00.0/{namespace}", number + 1);
                let printed = machine.run(&format!("# conformance\n$C conformance {name}"))?;
                ensure!(printed.contains("passed"), "{printed}");
            }
        }
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Some blocks go bad while the disk is in use: these fail, and no others; then it becomes slow,
/// and only that.
pub(crate) fn media(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        steps::bad_blocks(machine, SSD)?;
        let mut qmp = machine.qmp()?;
        let slow = json!({ "qom-type": "throttle-group", "id": "slow",
            "limits": { "iops-total": 400 } });
        qmp.run("object-add", slow)?;
        let throttled = json!({ "driver": "throttle", "node-name": "slowed",
            "throttle-group": "slow", "file": "disk1-1-base" });
        qmp.run("blockdev-add", throttled)?;
        steps::reopen(&mut qmp, SSD, "slowed")?;
        let printed = machine.run("# slow\n$C conformance 0000:01:00.0/1")?;
        ensure!(printed.contains("passed"), "{printed}");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// A core whose disk is slow sleeps while it waits, with the queue's interrupt armed.
pub(crate) fn idle(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        let device = steps::serve(machine, SSD)?;
        let mut qmp = machine.qmp()?;
        let slow = json!({ "qom-type": "throttle-group", "id": "slow",
            "limits": { "iops-total": 40 } });
        qmp.run("object-add", slow)?;
        let throttled = json!({ "driver": "throttle", "node-name": "slowed",
            "throttle-group": "slow", "file": "disk1-1-base" });
        qmp.run("blockdev-add", throttled)?;
        steps::reopen(&mut qmp, SSD, "slowed")?;
        let printed = machine.run(&format!(
            "# slow
            dd if=/dev/urandom of={device} bs=4k count=2000 oflag=direct status=none & p=$!
            sleep 2
            $B stat --count 1 --interval 5 --output json | jq '.cores[0].asleep'
            for _ in $(seq 200); do cat /proc/interrupts; done | grep -c 'vfio-msix' || true
            kill $p"
        ))?;
        let mut lines = printed.lines();
        let asleep: f64 = lines.next().unwrap_or_default().trim().parse()?;
        let armed: u32 = lines.next().unwrap_or_default().trim().parse()?;
        ensure!(asleep > 0.5, "asleep {asleep} of the time, with a disk of 40 operations a second");
        ensure!(armed > 0, "the interrupt was never seen armed");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Ten times killed under a verified load, and started again.
pub(crate) fn restart(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| steps::ten_kills(machine, SSD))?;
    Ok(Outcome::Passed)
}

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
        steps::pull_held(machine)
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
                and .verdict == "good" and .health.temperature != 0 and .uuid' /tmp/list"#,
        )?;
        let device = steps::serve(machine, SSD)?;
        machine.run(&format!(
            "# verify
            fio --name=v --filename={device} --rw=randrw --bsrange=4k-128k --size=64M \
                --io_size=48M --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c \
                --verify_fatal=1 --randseed=7 > /tmp/fio || {{ cat /tmp/fio; false; }}
            ! $B disk unbind 0000:01:00.0 2> /tmp/refused
            grep -q 'a program drives it' /tmp/refused
            $B disk list --output json | jq -e '.[] | select(.pci == \"0000:01:00.0\")
                | .driver == \"vfio-pci\" and .used_by == \"the running node\"
                and (.cores | length) > 0 and .access == \"basalt\" and .serial == \"SSD1\"
                and .verdict == \"good\" and .health.temperature != null'
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
