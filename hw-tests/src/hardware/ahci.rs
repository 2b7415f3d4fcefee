//! SATA drives that the node drives itself.
//!
//! QEMU's drives cannot be plugged while the machine runs, only their adapter as a whole, and an
//! adapter that is plugged has none; so what comes back does so with the next boot.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::adapter::{Adapter, Sata};
use super::machine::Machine;
use super::steps::{self, Place};
use crate::bed::Maker;
use crate::scenario::Outcome;

/// The first drive of the first adapter.
const DRIVE: &Place =
    &Place { device: "pci:0000:01:00.0/0", key: "port", number: 0, node: "sata1-0", word: "" };

/// The suite of every driver on drives with physical blocks of 512 and 4096 bytes; trims reach the
/// medium; drives tell what they are, whoever drives them.
pub(crate) fn conformance(maker: &mut Maker) -> Result<Outcome> {
    let drive = |physical, turns| Sata { mib: 128, physical, turns };
    let adapters = [Adapter::of(&[drive(512, 1), drive(4096, 7200)])];
    Machine::boot_adapters(maker, &adapters)?.finish(|machine| {
        machine.run(
            r#"# identify
            $B disk identify 0000:01:00.0 --output json > /tmp/kernel
            $B disk bind 0000:01:00.0
            $B disk identify 0000:01:00.0 --output json > /tmp/ours
            for f in kernel ours; do
                jq -e 'length == 2 and .[0].serial == "SATA10" and .[1].serial == "SATA11"
                    and .[0].model == "QEMU HARDDISK" and .[0].firmware and .[1].rotational
                    and (.[0].rotational | not) and .[0].size == 134217728
                    and .[0].health.failing == false and .[0].health.temperature != null' /tmp/$f \
                    || { cat /tmp/$f; false; }
            done
            jq -S 'map(.health)' /tmp/kernel > /tmp/a; jq -S 'map(.health)' /tmp/ours > /tmp/b
            cmp /tmp/a /tmp/b
            $B disk identify pci:0000:01:00.0/1 | grep -q 'serial *SATA11'
            ! $B disk check pci:0000:01:00.0 2> /tmp/refused
            grep -q 'add the port of the drive' /tmp/refused
            ! $B disk check pci:0000:01:00.0/3 2> /tmp/refused
            grep -q 'no drive on port 3; it has: 0, 1' /tmp/refused"#,
        )?;
        for port in 0..2 {
            let name = format!("0000:01:00.0/{port}");
            let printed = machine.run(&format!("# conformance\n$C conformance {name}"))?;
            ensure!(printed.contains("passed"), "{printed}");
        }
        let image = machine.file(&Adapter::image(1, 0));
        let held = || Ok::<u64, std::io::Error>(std::fs::metadata(&image)?.blocks() * 512);
        machine.run("# write\n$C fill 0000:01:00.0/0 67108864")?;
        ensure!(held()? >= 64 << 20, "written: {}", held()?);
        machine.run("# trim\n$C trim 0000:01:00.0/0 67108864")?;
        ensure!(held()? < 8 << 20, "trimmed: {} bytes are left", held()?);
        machine.run(
            "# back to the kernel
            $B disk unbind 0000:01:00.0
            until_there /dev/sda /dev/sdb
            $B disk list /dev/sda | grep -q ahci",
        )?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Bind, format, serve, connect, verify, check; and back to the kernel.
pub(crate) fn serve(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot_adapters(maker, &[Adapter::of(&[Sata::PLAIN])])?.finish(|machine| {
        machine.run(
            r#"# bind refuses what is in use
            mke2fs -q -t ext4 /dev/sda
            mount /dev/sda /mnt
            ! $B disk bind 0000:01:00.0 2> /tmp/refused
            grep -q 'is mounted at /mnt' /tmp/refused
            umount /mnt
            $B disk bind 0000:01:00.0
            ! $B disk format pci:0000:01:00.0/0 2> /tmp/refused
            grep -q 'ext2, ext3 or ext4' /tmp/refused
            $B disk format pci:0000:01:00.0/0 --force
            ! $B disk format pci:0000:01:00.0/0 2> /tmp/refused
            grep -q 'a Basalt disk' /tmp/refused"#,
        )?;
        let device = steps::serve(machine, DRIVE)?;
        machine.run(&format!(
            "# file system
            mke2fs -q -t ext4 {device}
            mount {device} /mnt
            cp -r /usr/lib/systemd /mnt/
            umount /mnt
            e2fsck -fn {device} > /dev/null
            mount {device} /mnt
            diff -r /usr/lib/systemd /mnt/systemd
            umount /mnt"
        ))?;
        machine.run(&format!(
            "# verify
            fio --name=v --filename={device} --rw=randrw --bsrange=4k-128k --size=64M \
                --io_size=48M --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c \
                --verify_fatal=1 --randseed=7 > /tmp/fio || {{ cat /tmp/fio; false; }}
            ! $B disk unbind 0000:01:00.0 2> /tmp/refused
            grep -q 'a program drives it' /tmp/refused
            $B disk list --output json > /tmp/list
            jq -e '.[] | select(.name == \"pci:0000:01:00.0/0\") | .driver == \"vfio-pci\"
                and .used_by == \"the running node\" and (.cores | length) == 1
                and .access == \"basalt\" and .serial == \"SATA10\"
                and .health.temperature != null' /tmp/list
            if $B events | grep disk.lost; then false; fi
            nvme disconnect-all
            stop
            $B disk check pci:0000:01:00.0/0
            $B disk unbind 0000:01:00.0
            until_there /dev/sda
            $B disk list /dev/sda | grep -q basalt"
        ))?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Some blocks are bad: these fail, and no others of those that are queued with them.
pub(crate) fn media(maker: &mut Maker) -> Result<Outcome> {
    let machine = Machine::boot_adapters(maker, &[Adapter::of(&[Sata::PLAIN])])?;
    machine.finish(|machine| steps::bad_blocks(machine, DRIVE))?;
    Ok(Outcome::Passed)
}

/// Ten times killed under a verified load, and started again.
pub(crate) fn restart(maker: &mut Maker) -> Result<Outcome> {
    let machine = Machine::boot_adapters(maker, &[Adapter::of(&[Sata::PLAIN])])?;
    machine.finish(|machine| steps::ten_kills(machine, DRIVE))?;
    Ok(Outcome::Passed)
}

/// Drives of one adapter are let go and taken again one by one, then all of them, while a verified
/// load runs on another.
pub(crate) fn drives(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot_adapters(maker, &[Adapter::of(&[Sata::PLAIN; 3])])?.finish(|machine| {
        machine.run(&format!(
            r#"# begin
            $B disk bind 0000:01:00.0
            configure pci:0000:01:00.0 0 port
            for p in 0 1 2; do $B disk format pci:0000:01:00.0/$p; done
            for p in 1 2; do
                printf '[[disk]]\ndevice = "pci:0000:01:00.0"\nport = %s\n' $p >> /run/node.toml
            done
            start
            $B host allow '*'
            $B volume create one 256MiB --uuid $ONE --disk pci:0000:01:00.0/0
            $B volume create two 256MiB --uuid $TWO --disk pci:0000:01:00.0/1
            connect{AT}
            head -c 1M /dev/urandom > /tmp/mark
            dd if=/tmp/mark of=$(at $TWO) bs=64k oflag=direct status=none"#
        ))?;
        let load = machine.start(&format!(
            "# load{AT}
            fio --name=v --filename=$(at $ONE) --rw=randwrite --bs=4k --size=16M --iodepth=8 \
                --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --rate_iops=250 \
                --randseed=3 > /tmp/fio || {{ cat /tmp/fio; false; }}"
        ))?;
        machine.run(&format!(
            "# one by one{AT}
            for p in 1 2 1; do
                $B disk offline pci:0000:01:00.0/$p
                if [ $p = 1 ] && dd if=$(at $TWO) of=/dev/null bs=4k count=1 iflag=direct; then
                    false
                fi
                if $B disk offline pci:0000:01:00.0/$p 2> /tmp/refused; then false; fi
                grep -q 'offline already' /tmp/refused
                if $B disk check pci:0000:01:00.0/$p 2> /tmp/refused; then false; fi
                $B disk online pci:0000:01:00.0/$p
                cmp -n 1048576 /tmp/mark $(at $TWO)
            done"
        ))?;
        machine.guest.finish(load)?;
        machine.run(&format!(
            "# all of them
            for p in 0 1 2; do $B disk offline pci:0000:01:00.0/$p; done
            for p in 0 1 2; do $B disk check pci:0000:01:00.0/$p; done
            for p in 2 1 0; do $B disk online pci:0000:01:00.0/$p; done{AT}
            cmp -n 1048576 /tmp/mark $(at $TWO)
            fio --name=v --filename=$(at $ONE) --rw=randwrite --bs=4k --size=16M --iodepth=8 \
                --ioengine=libaio --direct=1 --verify=crc32c --verify_only --randseed=3 \
                > /tmp/fio || {{ cat /tmp/fio; false; }}
            if $B events | grep disk.lost; then false; fi
            [ $($B events | grep -c disk.returned) = 6 ]
            nvme disconnect-all
            stop
            for p in 0 1 2; do $B disk check pci:0000:01:00.0/$p; done"
        ))?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Two drives on two adapters under load, and one adapter is pulled: its volume fails, the other
/// does not. After the next boot all that was acknowledged is there.
pub(crate) fn pulled(maker: &mut Maker) -> Result<Outcome> {
    let adapters = [Adapter::of(&[Sata::PLAIN]), Adapter::of(&[Sata::PLAIN])];
    let machine = Machine::boot_adapters(maker, &adapters)?;
    let images = [1, 2].map(|number| machine.file(&Adapter::image(number, 0)));
    machine.finish(|machine| {
        machine.run(&format!("# begin{TWO_DISKS}{CONFIGURE_TWO}\nstart{TWO_VOLUMES}"))?;
        machine.run(&format!(
            "# mark{AT}
            head -c 1M /dev/urandom > /tmp/mark
            dd if=/tmp/mark of=$(at $ONE) bs=64k oflag=direct status=none"
        ))?;
        let mark = machine.run("# sum\nsha256sum < /tmp/mark")?;
        let other = machine.start(&format!(
            "# other{AT}
            fio --name=v --filename=$(at $TWO) --rw=randwrite --bs=4k --size=32M \
                --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
                --rate_iops=400 --randseed=3 > /tmp/fio || {{ cat /tmp/fio; false; }}"
        ))?;
        let load = machine.start(&format!(
            "# load{AT}
            dd if=/dev/zero of=$(at $ONE) bs=4k seek=1000 count=50000 oflag=direct \
                status=none && exit 1 || true"
        ))?;
        machine.run("sleep 3")?;
        let mut qmp = machine.qmp()?;
        qmp.run("device_del", json!({ "id": "ahci1" }))?;
        qmp.wait_for("DEVICE_DELETED", "ahci1")?;
        machine.guest.finish(load)?;
        machine.guest.finish(other)?;
        machine.run(
            "# the node goes on, and says what happened
            $B events > /tmp/events
            grep -q 'disk pci:0000:01:00.0/0: is driven no more' /tmp/events
            ! grep -q 'disk pci:0000:02:00.0/0: is driven no more' /tmp/events
            $B volume list > /dev/null
            nvme disconnect-all
            stop || true
            $B disk check pci:0000:02:00.0/0",
        )?;
        std::fs::write(machine.file("mark"), mark).context("the mark")
    })?;
    let mark = std::fs::read_to_string(images[0].with_file_name("mark"))?;
    Machine::boot_adapters_on(maker, &adapters, &images)?.finish(|machine| {
        machine.run("for a in 1 2; do $B disk bind 0000:0$a:00.0; done")?;
        machine.run(&format!("# again{CONFIGURE_TWO}\nstart\nconnect"))?;
        let found = machine.run(&format!("# read{AT}\nhead -c 1M $(at $ONE) | sha256sum"))?;
        ensure!(found == mark, "the mark was {mark}, now {found}");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// `at UUID`: the device of a volume.
const AT: &str = r#"
    at() {
        local d
        for _ in $(seq 100); do
            for d in /sys/block/nvme*; do
                [ "$(cat $d/wwid)" = "uuid.$1" ] && [ -b /dev/${d##*/} ] || continue
                echo /dev/${d##*/}
                return
            done
            sleep 0.1
        done
        return 1
    }"#;

const TWO_DISKS: &str = "
    for a in 1 2; do
        $B disk bind 0000:0$a:00.0
        $B disk format pci:0000:0$a:00.0/0
    done";

const CONFIGURE_TWO: &str = r#"
    configure pci:0000:01:00.0 0 port
    printf '[[disk]]\ndevice = "pci:0000:02:00.0"\nport = 0\n' >> /run/node.toml"#;

const TWO_VOLUMES: &str = "
    $B host allow '*'
    $B volume create one 256MiB --uuid $ONE --disk pci:0000:01:00.0/0
    $B volume create two 256MiB --uuid $TWO --disk pci:0000:02:00.0/0
    connect";
