//! Asynchronous events and logs; namespaces that come, go and grow.

use super::{Rig, arena};
use crate::disk::nvme::{NvmeEvent, NvmeOptions};
use crate::disk::{Disk, Error};
use crate::sim::nvme::{EmulatedNamespace, NvmeConfig, NvmeFault};

#[test]
fn namespaces_come_and_go_under_io() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    let mut first = rig.disk(0, 0);
    rig.write(&mut first, &pool, 0, 1).unwrap();
    rig.nvme.attach(EmulatedNamespace::new(7, 512));
    rig.until("it is seen", |rig| rig.controller.namespaces().count() == 2);
    assert!(rig.events.contains(&NvmeEvent::NamespacesChanged));
    let mut second = rig.disk(0, 1);
    assert_eq!((second.info().block_size, second.info().name.as_str()), (512, "0000:01:00.0n7"));
    rig.write(&mut second, &pool, 0, 2).unwrap();
    rig.nvme.detach(1);
    rig.until("it is missed", |rig| rig.controller.namespaces().count() == 1);
    assert_eq!(rig.read(&mut first, &pool, 0), Err(Error::Removed));
    assert_eq!(rig.read(&mut second, &pool, 0), Ok(2));
    // Another one under the same number is another one.
    rig.nvme.attach(EmulatedNamespace::new(1, 512));
    rig.until("it is seen", |rig| rig.controller.namespaces().count() == 2);
    assert_eq!(rig.read(&mut first, &pool, 0), Err(Error::Removed));
    rig.nvme.check();
}

#[test]
fn a_namespace_that_changes_over_a_reset_is_gone_and_a_larger_one_is_not() {
    let (arena, pool) = arena();
    let namespaces = vec![EmulatedNamespace::new(1, 4096), EmulatedNamespace::new(2, 4096)];
    let config = NvmeConfig { namespaces, volatile_cache: false, ..NvmeConfig::default() };
    let mut rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
    let (mut first, mut second) = (rig.disk(0, 0), rig.disk(0, 1));
    rig.write(&mut second, &pool, 0, 2).unwrap();
    rig.nvme.resize(1, 2048);
    rig.nvme.resize(2, 8192);
    rig.nvme.inject(NvmeFault::Fatal);
    assert_eq!(rig.read(&mut second, &pool, 0), Ok(2));
    assert_eq!(rig.read(&mut first, &pool, 0), Err(Error::Removed));
}

#[test]
fn warnings_and_errors_are_told() {
    let (arena, _pool) = arena();
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    rig.until("health is known", |rig| rig.controller.health().is_some());
    assert_eq!(rig.controller.health().unwrap().available_spare, 100);
    rig.nvme.warn(4);
    rig.until("it is told", |rig| rig.events.contains(&NvmeEvent::HealthWarning(4)));
    rig.nvme.warn(0);
    rig.until("it is told", |rig| rig.events.contains(&NvmeEvent::HealthWarning(0)));
    rig.nvme.log_error(3, 0x1234);
    rig.until("it is told", |rig| rig.events.contains(&NvmeEvent::ErrorsLogged(3)));
    assert_eq!(rig.controller.errors()[0].lba.get(), 0x1234);
    rig.nvme.check();
}

#[test]
fn a_storm_of_events_is_answered_at_leisure() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    let mut disk = rig.disk(0, 0);
    (0..5000).for_each(|_| rig.nvme.warn(1));
    let before = rig.nvme.completed();
    for _ in 0..10_000 {
        rig.tick();
    }
    let commands = rig.nvme.completed() - before;
    assert!((50..400).contains(&commands), "{commands} commands in a second");
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
}
