//! The kernel's other ways to a device: iommufd, and none at all before it.
//!
//! Debian's kernel has neither; `HW_TESTS_KERNEL` names one that has.

use anyhow::Result;

use super::adapter::{Adapter, Sata};
use super::machine::{Machine, Ssd};
use super::steps::{self, Place};
use crate::bed::Maker;
use crate::scenario::Outcome;

/// The first SSD, as an operator names it who has no IOMMU.
const SSD_UNCHECKED: &Place = &Place { word: "--no-iommu", ..*super::scenarios::SSD };

/// Two SSDs and a SATA drive in one address space of iommufd: both drivers, ten kills under a
/// verified load, owners that are in each other's way, a device that is pulled; and back.
pub(crate) fn iommufd(maker: &mut Maker) -> Result<Outcome> {
    let (ssds, adapters) = ([Ssd::plain(), Ssd::plain()], [Adapter::of(&[Sata::PLAIN])]);
    let machine = Machine::boot_both(maker, &ssds, &adapters, true)?;
    let bound = machine.run(
        "# bind
        for a in 1 2 3; do $B disk bind 0000:0$a:00.0 > /dev/null; done
        ls /dev/iommu /dev/vfio/devices | grep -c '^vfio\\|^/dev/iommu$' || true",
    )?;
    if bound.trim() != "4" {
        let reason = "the guest's kernel has no CONFIG_IOMMUFD and VFIO_DEVICE_CDEV";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    machine.finish(|machine| {
        machine.run(
            "# owners
            $C raw 0000:01:00.0 0000:02:00.0
            for _ in 1 2 3; do
                $C hold 0000:01:00.0 0000:03:00.0 > /tmp/held & p=$!
                until grep -q held /tmp/held; do sleep 0.05; done
                [ $(ls -l /proc/$p/fd | grep -c '/dev/iommu$\\|/dev/vfio/devices/vfio') -ge 3 ]
                ! $B disk unbind 0000:01:00.0 2> /tmp/refused
                grep -q 'a program drives it' /tmp/refused
                ! $B disk check pci:0000:01:00.0 2> /tmp/refused
                grep -q 'another process has it' /tmp/refused
                kill -9 $p
                $C raw 0000:01:00.0
            done",
        )?;
        for disk in ["0000:02:00.0/1", "0000:03:00.0/0"] {
            machine.run(&format!("# conformance\n$C conformance {disk}"))?;
        }
        steps::ten_kills(machine, super::scenarios::SSD)?;
        back_and_verify(machine, "")?;
        steps::pull_held(machine)
    })?;
    Ok(Outcome::Passed)
}

/// Without an IOMMU: only with the word of operator and kernel, for every command and the node;
/// then as with one.
pub(crate) fn no_iommu(maker: &mut Maker) -> Result<Outcome> {
    let (ssds, adapters) = ([Ssd::plain()], [Adapter::of(&[Sata::PLAIN])]);
    let machine = Machine::boot_both(maker, &ssds, &adapters, false)?;
    let allowed = machine.run(
        "# words
        ! $B disk bind 0000:01:00.0 2> /tmp/refused
        grep -q -e '--no-iommu' /tmp/refused
        ! $B disk bind 0000:01:00.0 --no-iommu 2> /tmp/refused
        grep -q enable_unsafe_noiommu_mode /tmp/refused
        mode=/sys/module/vfio/parameters/enable_unsafe_noiommu_mode
        [ -e $mode ] && echo 1 > $mode && echo allowed || true",
    )?;
    if allowed.trim() != "allowed" {
        let reason = "the guest's kernel has no CONFIG_VFIO_NOIOMMU";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    machine.finish(|machine| {
        machine.run(
            "# every command asks for the word
            for a in 1 2; do $B disk bind 0000:0$a:00.0 --no-iommu | grep -q no_iommu; done
            ! $B disk format pci:0000:01:00.0 2> /tmp/refused
            grep -q -e '--no-iommu' /tmp/refused
            ! $B disk check pci:0000:02:00.0/0 2> /tmp/refused
            grep -q -e '--no-iommu' /tmp/refused
            $B disk format pci:0000:01:00.0 --no-iommu > /dev/null
            configure pci:0000:01:00.0 1
            ! timeout 60 $B serve --config /run/node.toml 2> /tmp/refused
            grep -q 'no_iommu' /tmp/refused
            $B disk identify 0000:02:00.0 --no-iommu | grep -q 'serial *SATA20'
            $C raw 0000:01:00.0
            $B disk format pci:0000:02:00.0/0 --no-iommu > /dev/null
            $B disk check pci:0000:02:00.0/0 --no-iommu",
        )?;
        steps::ten_kills(machine, SSD_UNCHECKED)?;
        back_and_verify(machine, SSD_UNCHECKED.word)
    })?;
    Ok(Outcome::Passed)
}

/// What the node wrote is whole for the kernel's driver, after the device was given back to it.
fn back_and_verify(machine: &Machine, word: &str) -> Result<()> {
    machine.run(&format!(
        "# back
        $B disk unbind 0000:01:00.0
        for _ in $(seq 100); do
            d=$(ls -d /sys/bus/pci/devices/0000:01:00.0/nvme/nvme* | head -n 1) || true
            d=/dev/${{d##*/}}n1
            [ -b $d ] && break
            sleep 0.1
        done
        $B disk check $d
        $B disk bind 0000:01:00.0 {word}
        $B disk check pci:0000:01:00.0 {word}
        $B disk unbind 0000:01:00.0"
    ))?;
    Ok(())
}
