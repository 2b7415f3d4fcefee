//! A guest with an IOMMU and disks, and the node in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::adapter::Adapter;
use super::qmp::Qmp;
use crate::agent::Job;
use crate::bed::Maker;
use crate::guest::{Guest, Options};
use crate::shell;

const LIMIT: Duration = Duration::from_secs(120);

/// The node's subsystem.
const NQN: &str = "nqn.2026-11.io.basalt:hardware";

/// QEMU 10.0 that emulates several ends in an assertion of its own (`iotlb_to_section`) when
/// functions are reset again and again; with all of them in one thread the guest hangs at times.
const PROCESSORS: u32 = 1;

/// A namespace of an emulated SSD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    pub(crate) mib: u64,
    pub(crate) block: u32,
    /// Bytes of metadata for each block.
    pub(crate) metadata: u32,
}

impl Namespace {
    pub(crate) const PLAIN: Self = Self { mib: 1024, block: 4096, metadata: 0 };
}

/// An emulated SSD, alone behind a root port: the first is at 0000:01:00.0, and so on.
#[derive(Clone, Debug)]
pub(crate) struct Ssd {
    pub(crate) namespaces: Vec<Namespace>,
    /// Keep a log of all writes and flushes beside the first namespace.
    pub(crate) logged: bool,
}

/// Disks of a machine, in the order of their root ports.
struct Disks<'a> {
    ssds: &'a [Ssd],
    adapters: &'a [Adapter],
    /// Whether an IOMMU stands before them.
    iommu: bool,
    /// For the namespaces and drives, in order; new ones where there are no more.
    images: &'a [PathBuf],
}

/// A running machine.
pub(crate) struct Machine {
    pub(crate) guest: Guest,
    folder: PathBuf,
}

