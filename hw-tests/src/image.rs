//! The guest that every machine test boots: Debian trixie with its stock 6.12 kernel.
//!
//! Built once into `target/hil/KEY`, where KEY is a hash of everything here that goes into it.
//! Takes root and `mmdebstrap`, and the machine's own Debian mirror; the machine's apt sources are
//! left alone. Measured at two minutes beside other builds, of which 50 s were the processors'.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

const SUITE: &str = "trixie";
const KERNEL: &str = "linux-image-amd64";

/// Names a kernel (a bzImage) to boot instead, with everything built in that the guests use.
const KERNEL_VARIABLE: &str = "HW_TESTS_KERNEL";

/// What the guest has beyond the minimum.
const PACKAGES: &str = "busybox-static,ddpt,e2fsprogs,fio,iproute2,jq,kmod,libiscsi7,lsscsi,lvm2,\
    mount,nvme-cli,open-iscsi,procps,qemu-utils,sanlock,sg3-utils,util-linux,xfsprogs";

/// QEMU's `iscsi://` comes in a package with drivers whose libraries are large: one file is taken.
const QEMU_DRIVERS: &str = "qemu-block-extra";

/// Parts of the kernel's module tree that are kept; the rest is hardware that QEMU has not.
const MODULE_FOLDERS: [&str; 31] = [
    "arch/x86/crypto",
    "block",
    "crypto",
    "drivers/ata",
    "drivers/block/loop",
    "drivers/block/null_blk",
    "drivers/block/virtio_blk",
    "drivers/md",
    "drivers/net/dummy",
    "drivers/net/net_failover",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/nvme",
    "drivers/scsi/device_handler",
    "drivers/scsi/iscsi",
    "drivers/scsi/libiscsi",
    "drivers/scsi/scsi",
    "drivers/scsi/sd_mod",
    "drivers/scsi/sg",
    "drivers/vfio",
    "drivers/virtio",
    "drivers/watchdog/softdog",
    "fs/configfs",
    "fs/ext4",
    "fs/jbd2",
    "fs/mbcache",
    "fs/overlayfs",
    "fs/xfs",
    "lib",
    "net",
    "virt/lib",
];

/// Loaded before the root can be mounted.
const EARLY_MODULES: [&str; 3] = ["virtio_blk", "ext4", "overlay"];

const GUEST_INIT: &str = include_str!("../guest/guest-init");
const INITRAMFS_INIT: &str = include_str!("../guest/initramfs-init");

/// Raised when this file changes in a way that the key would not show.
const VERSION: u32 = 1;

/// The files that QEMU boots.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) root: PathBuf,
}

impl Image {
    /// The image below `target`, built if it is not there. Safe to call from several processes.
    pub(crate) fn ready(target: &Path) -> Result<Self> {
        let cache = target.join("hil");
        fs::create_dir_all(&cache)?;
        let lock = fs::File::create(cache.join("lock"))?;
        lock.lock()?;
        let folder = cache.join(format!("{:016x}", key()));
        if !folder.is_dir() {
            println!("building the guest image (once)");
            let work = cache.join("building");
            let _ = fs::remove_dir_all(&work);
            fs::create_dir_all(&work)?;
            build(&work).context("cannot build the guest image")?;
            fs::rename(&work, &folder)?;
        }
        Ok(Self {
            kernel: std::env::var_os(KERNEL_VARIABLE)
                .map_or_else(|| folder.join("vmlinuz"), PathBuf::from),
            initramfs: folder.join("initramfs"),
            root: folder.join("root.ext4"),
        })
    }
}

fn key() -> u64 {
    let mut hasher = DefaultHasher::new();
    let lists = (SUITE, KERNEL, PACKAGES, QEMU_DRIVERS, MODULE_FOLDERS, EARLY_MODULES);
    (VERSION, lists, GUEST_INIT, INITRAMFS_INIT).hash(&mut hasher);
    hasher.finish()
}

