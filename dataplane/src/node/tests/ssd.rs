//! An emulated SSD with two namespaces that is pulled, fails and lies while a node serves it.

use super::rig::{Load, Plugged, Rig, offline, online};
use super::*;
use crate::disk::single::Unit;
use crate::dma::Arena;
use crate::pci::ControllerKind;
use crate::sim::Random;
use crate::sim::nvme::{
    EmulatedDevice, EmulatedNamespace, EmulatedNvme, NvmeConfig, NvmeFault, NvmeFaults,
};
use std::time::Duration;

impl Plugged for EmulatedNvme {
    type Device = EmulatedDevice;

    const AT: &str = "0000:01:00.0";

    const KIND: ControllerKind = ControllerKind::Nvme;

    fn is_there(&self) -> bool {
        self.is_inserted()
    }

    fn take(&self, arena: &Arena) -> EmulatedDevice {
        self.open(arena)
    }

    fn unit(number: usize) -> Unit {
        Unit::Namespace(number as u32 + 1)
    }

    fn work(&self, now: Duration) {
        self.step(now);
    }

    fn check(&self) {
        EmulatedNvme::check(self);
    }
}

/// A node on an SSD with two namespaces.
fn serving() -> Rig<EmulatedNvme> {
    let namespace = |id| EmulatedNamespace { blocks: 16 << 10, ..EmulatedNamespace::new(id, 4096) };
    let config =
        NvmeConfig { namespaces: vec![namespace(1), namespace(2)], ..NvmeConfig::default() };
    Rig::new(EmulatedNvme::new(config, 7), 2)
}

#[test]
fn an_ssd_goes_and_returns_with_all_its_namespaces() {
    let rig = serving();
    let loads = [0, 1].map(|disk| rig.load(disk));
    for _ in 0..3 {
        loads.iter().for_each(|load| load.go_on(50));
        rig.device.remove();
        rig.until(&["offline"; 2]);
        rig.device.insert();
        rig.until(&["ok"; 2]);
    }
    assert!(matches!(rig.order(offline, 0), Err(CommandError::Invalid(_))), "both or none");
    loads.iter().for_each(|load| load.go_on(50));
    assert!(loads.map(Load::finish).into_iter().all(|failed| failed > 0));
}

#[test]
fn an_ssd_that_is_reset_fails_nothing() {
    let rig = serving();
    let loads = [0, 1].map(|disk| rig.load(disk));
    for _ in 0..3 {
        loads.iter().for_each(|load| load.go_on(20));
        rig.device.fail();
    }
    loads.iter().for_each(|load| load.go_on(50));
    assert!(rig.bench().has_event("disk.reset"));
    assert_eq!(loads.map(Load::finish), [0, 0]);
}

#[test]
fn an_ssd_that_lies_harms_no_data() {
    let rig = serving();
    let loads = [0, 1].map(|disk| rig.load(disk));
    loads.iter().for_each(|load| load.go_on(20));
    // One that names another command in flight is beyond any driver. A loss of power is known to
    // one core first, while others still ring, which the emulator takes for an error of the driver.
    let mut kinds = NvmeFault::ALL.to_vec();
    kinds.retain(|kind| !matches!(kind, NvmeFault::WrongCommand | NvmeFault::PowerCycle));
    rig.device.set_faults(NvmeFaults { kinds, chance: 50, ..NvmeFaults::default() });
    std::thread::sleep(Duration::from_secs(5));
    rig.device.set_faults(NvmeFaults::default());
    serve_again(&rig);
    loads.iter().for_each(|load| load.go_on(50));
    loads.into_iter().for_each(|load| _ = load.finish());
}

#[test]
fn whatever_happens_an_ssd_returns() {
    const STEPS: usize = 12;
    let rig = serving();
    let loads = [0, 1].map(|disk| rig.load(disk));
    let mut random =
        Random::new(std::env::var("PLUGGED_SEED").map_or(1, |seed| seed.parse().unwrap()));
    let mut is_inserted = true;
    for _ in 0..STEPS {
        let disk = random.below(2) as usize;
        match random.below(8) {
            0..3 => {
                if is_inserted {
                    rig.device.remove();
                } else {
                    rig.device.insert();
                }
                is_inserted = !is_inserted;
            }
            3 => rig.device.fail(),
            4 | 5 => rig.is_answered(offline, disk),
            _ => rig.is_answered(online, disk),
        }
        std::thread::sleep(Duration::from_millis(random.below(700)));
    }
    if !is_inserted {
        rig.device.insert();
    }
    serve_again(&rig);
    loads.iter().for_each(|load| load.go_on(50));
    loads.into_iter().for_each(|load| _ = load.finish());
}

/// Has what is wrong opened anew until nothing is. A controller goes and comes as a whole: where it
/// cannot otherwise it is pulled and put back.
fn serve_again(rig: &Rig<EmulatedNvme>) {
    while !rig.is_steady() {
        rig.device.remove();
        rig.until(&["offline"; 2]);
        rig.device.insert();
        (0..2).for_each(|disk| rig.is_answered(online, disk));
    }
}
