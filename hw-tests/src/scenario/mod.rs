//! What a stock host does to a node, and what must come of it.

mod connect;
mod cores;
mod data;
mod faults;
mod full;
mod hostile;
pub(crate) mod iscsi;
mod many;
mod namespaces;
mod reservations;

use anyhow::Result;

use crate::bed::{Bed, Maker};
use crate::hardware::{self, ahci, backends, rates};
use crate::node::Shape;
use crate::wire;

/// How a scenario that did not fail ended.
pub(crate) enum Outcome {
    Passed,
    /// Nothing was tested, for this reason.
    Skipped(String),
}

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: Run,
}

/// What a scenario needs.
pub(crate) enum Run {
    /// The bed that other scenarios of that shape use too.
    OnBed(Shape, fn(&mut Bed) -> Result<Outcome>),
    /// A machine of its own, and none beside it.
    Alone(fn(&mut Maker) -> Result<Outcome>),
    /// Machines of its own of one processor, one after the other; such may run beside others.
    Small(fn(&mut Maker) -> Result<Outcome>),
}

const fn on_bed(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Bed) -> Result<Outcome>,
) -> Scenario {
    Scenario { name, about, run: Run::OnBed(Shape::Plain, run) }
}

const fn on_wide(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Bed) -> Result<Outcome>,
) -> Scenario {
    Scenario { name, about, run: Run::OnBed(Shape::Wide, run) }
}

const fn alone(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Maker) -> Result<Outcome>,
) -> Scenario {
    Scenario { name, about, run: Run::Alone(run) }
}

const fn small(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Maker) -> Result<Outcome>,
) -> Scenario {
    Scenario { name, about, run: Run::Small(run) }
}

/// All of them, the quick and basic ones first.
pub(crate) const SCENARIOS: &[Scenario] = &[
    on_bed("discover", "discovery log on both ports, and connect-all from it", connect::discover),
    on_bed("identify", "identify, logs and features as nvme-cli shows them", connect::identify),
    on_bed("digests", "no, header, data and both digests; 1 and 4 queues", connect::digests),
    on_bed("host-list", "a host that is not allowed cannot connect", connect::host_list),
    on_bed("ext4", "mkfs, files, fsck and trim, blocks of 512 and 4096", data::ext4),
    on_bed("xfs", "mkfs, files, repair and trim, blocks of 512 and 4096", data::xfs),
    on_bed("fio-verify", "mixed sizes beside trims, every block verified", data::fio_verify),
    on_bed("trim", "trimmed ranges read as zeroes, their neighbours stay", data::trim),
    on_bed("commands", "compare, verify, copy, zeroes, deallocate, flush", data::commands),
    on_bed("fused", "fused Compare and Write", data::fused),
    on_bed("resize", "the host sees a grown volume by itself", namespaces::resize),
    on_bed("namespaces", "volumes come and go under I/O", namespaces::come_and_go),
    on_bed("reservations", "every type, preemption, notices, kept over kills", reservations::nvme),
    on_bed("reset", "the host resets its controller under I/O", faults::reset),
    on_bed("kill", "the node is killed and restarted under I/O", faults::kill),
    on_bed("acknowledged", "what was acknowledged is there after a kill", faults::acknowledged),
    on_bed("iscsi-connect", "open-iscsi: discovery, offers, digests, growth", iscsi::connect),
    on_bed("iscsi-files", "ext4, xfs and fio over iSCSI", iscsi::files),
    on_bed("iscsi-faults", "LUN resets and kills under a verified load", iscsi::faults),
    on_bed("iscsi-chap", "mutual CHAP by MD5 and SHA-256, and who fails at it", iscsi::chap),
    on_bed("iscsi-paths", "portals over IPv4 and IPv6, multipath, redirects", iscsi::paths),
    on_bed("iscsi-commands", "sg3-utils: every answer as expected", iscsi::commands),
    on_bed("iscsi-both", "one volume over both protocols, reservations too", iscsi::both),
    on_bed("iscsi-fence", "two hosts fence each other as a cluster does", iscsi::fence),
    on_bed("iscsi-lvm", "a volume group that two hosts share", iscsi::lvm),
    on_bed("iscsi-sanlock", "a lockspace and a lease of two hosts", iscsi::sanlock),
    on_bed("iscsi-qemu", "qemu-img and qemu-io over iscsi://", iscsi::qemu),
    on_wide("several-cores", "two cores, four queues: load, changes, kills", cores::several),
    on_wide("ipv6", "discovery, connect and I/O over IPv6", connect::ipv6),
    on_wide("full-disk", "a full disk fails its writers alone, and recovers", full::disk),
    on_wide("hostile", "hostile bytes on the port beside a verified load", hostile::beside_load),
    on_wide("many-namespaces", "1,024 volumes in one subsystem", many::namespaces),
    on_wide("many-controllers", "128 controllers, no more, and again", many::controllers),
    Scenario {
        name: "wire",
        about: "tshark finds no fault with the traffic of both protocols, digests included",
        run: Run::Alone(wire::check),
    },
    // The longest of the small ones is first, so that it does not end alone.
    small("vfio-power", "power cuts at 50 moments lose nothing acknowledged", hardware::cut),
    small("vfio-raw", "devices taken, given back, killed for and pulled", hardware::raw),
    small("vfio-iommufd", "SSDs and a SATA drive over iommufd", backends::iommufd),
    small("vfio-noiommu", "the same where no IOMMU is", backends::no_iommu),
    small("vfio-serve", "bind, format, serve, verify on our own driver", hardware::first),
    small("vfio-conformance", "every promise of a disk on every format", hardware::conformance),
    small("vfio-media", "bad blocks fail alone; a slow disk is slow", hardware::media),
    alone("vfio-idle", "a core sleeps while a slow disk works", hardware::idle),
    small("vfio-restart", "ten kills under a verified load", hardware::restart),
    small("vfio-ahci-conformance", "every promise of a disk on SATA drives", ahci::conformance),
    small("vfio-ahci-serve", "bind, format, serve, verify on a SATA drive", ahci::serve),
    small("vfio-ahci-media", "bad blocks of a SATA drive fail alone", ahci::media),
    small("vfio-ahci-restart", "ten kills under a verified load, SATA", ahci::restart),
    small("vfio-ahci-drives", "drives of an adapter go and return alone", ahci::drives),
    small("vfio-ahci-pulled", "an adapter is pulled, others go on", ahci::pulled),
    alone("vfio-ahci-rate", "4 KiB reads beside the kernel's driver", rates::ahci),
    alone("vfio-rate", "4 KiB reads beside the kernel's nvme driver", rates::nvme),
    small("vfio-pulled", "the SSD is pulled under load and returns", hardware::pulled::own),
    small("disk-polled", "the kernel polls the SSD for the node", hardware::polled),
    small("disk-passthrough", "past the kernel's block layer", hardware::passthrough),
    small("disk-pulled", "as vfio-pulled, by the kernel's driver", hardware::pulled::of_the_kernel),
];
