//! The suite of [`crate::disk::conformance`] on all kinds of drives.

use super::{AhciOptions, Driven, Rig, one, options};
use crate::disk::conformance;
use crate::dma::Arena;
use crate::sim::ahci::{AhciConfig, EmulatedAhci, EmulatedDevice, EmulatedDrive};

fn run(config: &AhciConfig, options: AhciOptions) {
    run_opened(config, options, EmulatedAhci::open);
}

fn run_opened(
    config: &AhciConfig,
    options: AhciOptions,
    open: fn(&EmulatedAhci, &Arena) -> EmulatedDevice,
) {
    let mut seed = 0;
    conformance::run_with_arena(&mut |arena| {
        seed += 1;
        let ahci = EmulatedAhci::new(config.clone(), seed);
        let mut rig = Rig::cold(&ahci, open(&ahci, arena), options);
        rig.bring_up();
        Box::new(Driven { disk: rig.disk(0), rig })
    });
}

#[test]
fn blocks_of_512() {
    run(&one(EmulatedDrive::new(512)), options());
}

#[test]
fn blocks_of_512_on_4096() {
    run(&one(EmulatedDrive::emulating_512()), options());
}

#[test]
fn blocks_of_4096() {
    run(&one(EmulatedDrive::new(4096)), options());
}

#[test]
fn queue_depths() {
    for queue in [None, Some(1), Some(2), Some(31)] {
        run(&one(EmulatedDrive { queue, ..EmulatedDrive::new(4096) }), options());
    }
    let drive = || EmulatedDrive::new(4096);
    run(&AhciConfig { slots: 4, ..one(drive()) }, options());
    run(&AhciConfig { queueing: false, ..one(drive()) }, options());
    run(&one(drive()), AhciOptions { depth: 3, ..options() });
}

#[test]
fn without_fua_and_without_a_cache() {
    for queue in [None, Some(32)] {
        let drive = EmulatedDrive { queue, ..EmulatedDrive::new(4096) };
        run(&one(EmulatedDrive { fua: false, ..drive.clone() }), options());
        run(&one(EmulatedDrive { volatile_cache: false, ..drive.clone() }), options());
        run(&one(drive), AhciOptions { honours_fua: false, ..options() });
    }
}

#[test]
fn trims() {
    let zeroes_by_trim = AhciOptions { zeroes_by_trim: true, ..options() };
    run(&one(EmulatedDrive::new(512)), zeroes_by_trim);
    let drive = EmulatedDrive { trim_zeroes: false, trim: Some(1), ..EmulatedDrive::new(4096) };
    run(&one(drive), zeroes_by_trim);
    run(&one(EmulatedDrive { trim: None, ..EmulatedDrive::new(4096) }), options());
}

#[test]
fn without_an_iommu() {
    let config = one(EmulatedDrive::new(512));
    run_opened(&config, options(), EmulatedAhci::open_by_page);
}

#[test]
fn a_part_of_a_drive() {
    let mut seed = 100;
    conformance::run_with_arena(&mut |arena| {
        seed += 1;
        let config = one(EmulatedDrive::new(512));
        let rig = Rig::new(config, options(), arena, seed);
        let disk = rig.ports[0].open_part(3 << 20..(3 << 20) + (12 << 20));
        Box::new(Driven { disk, rig })
    });
}
