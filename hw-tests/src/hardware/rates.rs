//! Random reads of 4 KiB by the kernel's driver, with fio, and by ours, in turns on the same disk.
//! Figures, not tests: they are printed, and run only where somebody asks for them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::adapter::{Adapter, Sata};
use super::machine::{Machine, Namespace, Ssd};
use crate::bed::Maker;
use crate::scenario::Outcome;

const ROUNDS: usize = 5;
const MIB: u64 = 256;

/// A disk as each driver names it.
struct Names {
    ours: &'static str,
    kernels: &'static str,
}

/// Of an SSD.
pub(crate) fn nvme(maker: &mut Maker) -> Result<Outcome> {
    if let Some(skipped) = unasked() {
        return Ok(skipped);
    }
    let namespace = Namespace { mib: MIB, ..Namespace::PLAIN };
    let ssd = Ssd { namespaces: vec![namespace], logged: false };
    Machine::boot(maker, &[ssd])?.finish(|machine| {
        compare(machine, &Names { ours: "0000:01:00.0/1", kernels: "/dev/nvme0n1" })
    })?;
    Ok(Outcome::Passed)
}

/// Of a SATA disk.
pub(crate) fn ahci(maker: &mut Maker) -> Result<Outcome> {
    if let Some(skipped) = unasked() {
        return Ok(skipped);
    }
    let drive = Sata { mib: MIB, ..Sata::PLAIN };
    Machine::boot_adapters(maker, &[Adapter::of(&[drive])])?.finish(|machine| {
        compare(machine, &Names { ours: "0000:01:00.0/0", kernels: "/dev/sda" })
    })?;
    Ok(Outcome::Passed)
}

fn unasked() -> Option<Outcome> {
    let reason = "it takes minutes and a quiet machine; BASALT_RATES=1 runs it";
    std::env::var_os("BASALT_RATES").is_none().then(|| Outcome::Skipped(reason.to_owned()))
}

fn compare(machine: &Machine, names: &Names) -> Result<()> {
    let Names { ours: disk, kernels: file } = names;
    let bytes = MIB << 20;
    // Not by the kernel's driver: behind QEMU's IOMMU its AHCI commands of 1 MiB time out.
    machine.run(&format!(
        "# fill
        $B disk bind 0000:01:00.0
        $C fill {disk} {bytes}
        $B disk unbind 0000:01:00.0
        until_there {file}"
    ))?;
    let mut rates: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for depth in [1, 32] {
            let kernel = machine.run(&format!(
                "# fio
                fio --name=r --filename={file} --rw=randread --bs=4k --iodepth={depth} \
                    --ioengine=io_uring --direct=1 --norandommap --time_based --runtime=6 \
                    --output-format=json --output=/tmp/fio
                sed -n '/^{{/,$p' /tmp/fio | jq '.jobs[0].read.iops'"
            ))?;
            let printed = machine.run(&format!(
                "# ours
                $B disk bind 0000:01:00.0 > /dev/null
                $C rate {disk} {depth} 6
                $B disk unbind 0000:01:00.0 > /dev/null
                until_there {file}"
            ))?;
            let ours = printed.lines().find_map(|line| line.strip_prefix("rate "));
            for (whose, rate) in [("kernel", Some(kernel.trim())), ("ours", ours)] {
                let rate = rate.and_then(|rate| rate.parse().ok());
                let rate = rate.with_context(|| format!("no rate: {kernel} {printed}"))?;
                rates.entry((depth, whose)).or_default().push(rate);
            }
        }
    }
    for ((depth, whose), mut rates) in rates {
        rates.sort_by(f64::total_cmp);
        println!("depth {depth:2} {whose:6} median {:7.0}, all {rates:.0?}", rates[ROUNDS / 2]);
    }
    Ok(())
}