/// Functions that every script may use.
const PRELUDE: &str = r#"
set -euo pipefail
B=/run/basalt
C=/run/check
export BASALT_SOCKET=/run/node.sock
until_there() { # PATH...
    local p
    for p in "$@"; do
        for _ in $(seq 200); do [ -e "$p" ] && break; sleep 0.1; done
        [ -e "$p" ] || { echo "$p did not appear" >&2; return 1; }
    done
}
start() { # starts the node and waits until it answers
    setsid $B serve --config /run/node.toml >> /run/node.log 2>&1 < /dev/null 7<&- 8>&- &
    echo $! > /run/node.pid
    for _ in $(seq 300); do
        $B node > /dev/null 2>&1 && return
        kill -0 "$(cat /run/node.pid)" 2> /dev/null || break
        sleep 0.1
    done
    echo "the node did not start:" >&2
    tail -n 20 /run/node.log >&2
    return 1
}
stop() { # ends it well
    kill "$(cat /run/node.pid)"
    for _ in $(seq 300); do
        kill -0 "$(cat /run/node.pid)" 2> /dev/null || return 0
        sleep 0.1
    done
    echo "the node did not stop" >&2
    return 1
}
crash() { # ends it at once
    kill -9 "$(cat /run/node.pid)"
    while kill -0 "$(cat /run/node.pid)" 2> /dev/null; do sleep 0.02; done
}
connect() { # OPTION...
    nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $NQN --reconnect-delay=1 --ctrl-loss-tmo=120 \
        --keep-alive-tmo=30 "$@" > /dev/null
}
device() { # the first namespace of the node, waiting for it
    local c d
    for _ in $(seq 100); do
        for c in /sys/class/nvme/nvme*; do
            [ "$(cat $c/transport 2> /dev/null)" = tcp ] || continue
            for d in /sys/block/nvme*n1; do
                [ "$(cat $d/wwid 2> /dev/null)" = "uuid.$UUID" ] && [ -b /dev/${d##*/} ] && {
                    echo /dev/${d##*/}
                    return
                }
            done
        done
        sleep 0.1
    done
    echo "the volume did not appear" >&2
    return 1
}
configure() { # DEVICE NUMBER [KEY]: a node on this namespace; WORD: without an IOMMU
    cat > /run/node.toml << EOF
[node]
name = "hardware"
nqn = "$NQN"
cores = [0]
buffers = "32MiB"
${WORD:+no_iommu = true}
[[disk]]
device = "$1"
${3:-namespace} = $2
[[portal]]
listen = "127.0.0.1:4420"
EOF
}
UUID=5f0c8c2e-0000-4000-8000-00000000cafe
ONE=5f0c8c2e-0000-4000-8000-000000000001
TWO=5f0c8c2e-0000-4000-8000-000000000002
"#;

impl Machine {
    /// Boots it, with the program under test at `/run/basalt`.
    pub(crate) fn boot(maker: &mut Maker, ssds: &[Ssd]) -> Result<Self> {
        Self::start_qemu(maker, &Disks { ssds, adapters: &[], iommu: true, images: &[] })
    }

    /// As [`Machine::boot`], with SSDs and AHCI adapters, with or without an IOMMU before them.
    pub(crate) fn boot_both(
        maker: &mut Maker,
        ssds: &[Ssd],
        adapters: &[Adapter],
        iommu: bool,
    ) -> Result<Self> {
        Self::start_qemu(maker, &Disks { ssds, adapters, iommu, images: &[] })
    }

    /// As [`Machine::boot`], with AHCI adapters.
    pub(crate) fn boot_adapters(maker: &mut Maker, adapters: &[Adapter]) -> Result<Self> {
        Self::start_qemu(maker, &Disks { ssds: &[], adapters, iommu: true, images: &[] })
    }

    /// As [`Machine::boot_adapters`], with these images for the drives, in order.
    pub(crate) fn boot_adapters_on(
        maker: &mut Maker,
        adapters: &[Adapter],
        images: &[PathBuf],
    ) -> Result<Self> {
        Self::start_qemu(maker, &Disks { ssds: &[], adapters, iommu: true, images })
    }

    /// As [`Machine::boot`], with these images for the namespaces, in order, not new ones.
    pub(crate) fn boot_on(maker: &mut Maker, ssds: &[Ssd], images: &[PathBuf]) -> Result<Self> {
        Self::start_qemu(maker, &Disks { ssds, adapters: &[], iommu: true, images })
    }

    fn start_qemu(maker: &mut Maker, disks: &Disks<'_>) -> Result<Self> {
        let Disks { ssds, adapters, iommu, images } = disks;
        maker.made += 1;
        let folder = maker.folder.join(maker.made.to_string());
        fs::create_dir_all(&folder)?;
        let iommu = iommu.then_some(["-device", "intel-iommu,intremap=on"]);
        let mut arguments: Vec<String> = iommu.iter().flatten().map(ToString::to_string).collect();
        let beside = maker.binary.parent().context("the program lies in no folder")?;
        let check = beside.join("examples/device_check");
        for (name, program) in [("basalt", &maker.binary), ("check", &check)] {
            arguments.extend(program_disk(&folder, name, program)?);
        }
        let qmp = format!("unix:{},server=on,wait=off", folder.join("qmp").display());
        arguments.extend(["-qmp".to_owned(), qmp]);
        let mut images = images.iter();
        for (number, ssd) in ssds.iter().enumerate() {
            arguments.extend(ssd.arguments(&folder, number + 1, &mut images)?);
        }
        for (number, adapter) in (ssds.len() + 1..).zip(*adapters) {
            arguments.extend(adapter.arguments(&folder, number, &mut images)?);
        }
        let options =
            Options { memory_mib: 1024, processors: PROCESSORS, arguments, ..Options::default() };
        let guest = Guest::boot(&maker.image, &folder.join("guest"), &options)?;
        let machine = Self { guest, folder };
        machine.run(
            r#"# take the programs
            for d in /sys/block/vd*; do
                name=$(cat $d/serial)
                case $name in basalt | check)
                    cat /dev/${d##*/} > /run/$name
                    chmod +x /run/$name
                esac
            done
            # a kernel of the tester's own has them built in
            modprobe -a vfio-pci nvme ahci sd_mod || [ ! -e /lib/modules/$(uname -r) ]
            echo 64 > /proc/sys/vm/nr_hugepages"#,
        )?;
        let controller = if ssds.is_empty() { "" } else { "/dev/nvme0n1" };
        let drives = (b'a'..).take(adapters.iter().map(|adapter| adapter.drives.len()).sum());
        let drives: String =
            drives.map(|letter| format!(" /dev/sd{}", char::from(letter))).collect();
        machine.run(&format!("# disks\nuntil_there {controller}{drives}\ndmesg -C"))?;
        Ok(machine)
    }

    pub(crate) fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.folder.join("qmp"))
    }

    /// A file of the machine on the host.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a script in the guest, with the functions of the prelude.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        self.guest.finish(self.start(script)?)
    }

    /// Starts a script that runs beside others.
    pub(crate) fn start(&self, script: &str) -> Result<Job> {
        self.guest.start(&with_prelude(script), LIMIT)
    }

    /// What every scenario ends with: the kernel has no complaint, and the IOMMU had to stop
    /// nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let faults = self.run("# faults\ndmesg | grep -E 'DMAR:.*(fault|Request)' || true")?;
        ensure!(faults.is_empty(), "a device reached for memory that is not mapped:\n{faults}");
        let complaints = self.run(
            "# complaints\ndmesg | grep -E 'BUG:|WARNING:|Oops|hung task|blocked for more' || true",
        )?;
        ensure!(complaints.is_empty(), "the guest's kernel complains:\n{complaints}");
        Ok(())
    }

    /// For the report of a failure.
    pub(crate) fn log(&self) -> String {
        let log =
            self.run("# log\ntouch /run/node.log; tail -n 30 /run/node.log; dmesg | tail -n 30");
        log.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Runs a scenario's body, and the common check after it.
    pub(crate) fn finish(self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let ended = body(&self).and_then(|()| self.check());
        ended.with_context(|| self.log())
    }
}

