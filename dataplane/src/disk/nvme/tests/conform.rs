//! The suite of [`crate::disk::conformance`] on all kinds of controllers.

use super::{Driven, Rig, arena, read_op};
use crate::disk::nvme::NvmeOptions;
use crate::disk::{Disk, conformance};
use crate::dma::Arena;
use crate::sim::nvme::{EmulatedDevice, EmulatedNamespace, EmulatedNvme, NvmeConfig};
use std::time::Duration;

fn run(config: &NvmeConfig, options: NvmeOptions) {
    run_opened(config, options, EmulatedNvme::open);
}

/// On each namespace in turn.
fn run_opened(
    config: &NvmeConfig,
    options: NvmeOptions,
    open: fn(&EmulatedNvme, &Arena) -> EmulatedDevice,
) {
    for namespace in 0..config.namespaces.len() {
        let mut seed = 0;
        conformance::run_with_arena(&mut |arena| {
            seed += 1;
            let nvme = EmulatedNvme::new(config.clone(), seed);
            let mut rig = Rig::cold(&nvme, open(&nvme, arena), options);
            rig.bring_up();
            Box::new(Driven { disk: rig.disk(0, namespace), rig })
        });
    }
}

fn with(namespaces: Vec<EmulatedNamespace>) -> NvmeConfig {
    NvmeConfig { namespaces, ..NvmeConfig::default() }
}

#[test]
fn one_namespace() {
    run(&with(vec![EmulatedNamespace::new(1, 4096)]), NvmeOptions::default());
}

#[test]
fn two_namespaces_of_different_blocks() {
    let namespaces = vec![EmulatedNamespace::new(1, 512), EmulatedNamespace::new(3, 4096)];
    run(&with(namespaces), NvmeOptions { queues: 2, ..NvmeOptions::default() });
}

#[test]
fn four_namespaces_with_and_without_metadata() {
    let namespaces = vec![
        EmulatedNamespace::with_metadata(1, 512, 8, 0),
        EmulatedNamespace::with_metadata(2, 4096, 8, 1),
        EmulatedNamespace::with_metadata(3, 4096, 64, 2),
        EmulatedNamespace { extended: true, ..EmulatedNamespace::with_metadata(9, 512, 8, 3) },
    ];
    run(&with(namespaces), NvmeOptions::default());
}

#[test]
fn doorbells_in_memory() {
    for stride in [0, 2] {
        let config = NvmeConfig { shadow_doorbells: true, stride, ..NvmeConfig::default() };
        run(&config, NvmeOptions { queues: 3, ..NvmeOptions::default() });
    }
}

#[test]
fn doorbells_in_memory_of_a_quick_controller() {
    let config = NvmeConfig { shadow_doorbells: true, is_slow: false, ..NvmeConfig::default() };
    run(&config, NvmeOptions { entries: 5, ..NvmeOptions::default() });
}

#[test]
fn scatter_gather_lists() {
    let namespaces = vec![EmulatedNamespace::new(1, 512)];
    let config = NvmeConfig { sgl: true, transfer_shift: 0, ..with(namespaces) };
    run(&config, NvmeOptions::default());
    run_opened(&config, NvmeOptions::default(), EmulatedNvme::open_by_page);
}

#[test]
fn without_an_iommu() {
    let config = with(vec![EmulatedNamespace::new(1, 512)]);
    run_opened(&config, NvmeOptions::default(), EmulatedNvme::open_by_page);
}

#[test]
fn small_limits() {
    let namespaces = vec![EmulatedNamespace::new(1, 512)];
    let limited = NvmeConfig {
        version: 0x2_0000,
        queue_entries: 2,
        transfer_shift: 2,
        zeroes_shift: 3,
        volatile_cache: false,
        ..with(namespaces)
    };
    run(&limited, NvmeOptions::default());
}

#[test]
fn a_controller_without_optional_commands_and_without_working_fua() {
    let config = NvmeConfig { optional_commands: false, ..NvmeConfig::default() };
    run(&config, NvmeOptions { honours_fua: false, ..NvmeOptions::default() });
}

#[test]
fn doorbells_are_rung_once_for_a_batch_and_in_memory_seldom() {
    let of = |shadow_doorbells| {
        let (arena, pool) = arena();
        let config = NvmeConfig { shadow_doorbells, is_slow: false, ..NvmeConfig::default() };
        let mut rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
        rig.pass(Duration::from_millis(50));
        let mut disk = rig.disk(0, 0);
        let mut done = Vec::with_capacity(32);
        let before = rig.nvme.doorbells();
        for batch in 0..100_u64 {
            for index in 0..32 {
                disk.submit(index, read_op(&pool, (batch % 8 * 32 + index) * 4096, 4096));
            }
            disk.poll(&mut done);
            rig.nvme.step(rig.time.now());
            disk.poll(&mut done);
            assert_eq!(done.len(), 32);
            done.clear();
        }
        rig.nvme.check();
        rig.nvme.doorbells() - before
    };
    assert_eq!(of(false), 200, "one for the commands and one for the completions of each batch");
    assert!(of(true) < 150, "completions are told in memory");
}
