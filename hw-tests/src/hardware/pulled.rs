//! Disks that are pulled under load and come back, while the node runs.

use anyhow::{Result, ensure};
use serde_json::json;

use super::machine::{Machine, Ssd};
use super::qmp::Qmp;
use super::scenarios::SSD;
use super::steps;
use crate::bed::Maker;
use crate::scenario::Outcome;

/// Pulls in one run.
const ROUNDS: u32 = 3;

/// `state WORD`: waits until the node calls its only disk so; `mark FILE DEVICE`, `load DEVICE`.
const WORDS: &str = r#"
    state() {
        for _ in $(seq 300); do
            [ "$($B node --output json | jq -r '.disks[0].state')" = "$1" ] && return
            sleep 0.1
        done
        $B node --output json >&2
        $B events | tail -n 20 >&2
        tail -n 20 /run/node.log >&2
        return 1
    }"#;

/// `link`: finds the SSD, wherever it is, and lets the configured path point to it.
const LINK: &str = r#"
    link() {
        for _ in $(seq 200); do
            for d in /sys/block/nvme*; do
                grep -q SSD1 $d/device/serial 2> /dev/null || continue
                [ -b /dev/${d##*/} ] || continue
                ln -sfn /dev/${d##*/} /run/ssd
                return
            done
            sleep 0.1
        done
        return 1
    }"#;

/// Data written before the pull, verified after it on the same connection; then a verified load.
fn verified(device: &str, round: u32) -> String {
    format!(
        "# verify{WORDS}
        state ok
        cmp -n 1048576 /tmp/mark {device}
        fio --name=v --filename={device} --rw=randrw --bsrange=4k-64k --offset=16M --size=32M \
            --io_size=16M --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c \
            --verify_fatal=1 --randseed={round} > /tmp/fio || {{ cat /tmp/fio; false; }}"
    )
}

/// Writes until it fails, which it must.
fn doomed(device: &str) -> String {
    format!(
        "# load
        dd if=/dev/zero of={device} bs=4k seek=20000 count=40000 oflag=direct status=none \
            && exit 1 || true"
    )
}

fn mark(device: &str) -> String {
    format!(
        "# mark
        head -c 1M /dev/urandom > /tmp/mark
        dd if=/tmp/mark of={device} bs=64k oflag=direct status=none"
    )
}

fn remove(qmp: &mut Qmp) -> Result<()> {
    qmp.run("device_del", json!({ "id": "ssd1" }))?;
    qmp.wait_for("DEVICE_DELETED", "ssd1").map(drop)
}

fn put_back(qmp: &mut Qmp) -> Result<()> {
    let ssd = json!({ "driver": "nvme", "id": "ssd1", "serial": "SSD1", "bus": "port1",
        "drive": "disk1-1", "share-rw": true,
        "logical_block_size": 4096, "physical_block_size": 4096 });
    qmp.run("device_add", ssd).map(drop)
}

/// The SSD that the node drives itself is pulled under load and comes back, again and again: its
/// volume fails meanwhile, and then goes on, with the node and its host's connections as they were.
pub(crate) fn own(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        let device = steps::serve(machine, SSD)?;
        machine.run(&mark(&device))?;
        let mut qmp = machine.qmp()?;
        for round in 1..=ROUNDS {
            let load = machine.start(&doomed(&device))?;
            machine.run("sleep 1")?;
            remove(&mut qmp)?;
            machine.guest.finish(load)?;
            machine.run(&format!(
                "# the node goes on, and says what happened{WORDS}
                state offline
                [ $($B events | grep -c 'is driven no more') = {round} ]
                $B volume list > /dev/null
                ! dd if={device} of=/dev/null bs=4k count=1 iflag=direct status=none"
            ))?;
            put_back(&mut qmp)?;
            machine.run(
                "# back
                until_there /sys/bus/pci/devices/0000:01:00.0
                sleep 1
                $B disk bind 0000:01:00.0",
            )?;
            machine.run(&verified(&device, round))?;
        }
        machine.run(&format!(
            "# given to the kernel and back by the operator{WORDS}
            $B disk offline pci:0000:01:00.0/1
            $B disk unbind 0000:01:00.0
            until_there /dev/nvme0n1
            ! $B disk online pci:0000:01:00.0/1 2> /tmp/refused
            grep -q 'basalt disk bind' /tmp/refused
            $B disk bind 0000:01:00.0
            $B disk online pci:0000:01:00.0/1"
        ))?;
        machine.run(&verified(&device, 9))?;
        let returned = machine.run("# end\n$B events | grep -c disk.returned")?;
        ensure!(returned.trim() == "4", "it returned {returned} times");
        machine.run("# check\nnvme disconnect-all; stop; $B disk check pci:0000:01:00.0")?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Serves the kernel's SSD by a path that follows it, with these lines about the disk besides, and
/// returns the device of its volume.
pub(super) fn serve_linked(machine: &Machine, lines: &str) -> Result<String> {
    machine.run(&format!("# link{LINK}\nlink"))?;
    steps::serve_path(machine, "/run/ssd", lines)
}

/// The kernel's SSD is pulled so many times and comes back, by the path that follows it.
pub(super) fn pulls(machine: &Machine, device: &str, rounds: u32) -> Result<()> {
    machine.run(&mark(device))?;
    let mut qmp = machine.qmp()?;
    for round in 1..=rounds {
        // The second time nothing is written or read when it happens.
        let load = if round == 2 { None } else { Some(machine.start(&doomed(device))?) };
        machine.run("sleep 1")?;
        remove(&mut qmp)?;
        if let Some(load) = load {
            machine.guest.finish(load)?;
        }
        machine.run(&format!("# the node goes on{WORDS}\nstate offline"))?;
        put_back(&mut qmp)?;
        machine.run(&format!("# back{LINK}\nsleep 1\nlink"))?;
        machine.run(&verified(device, round))?;
    }
    Ok(())
}

/// The same with the kernel's driver, whose block device may have another name when it is back.
pub(crate) fn of_the_kernel(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        let device = serve_linked(machine, "")?;
        pulls(machine, &device, ROUNDS)?;
        machine.run("# check\nnvme disconnect-all; stop; $B disk check /run/ssd")?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}
