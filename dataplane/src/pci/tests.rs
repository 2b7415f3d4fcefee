//! A machine of files, whose kernel moves functions between drivers as the real one does.

use super::*;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with its owner.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("pci-{}-{number}", std::process::id()));
        let tree = Self(root);
        for driver in ["nvme", "ahci", "vfio-pci", "snd", "pcieport"] {
            fs::create_dir_all(tree.0.join("sys/bus/pci/drivers").join(driver)).unwrap();
        }
        for folder in ["sys/bus/pci/devices", "sys/block", "proc/self"] {
            fs::create_dir_all(tree.0.join(folder)).unwrap();
        }
        tree
    }

    fn set(&self, path: &str, value: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    /// A function with its driver, in a group.
    fn function(&self, address: &str, class: &str, driver: &str, group: Option<u32>) {
        let real = format!("sys/devices/pci0000:00/{address}");
        self.set(&format!("{real}/class"), class);
        self.set(&format!("{real}/vendor"), "0x1b36");
        self.set(&format!("{real}/device"), "0x0010");
        self.set(&format!("{real}/numa_node"), "-1");
        self.set(&format!("{real}/driver_override"), "(null)");
        let real = self.0.join(real);
        symlink(&real, self.0.join("sys/bus/pci/devices").join(address)).unwrap();
        symlink(self.0.join("sys/bus/pci/drivers").join(driver), real.join("driver")).unwrap();
        if let Some(group) = group {
            let folder = self.0.join(format!("sys/kernel/iommu_groups/{group}"));
            fs::create_dir_all(folder.join("devices")).unwrap();
            symlink(&real, folder.join("devices").join(address)).unwrap();
            symlink(folder, real.join("iommu_group")).unwrap();
        }
    }

    /// A block device with a partition, below a function.
    fn block(&self, address: &str, name: &str) -> String {
        let real = format!("sys/devices/pci0000:00/{address}/nvme/nvme0/{name}");
        self.set(&format!("{real}/size"), "2048");
        self.set(&format!("{real}/dev"), "259:0");
        self.set(&format!("{real}/{name}p1/partition"), "1");
        self.set(&format!("{real}/{name}p1/dev"), "259:1");
        for folder in ["holders", &format!("{name}p1/holders")] {
            fs::create_dir_all(self.0.join(&real).join(folder)).unwrap();
        }
        symlink(self.0.join(&real), self.0.join("sys/block").join(name)).unwrap();
        real
    }

    /// A kernel whose `vfio-pci` takes what has an IOMMU group.
    fn machine(&self) -> Machine {
        let root = self.0.clone();
        Machine::simulated(self.0.clone(), move |path, value| kernel(&root, path, value))
    }
}

fn kernel(root: &Path, path: &Path, value: &str) -> io::Result<()> {
    match path.file_name().unwrap().to_str().unwrap() {
        "driver_override" => fs::write(path, value),
        "unbind" => fs::remove_file(path.parent().unwrap()),
        "drivers_probe" => {
            let device = root.join("sys/bus/pci/devices").join(value);
            let wanted = fs::read_to_string(device.join("driver_override"))?;
            let class = fs::read_to_string(device.join("class"))?;
            let driver = match wanted.trim() {
                "vfio-pci" if device.join("iommu_group").exists() => "vfio-pci",
                "vfio-pci" => return Err(io::Error::from_raw_os_error(22)),
                _ if class.starts_with("0x0108") => "nvme",
                _ => "ahci",
            };
            let drivers = root.join("sys/bus/pci/drivers");
            symlink(drivers.join(driver), fs::canonicalize(device)?.join("driver"))
        }
        other => panic!("{other} is written"),
    }
}

const NVME: &str = "0000:01:00.0";

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn driver(machine: &Machine) -> Option<String> {
    machine.function(address(NVME)).unwrap().driver
}