fn build(work: &Path) -> Result<()> {
    let mirror = mirror()?;
    let root = work.join("root");
    install_userland(&root, &mirror)?;
    let release = install_kernel(work, &root, &mirror)?;
    write_executable(&root.join("usr/sbin/guest-init"), GUEST_INIT)?;
    pack_root(work, &root)?;
    pack_initramfs(work, &root, &release)?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// The Debian mirror that this machine is set up for.
fn mirror() -> Result<String> {
    let script = "apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages'";
    let listed = shell::run(script, Duration::from_secs(60))?;
    let debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    let found = listed.lines().find(debian);
    Ok(found.context("apt on this machine has no Debian mirror")?.to_owned())
}

fn install_userland(root: &Path, mirror: &str) -> Result<()> {
    let script = format!(
        "mmdebstrap --quiet --mode=root --variant=minbase --components=main --format=directory \
           --aptopt='Apt::Install-Recommends \"false\"' \
           --dpkgopt='path-exclude=/usr/share/man/*' \
           --dpkgopt='path-exclude=/usr/share/doc/*' \
           --dpkgopt='path-exclude=/usr/share/locale/*' \
           --include={PACKAGES} {SUITE} '{}' '{mirror}'",
        root.display()
    );
    shell::run(&script, Duration::from_secs(900)).map(drop)
}

/// Downloads and unpacks the kernel, keeps the modules that are of use, and returns its release.
fn install_kernel(work: &Path, root: &Path, mirror: &str) -> Result<String> {
    let folders = MODULE_FOLDERS.map(|folder| format!("kernel/{folder}*")).join(" ");
    let script = format!(
        r#"
        set -eu
        cd '{work}'
        mkdir -p apt/sources apt/lists/partial apt/cache/archives/partial
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb [signed-by=$keyring] {mirror} {SUITE} main" > apt/sources/guest.list
        apt() {{
            "$@" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$PWD/apt/sources" \
                -o Dir::State::lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" \
                -o Dir::State::status=/dev/null -o APT::Sandbox::User=root
        }}
        apt apt-get update -qq
        package=$(apt apt-cache depends {KERNEL} | sed -n 's/.*Depends: \(linux-image-6\)/\1/p')
        apt apt-get download -qq "$package"
        dpkg-deb -x linux-image-*.deb kernel
        apt apt-get download -qq {QEMU_DRIVERS}
        dpkg-deb -x {QEMU_DRIVERS}_*.deb drivers
        (cd drivers && cp --parents usr/lib/*/qemu/block-iscsi.so '{root}')
        cp kernel/boot/vmlinuz-* vmlinuz
        cd kernel/usr/lib/modules/*
        release=${{PWD##*/}}
        kept='{root}'/usr/lib/modules/$release
        mkdir -p "$kept"
        cp modules.builtin modules.builtin.modinfo modules.order "$kept"
        cp -a --parents {folders} "$kept"
        find "$kept" -name '*.ko.xz' -print0 | xargs -0 -P 2 -n 32 xz -d
        chroot '{root}' depmod "$release" 2> /dev/null
        rm -rf '{work}'/apt '{work}'/kernel '{work}'/drivers '{work}'/*.deb
        echo "$release"
        "#,
        work = work.display(),
        root = root.display(),
    );
    let printed = shell::run(&script, Duration::from_secs(600))?;
    let release = printed.lines().last().unwrap_or_default().to_owned();
    ensure!(release.starts_with("6."), "unexpected kernel release `{release}`");
    Ok(release)
}

/// An ext4 image without journal: it is mounted read-only, by several guests at once.
fn pack_root(work: &Path, root: &Path) -> Result<()> {
    let script = format!(
        "megabytes=$(du -sm '{root}' | cut -f1)
         PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -m 0 \
            -d '{root}' '{work}/root.ext4' $((megabytes * 12 / 10 + 32))M",
        work = work.display(),
        root = root.display(),
    );
    shell::run(&script, Duration::from_secs(300)).map(drop)
}

/// A cpio archive of busybox and the early modules in the order of their needs.
fn pack_initramfs(work: &Path, root: &Path, release: &str) -> Result<()> {
    let tree = work.join("initramfs.tree");
    for folder in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "new"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(root.join("usr/bin/busybox"), tree.join("bin/busybox"))?;
    write_executable(&tree.join("init"), INITRAMFS_INIT)?;
    let mut loaded: Vec<String> = Vec::new();
    for module in EARLY_MODULES {
        let script =
            format!("chroot '{}' modprobe -S {release} --show-depends {module}", root.display());
        let printed = shell::run(&script, Duration::from_secs(60))?;
        let files = printed.lines().filter_map(|line| line.strip_prefix("insmod "));
        for file in files.map(str::trim) {
            if loaded.iter().any(|done| done == file) {
                continue;
            }
            let name = file.rsplit('/').next().unwrap_or(file);
            let place = format!("modules/{:02}-{name}", loaded.len());
            fs::copy(root.join(file.trim_start_matches('/')), tree.join(place))?;
            loaded.push(file.to_owned());
        }
    }
    if loaded.is_empty() {
        bail!("no early module was found");
    }
    let script = format!(
        "cd '{}' && find . | bin/busybox cpio -o -H newc > '{}/initramfs' && cd .. && rm -rf '{0}'",
        tree.display(),
        work.display(),
    );
    shell::run(&script, Duration::from_secs(60)).map(drop)
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
