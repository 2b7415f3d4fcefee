//! Random reads of 4 KiB by the kernel's driver, with fio and with our own load by io_uring, and by
//! our driver with that load, in turns on the same disk. Figures, not tests: they are printed, and
//! run only where somebody asks for so many rounds of them: `BASALT_RATES=3`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::adapter::{Adapter, Sata};
use super::machine::{Machine, Namespace, Ssd};
use crate::bed::Maker;
use crate::scenario::Outcome;

const MIB: u64 = 256;
/// Of each run.
const SECONDS: u32 = 4;

/// A disk as each driver names it.
struct Names {
    ours: &'static str,
    kernels: &'static str,
}

/// Of an SSD.
pub(crate) fn nvme(maker: &mut Maker) -> Result<Outcome> {
    let Some(rounds) = rounds() else { return Ok(unasked()) };
    let namespace = Namespace { mib: MIB, ..Namespace::PLAIN };
    let ssd = Ssd { namespaces: vec![namespace], logged: false };
    Machine::boot(maker, &[ssd])?.finish(|machine| {
        compare(machine, &Names { ours: "0000:01:00.0/1", kernels: "/dev/nvme0n1" }, rounds)
    })?;
    Ok(Outcome::Passed)
}

/// Of a SATA disk.
pub(crate) fn ahci(maker: &mut Maker) -> Result<Outcome> {
    let Some(rounds) = rounds() else { return Ok(unasked()) };
    let drive = Sata { mib: MIB, ..Sata::PLAIN };
    Machine::boot_adapters(maker, &[Adapter::of(&[drive])])?.finish(|machine| {
        compare(machine, &Names { ours: "0000:01:00.0/0", kernels: "/dev/sda" }, rounds)
    })?;
    Ok(Outcome::Passed)
}

/// How many rounds were asked for.
fn rounds() -> Option<usize> {
    std::env::var("BASALT_RATES").ok()?.parse().ok().filter(|rounds| *rounds > 0)
}

fn unasked() -> Outcome {
    Outcome::Skipped("it takes minutes and a quiet machine; BASALT_RATES=3 runs it".to_owned())
}

fn compare(machine: &Machine, names: &Names, rounds: usize) -> Result<()> {
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
    for _ in 0..rounds {
        for depth in [1, 32] {
            let printed = machine.run(&format!(
                "# rates
                fio --name=r --filename={file} --rw=randread --bs=4k --iodepth={depth} \
                    --ioengine=io_uring --direct=1 --norandommap --time_based \
                    --runtime={SECONDS} --output-format=json --output=/tmp/fio
                sed -n '/^{{/,$p' /tmp/fio | jq -r '\"rate \\(.jobs[0].read.iops)\"'
                $C rate {file} {depth} {SECONDS}
                $B disk bind 0000:01:00.0 > /dev/null
                $C rate {disk} {depth} {SECONDS}
                $B disk unbind 0000:01:00.0 > /dev/null
                until_there {file}"
            ))?;
            let found = printed.lines().filter_map(|line| line.strip_prefix("rate ")?.parse().ok());
            let found: Vec<f64> = found.collect();
            let whose = ["kernel, fio", "kernel", "ours"];
            ensure!(found.len() == whose.len(), "not all rates: {printed}");
            for (whose, rate) in whose.into_iter().zip(found) {
                rates.entry((depth, whose)).or_default().push(rate);
            }
        }
    }
    for ((depth, whose), mut rates) in rates {
        rates.sort_by(f64::total_cmp);
        println!("depth {depth:2} {whose:11} median {:7.0}, all {rates:.0?}", rates[rounds / 2]);
    }
    Ok(())
}