#[test]
fn a_controller_goes_and_comes_back() {
    let tree = Tree::new();
    tree.function(NVME, "0x010802", "nvme", Some(7));
    tree.block(NVME, "nvme0n1");
    let machine = tree.machine();
    let named = |name: &str| Some(name.to_owned());
    let there = Change::Moved { from: named("nvme"), to: named("vfio-pci") };
    assert_eq!(bind(&machine, address(NVME), false).unwrap(), there);
    let again = Change::Already { driver: named("vfio-pci") };
    assert_eq!(bind(&machine, address(NVME), false).unwrap(), again);
    let function = machine.function(address(NVME)).unwrap();
    assert_eq!(function.driver_override.as_deref(), Some("vfio-pci"));
    assert_eq!((function.group, function.numa_node, function.ids), (Some(7), None, (0x1b36, 0x10)));
    let back = Change::Moved { from: named("vfio-pci"), to: named("nvme") };
    assert_eq!(unbind(&machine, address(NVME)).unwrap(), back);
    assert_eq!(unbind(&machine, address(NVME)).unwrap(), Change::Already { driver: named("nvme") });
    assert_eq!(machine.function(address(NVME)).unwrap().driver_override, None);
}

#[test]
fn what_is_in_use_is_refused() {
    let refused = |prepare: &dyn Fn(&Tree, &str)| {
        let tree = Tree::new();
        tree.function(NVME, "0x010802", "nvme", Some(7));
        let block = tree.block(NVME, "nvme0n1");
        prepare(&tree, &block);
        let machine = tree.machine();
        let error = bind(&machine, address(NVME), false).unwrap_err();
        assert_eq!(driver(&machine).as_deref(), Some("nvme"), "left alone");
        error.to_string()
    };
    let mounts = "25 1 259:1 / /srv rw - ext4 /dev/nvme0n1p1 rw";
    let text = refused(&|tree, _| tree.set("proc/self/mountinfo", mounts));
    assert!(text.contains("/dev/nvme0n1p1 is mounted at /srv"), "{text}");
    let btrfs = "25 1 0:44 / /data rw - btrfs /dev/nvme0n1 rw";
    let text = refused(&|tree, _| tree.set("proc/1/mountinfo", btrfs));
    assert!(text.contains("/dev/nvme0n1 is mounted at /data"), "{text}");
    let text = refused(&|tree, block| tree.set(&format!("{block}/holders/dm-0"), ""));
    assert!(text.contains("/dev/nvme0n1 is part of dm-0"), "{text}");
    let swaps = "Filename Type Size\n/dev/nvme0n1p1 partition 1024";
    let text = refused(&|tree, _| tree.set("proc/swaps", swaps));
    assert!(text.contains("/dev/nvme0n1p1 is swap space"), "{text}");
}

#[test]
fn the_disk_of_a_shared_namespace_is_seen_through_its_subsystem() {
    let tree = Tree::new();
    tree.function(NVME, "0x010802", "nvme", Some(7));
    let controller = format!("sys/devices/pci0000:00/{NVME}/nvme/nvme3");
    tree.set(&format!("{controller}/nvme3c3n1/hidden"), "1");
    let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys3";
    tree.set(&format!("{subsystem}/nvme3n1/dev"), "259:4");
    fs::create_dir_all(tree.0.join(subsystem).join("nvme3n1/holders")).unwrap();
    symlink(tree.0.join(&controller), tree.0.join(subsystem).join("nvme3")).unwrap();
    let head = tree.0.join(subsystem).join("nvme3n1");
    symlink(head, tree.0.join("sys/block/nvme3n1")).unwrap();
    let path = tree.0.join(&controller).join("nvme3c3n1");
    symlink(path, tree.0.join("sys/block/nvme3c3n1")).unwrap();
    tree.set("proc/self/mountinfo", "25 1 259:4 / / rw - ext4 /dev/root rw");
    let machine = tree.machine();
    let devices = machine.block_devices(address(NVME));
    assert_eq!(devices.len(), 1, "{devices:?}");
    assert_eq!(machine.controller_of("nvme3n1").unwrap().address, address(NVME));
    let error = bind(&machine, address(NVME), false).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
}