impl Namespace {
    /// An empty file for it.
    fn make(&self, file: &Path) -> Result<PathBuf> {
        let block = u64::from(self.block);
        let bytes = (self.mib << 20) / block * (block + u64::from(self.metadata));
        fs::File::create(file)?.set_len(bytes)?;
        Ok(file.to_owned())
    }

    /// Block nodes that keep a log of all writes and flushes; behind the namespace, in the same
    /// log, lies a disk of 1 MiB for notes.
    fn logged(&self, folder: &Path, node: &str, file: &Path) -> Result<Vec<String>> {
        let size = self.mib << 20;
        fs::File::options().write(true).open(file)?.set_len(size + (1 << 20))?;
        let log = folder.join("ssd1.log");
        fs::File::create(&log)?.set_len(4 << 30)?;
        let (file, log) = (file.display(), log.display());
        let base = format!("{node}-base");
        Ok(vec![
            format!("driver=file,filename={file},node-name={node}-file,discard=unmap"),
            format!("driver=file,filename={log},node-name={node}-log"),
            format!(
                "driver=blklogwrites,node-name={base},file={node}-file,log={node}-log,\
                 log-sector-size=512,log-super-update-interval=1,discard=unmap"
            ),
            format!("driver=raw,node-name={node},file={base},offset=0,size={size},discard=unmap"),
            format!("driver=raw,node-name={node}-ack,file={base},offset={size},size=1048576"),
        ])
    }
}

impl Ssd {
    /// One namespace of 4096-byte blocks.
    pub(crate) fn plain() -> Self {
        Self { namespaces: vec![Namespace::PLAIN], logged: false }
    }

    /// With these namespaces.
    pub(crate) fn of(namespaces: &[Namespace]) -> Self {
        Self { namespaces: namespaces.to_vec(), logged: false }
    }

    /// QEMU's arguments for it, as the `number`th.
    fn arguments<'a>(
        &self,
        folder: &Path,
        number: usize,
        images: &mut impl Iterator<Item = &'a PathBuf>,
    ) -> Result<Vec<String>> {
        let port = format!("pcie-root-port,id=port{number},chassis={number},slot={number}");
        let ssd = format!("nvme,id=ssd{number},serial=SSD{number},bus=port{number}");
        let mut arguments = vec![port, format!("{ssd},max_ioqpairs=8,msix_qsize=9")];
        arguments = arguments.into_iter().flat_map(|a| ["-device".to_owned(), a]).collect();
        let mut blocks = Vec::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let id = index + 1;
            let node = format!("disk{number}-{id}");
            let file = match images.next() {
                Some(image) => image.clone(),
                None => namespace.make(&folder.join(format!("{node}.img")))?,
            };
            if self.logged && index == 0 {
                blocks.extend(namespace.logged(folder, &node, &file)?);
                let ack = format!("virtio-blk-pci,drive={node}-ack,serial=ack,share-rw=on");
                arguments.extend(["-device".to_owned(), ack]);
            } else {
                let file = file.display();
                blocks.push(format!("driver=file,filename={file},node-name={node}-file"));
                blocks.push(format!("driver=raw,node-name={node}-base,file={node}-file"));
                blocks.push(format!("driver=raw,node-name={node},file={node}-base"));
            }
            let (block, metadata) = (namespace.block, namespace.metadata);
            let blocks = format!("logical_block_size={block},physical_block_size={block}");
            let place = format!("drive={node},bus=ssd{number},nsid={id},share-rw=on");
            let device = format!("nvme-ns,{place},{blocks},ms={metadata}");
            arguments.extend(["-device".to_owned(), device]);
        }
        // A block node is made before the device that stands on it.
        let blocks = blocks.into_iter().flat_map(|block| ["-blockdev".to_owned(), block]);
        Ok(blocks.chain(arguments).collect())
    }
}

/// A program on a disk of its own, which the guest knows by its serial number.
fn program_disk(folder: &Path, name: &str, program: &Path) -> Result<Vec<String>> {
    let copy = folder.join(name);
    let script = format!("objcopy --strip-debug '{}' '{}'", program.display(), copy.display());
    shell::run(&script, Duration::from_secs(60))?;
    let drive = format!("if=none,id={name},file={},format=raw,readonly=on", copy.display());
    let device = format!("virtio-blk-pci,drive={name},serial={name}");
    Ok(vec!["-drive".to_owned(), drive, "-device".to_owned(), device])
}

fn with_prelude(script: &str) -> String {
    let first = script.trim().trim_start_matches("# ").lines().next().unwrap_or_default();
    format!("# {first}\nNQN={NQN}\n{PRELUDE}\n{script}")
}