#[test]
fn drives_of_an_adapter_come_by_port() {
    let tree = Tree::new();
    tree.function(NVME, "0x010601", "ahci", Some(7));
    for (port, name) in [(10, "sda"), (9, "sdc"), (8, "sdb")] {
        let below = format!("ata{port}/host{port}/target{port}:0:0/{port}:0:0:0/block/{name}");
        let directory = format!("sys/devices/pci0000:00/{NVME}/{below}");
        tree.set(&format!("{directory}/size"), "2048");
        symlink(tree.0.join(directory), tree.0.join("sys/block").join(name)).unwrap();
    }
    let devices = tree.machine().block_devices(address(NVME));
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["sdb", "sdc", "sda"]);
}

#[test]
fn the_neighbours_of_a_group_are_named() {
    let tree = Tree::new();
    tree.function(NVME, "0x010802", "nvme", Some(7));
    tree.function("0000:01:00.1", "0x040300", "snd", Some(7));
    tree.function("0000:00:1c.0", "0x060400", "pcieport", Some(7));
    let machine = tree.machine();
    let error = bind(&machine, address(NVME), false).unwrap_err().to_string();
    assert!(error.contains("group 7 with 0000:01:00.1 (snd), which"), "{error}");
    assert_eq!(driver(&machine).as_deref(), Some("nvme"));
}

#[test]
fn a_refusing_driver_leaves_the_kernel_s_in_place() {
    let tree = Tree::new();
    tree.function(NVME, "0x010802", "nvme", None);
    let machine = tree.machine();
    tree.set(NO_IOMMU, "Y");
    let error = bind(&machine, address(NVME), true).unwrap_err();
    assert!(matches!(error, BindError::NotTaken { driver: "vfio-pci", .. }), "{error}");
    assert_eq!(driver(&machine).as_deref(), Some("nvme"));
    assert_eq!(machine.function(address(NVME)).unwrap().driver_override, None);
    fs::remove_dir(tree.0.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert!(matches!(bind(&machine, address(NVME), true), Err(BindError::NoDriver)));
}

const NO_IOMMU: &str = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

#[test]
fn without_an_iommu_both_the_operator_and_the_kernel_must_allow_it() {
    let tree = Tree::new();
    tree.function(NVME, "0x010802", "nvme", None);
    let root = tree.0.clone();
    let machine = Machine::simulated(root.clone(), move |path, value| {
        if path.ends_with("drivers_probe") {
            // Such a kernel makes a group of its own for it.
            let real = fs::canonicalize(root.join("sys/bus/pci/devices").join(value))?;
            let group = root.join("sys/kernel/iommu_groups/0");
            fs::create_dir_all(&group)?;
            symlink(group, real.join("iommu_group"))?;
        }
        kernel(&root, path, value)
    });
    let bound = |no_iommu| bind(&machine, address(NVME), no_iommu);
    assert!(matches!(bound(false), Err(BindError::NoIommu(_))));
    assert!(matches!(bound(true), Err(BindError::NoIommuForbidden(_))));
    tree.set(NO_IOMMU, "N");
    assert!(matches!(bound(true), Err(BindError::NoIommuForbidden(_))));
    assert_eq!(driver(&machine).as_deref(), Some("nvme"), "left alone");
    tree.set(NO_IOMMU, "Y");
    assert!(matches!(bound(false), Err(BindError::NoIommu(_))), "the operator's word is missing");
    assert!(matches!(bound(true), Ok(Change::Moved { .. })));
    assert_eq!(driver(&machine).as_deref(), Some("vfio-pci"));
    assert!(matches!(bound(false), Ok(Change::Already { .. })));
}

#[test]
fn other_functions_are_left_alone() {
    let tree = Tree::new();
    tree.function("0000:01:00.1", "0x040300", "snd", Some(7));
    tree.function(NVME, "0x010802", "nvme", Some(8));
    tree.function("0000:02:00.0", "0x010601", "ahci", Some(9));
    let machine = tree.machine();
    let error = bind(&machine, address("0000:01:00.1"), false).unwrap_err();
    assert!(matches!(error, BindError::NotStorage { class: 0x04_03_00, .. }), "{error}");
    assert!(matches!(bind(&machine, address("0000:09:00.0"), false), Err(BindError::Missing(_))));
    let kinds: Vec<_> = machine.controllers().unwrap().iter().map(PciFunction::kind).collect();
    assert_eq!(kinds, [ControllerKind::Nvme, ControllerKind::Ahci]);
}
