use super::*;
use crate::disk::{WriteData, conformance};
use crate::dma::{Arena, PAGE, Pool};
use crate::uring::RingOptions;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

const SIZE: u64 = 16 << 20;

/// A directory that goes with the test, on the file system of the build.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let executable = std::env::current_exe().unwrap();
        let name = format!("kernel-disk-{name}-{}", std::process::id());
        let path = executable.parent().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, size: u64) -> PathBuf {
        let path = self.0.join("disk");
        create_file(&path, size, Allocation::Reserved, &mut |_| {}).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A loop device over a file; `None` with the reason where there can be none.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path) -> Option<Self> {
        let mut command = Command::new("losetup");
        match command.args(["--find", "--show", "--direct-io=on"]).arg(file).output() {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            other => {
                skip(&format!("losetup needs root and the loop driver: {other:?}"));
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let status = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

/// Says why a test shows nothing here, past the capture of the harness.
fn skip(reason: &str) {
    writeln!(io::stdout(), "SKIP kernel disk: {reason}").unwrap();
}

fn ring() -> Ring {
    Ring::new(RingOptions::default()).unwrap()
}

fn open(path: &Path) -> Result<KernelFile, OpenError> {
    KernelFile::open(path, &KernelOptions::default())
}

/// Whether the build directory is on a file system with direct I/O; anything else is a failure.
fn has_direct_io(path: &Path) -> bool {
    match open(path) {
        Err(OpenError::NoDirectIo(_)) => {
            skip("no direct I/O in the build directory");
            false
        }
        other => {
            other.unwrap();
            true
        }
    }
}

#[test]
fn a_file_conforms() {
    let scratch = Scratch::new("file");
    let path = scratch.file(SIZE);
    if has_direct_io(&path) {
        conformance::run(&mut || Box::new(SelfDriven::new(&open(&path).unwrap(), ring())));
    }
}

/// On a device without queues for it the kernel polls as it can, or refuses, and then all goes by
/// the other ring.
#[test]
fn a_file_that_the_kernel_is_asked_to_poll_conforms() {
    let scratch = Scratch::new("polled");
    let path = scratch.file(SIZE);
    if has_direct_io(&path) {
        conformance::run(&mut || {
            let mut file = open(&path).unwrap();
            assert_eq!((file.way().access(), file.way().refused()), (Access::Plain, None));
            file.poll_anyway();
            Box::new(SelfDriven::new(&file, ring()))
        });
    }
}

/// What the kernel refuses to poll for goes on by the other way, and whoever looks is told.
#[test]
fn a_way_that_the_kernel_refuses_is_left() {
    let scratch = Scratch::new("refused");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let mut file = open(&path).unwrap();
    file.poll_anyway();
    file.buffer();
    assert_eq!((file.way().access(), file.way().left()), (Access::Polled, None));
    let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
    let mut disks = [0, 1].map(|_| SelfDriven::new(&file, ring()));
    let mut done = Vec::with_capacity(2);
    for (disk, tag) in disks.iter_mut().zip(1..) {
        for part in 0..2 {
            disk.submit(tag, Op::Read { offset: part * 4096, buf: pool.alloc(4096).unwrap() });
        }
        while disk.in_flight() > 0 {
            disk.poll(&mut done);
            assert!(done.drain(..).all(|done| (done.tag, done.result) == (tag, Ok(()))));
        }
        let left = file.way().left().map(|(access, why)| (access, why.contains("not poll")));
        assert_eq!((left, file.way().access()), (Some((Access::Polled, true)), Access::Plain));
        assert!(!disk.must_poll(), "the kernel wakes whoever sleeps");
    }
}

/// A generic device that takes no commands: all goes by the file, and whoever looks is told.
#[test]
fn a_generic_device_that_refuses_commands_is_left() {
    let scratch = Scratch::new("mute");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let mute = || {
        let mut file = open(&path).unwrap();
        file.pass_through_anyway();
        assert_eq!(file.way().access(), Access::Passthrough);
        file
    };
    conformance::run(&mut || Box::new(SelfDriven::new(&mute(), ring())));
    let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
    let file = mute();
    let mut disks = [0, 1].map(|_| SelfDriven::new(&file, ring()));
    for (disk, part) in disks.iter_mut().zip(0..) {
        disk.submit(part, Op::Read { offset: part * 4096, buf: pool.alloc(4096).unwrap() });
    }
    let mut done = Vec::with_capacity(2);
    for disk in &mut disks {
        while disk.in_flight() > 0 {
            disk.poll(&mut done);
        }
        assert!(!disk.must_poll());
    }
    assert!(done.drain(..).all(|done| done.result == Ok(())));
    // Without rings for commands the way was left before anything was tried.
    assert!(file.way().left().is_some_and(|(access, _)| access.event() == "disk.passthrough"));
    assert_eq!(file.way().access(), Access::Plain);
    drop((disks, file));
    open(&path).expect("the lock went with the rings");
}

#[test]
fn passthrough_is_for_nvme_namespaces() {
    let scratch = Scratch::new("no-passthrough");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let options = KernelOptions { passthrough: true, ..KernelOptions::default() };
    let refused = |path: &Path| {
        let file = KernelFile::open(path, &options).unwrap();
        assert_eq!(file.way().access(), Access::Plain);
        let (access, why) = file.way().refused().expect("it was asked for");
        assert_eq!(access, Access::Passthrough);
        why.to_owned()
    };
    assert!(refused(&path).contains("a file"));
    if let Some(device) = LoopDevice::new(&path) {
        assert!(refused(&device.0).contains("no NVMe"));
    }
}

#[test]
fn a_part_of_a_sparse_file_conforms_and_stays_within() {
    let scratch = Scratch::new("part");
    let path = scratch.0.join("disk");
    create_file(&path, 3 * SIZE, Allocation::Sparse, &mut |_| {}).unwrap();
    if !has_direct_io(&path) {
        return;
    }
    conformance::run(&mut || {
        let part = open(&path).unwrap().part(SIZE..2 * SIZE);
        assert_eq!(part.info().capacity, SIZE);
        Box::new(SelfDriven::new(&part, ring()))
    });
    let whole = fs::read(&path).unwrap();
    assert!(whole[..SIZE as usize].iter().all(|&byte| byte == 0));
    assert!(whole[2 * SIZE as usize..].iter().all(|&byte| byte == 0));
    assert!(whole[SIZE as usize..2 * SIZE as usize].iter().any(|&byte| byte != 0));
}

/// tmpfs has one of the two ways to write zeroes: operations in flight together all find it.
#[test]
fn a_file_in_memory_conforms_and_finds_its_way_to_zeroes() {
    let path = PathBuf::from(format!("/dev/shm/kernel-disk-{}", std::process::id()));
    if create_file(&path, SIZE, Allocation::Reserved, &mut |_| {}).is_err() {
        skip("no /dev/shm");
        return;
    }
    let opened = open(&path);
    fs::remove_file(&path).unwrap();
    let Ok(file) = opened else {
        skip("no direct I/O in /dev/shm");
        return;
    };
    let mut disk = SelfDriven::new(&file, ring());
    for index in 0..16 {
        disk.submit(index, Op::WriteZeroes { offset: index * 8192, len: 4096 });
    }
    let mut done = Vec::with_capacity(16);
    while done.len() < 16 {
        disk.poll(&mut done);
    }
    assert!(done.iter().all(|completion| completion.result == Ok(())), "{done:?}");
    drop(disk);
    conformance::run(&mut || Box::new(SelfDriven::new(&file, ring())));
}

#[test]
fn a_loop_device_conforms() {
    let scratch = Scratch::new("loop");
    let Some(device) = LoopDevice::new(&scratch.file(SIZE)) else { return };
    assert_eq!(open(&device.0).unwrap().info().capacity, SIZE);
    conformance::run(&mut || Box::new(SelfDriven::new(&open(&device.0).unwrap(), ring())));
    let listed = list_devices().unwrap().into_iter().find(|entry| entry.path == device.0);
    let listed = listed.expect("the list has the device");
    assert_eq!((listed.size, listed.used_by, listed.read_only), (SIZE, None, false));
}

/// A file system of 1 MiB in memory; `None` where nothing can be mounted.
struct TinyMount(PathBuf);

impl TinyMount {
    fn new(scratch: &Scratch) -> Option<Self> {
        let at = scratch.0.join("tiny");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        skip("mounting needs root");
        None
    }
}

impl Drop for TinyMount {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

fn write_op(pool: &Pool, offset: u64, len: usize) -> Op {
    let data = WriteData::One(pool.alloc(len).unwrap().freeze());
    Op::Write { offset, data, fua: false }
}

#[test]
fn a_full_file_system_is_no_space_and_leaves_the_disk_good() {
    let scratch = Scratch::new("full");
    let Some(mount) = TinyMount::new(&scratch) else { return };
    let path = mount.0.join("disk");
    create_file(&path, SIZE, Allocation::Sparse, &mut |_| {}).unwrap();
    if !has_direct_io(&path) {
        return;
    }
    let pool = Arena::new(8 << 20, 1).unwrap().pool(0);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring());
    let too_much = write_op(&pool, 0, 2 << 20);
    assert_eq!(execute(&mut disk, too_much).result, Err(Error::NoSpace));
    let freed = Op::Deallocate { offset: 0, len: 2 << 20 };
    assert_eq!(execute(&mut disk, freed).result, Ok(()));
    assert_eq!(execute(&mut disk, write_op(&pool, 4 << 20, 4096)).result, Ok(()));
}

/// The file is made immutable under the disk, and mutable again: too late.
#[test]
fn a_disk_that_failed_a_write_is_not_written_again_but_read() {
    let scratch = Scratch::new("failing");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let attribute = |change| {
        let status = Command::new("chattr").arg(change).arg(&path).status();
        status.is_ok_and(|status| status.success())
    };
    let pool = Arena::new(8 << 20, 1).unwrap().pool(0);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring());
    assert_eq!(execute(&mut disk, write_op(&pool, 0, 4096)).result, Ok(()));
    if !attribute("+i") {
        skip("cannot make a file immutable here");
        return;
    }
    let failed = execute(&mut disk, write_op(&pool, 0, 4096)).result;
    assert!(attribute("-i"));
    assert_eq!(failed, Err(Error::Failed));
    assert_eq!(execute(&mut disk, write_op(&pool, 0, 4096)).result, Err(Error::Failed));
    assert_eq!(execute(&mut disk, Op::Flush).result, Err(Error::Failed));
    assert_eq!(disk.in_flight(), 0);
    let read = Op::Read { offset: 0, buf: pool.alloc(4096).unwrap() };
    assert_eq!(execute(&mut disk, read).result, Ok(()));
}

/// What the kernel would say of an operation that failed.
fn ended(op: Op, error: i32) -> FileDone {
    FileDone { tag: 1, op, result: Err(io::Error::from_raw_os_error(error)) }
}

#[test]
fn all_cores_of_a_disk_fail_together() {
    let scratch = Scratch::new("together");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let pool = Arena::new(8 << 20, 1).unwrap().pool(0);
    let file = open(&path).unwrap();
    let mut first = SelfDriven::new(&file.part(0..SIZE / 2), ring());
    let mut second = SelfDriven::new(&file.clone().part(SIZE / 2..SIZE), ring());
    let freed = Op::Deallocate { offset: 0, len: 4096 };
    assert_eq!(first.disk.finish(ended(freed, libc::EIO)).result, Err(Error::Failed));
    assert_eq!(execute(&mut first, Op::Flush).result, Ok(()), "advice may be refused");
    second.submit(1, write_op(&pool, 0, 4096));
    assert_eq!(first.disk.finish(ended(Op::Flush, libc::EIO)).result, Err(Error::Failed));
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        second.poll(&mut done);
    }
    assert_eq!(done[0].result, Err(Error::Failed), "in flight when the other core's flush failed");
    assert_eq!(execute(&mut second, Op::Flush).result, Err(Error::Failed));
    let read = Op::Read { offset: 0, buf: pool.alloc(4096).unwrap() };
    assert_eq!(execute(&mut second, read).result, Ok(()));
    drop((first, second, file));
    let mut anew = SelfDriven::new(&open(&path).unwrap(), ring());
    assert_eq!(execute(&mut anew, Op::Flush).result, Ok(()));
}

/// The file below a loop device loses its second half: the device reports `EIO` there.
#[test]
fn unreadable_blocks_are_a_media_error_and_others_are_fine() {
    let scratch = Scratch::new("media");
    let path = scratch.file(SIZE);
    let Some(device) = LoopDevice::new(&path) else { return };
    let pool = Arena::new(8 << 20, 1).unwrap().pool(0);
    let mut disk = SelfDriven::new(&open(&device.0).unwrap(), ring());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(SIZE / 2).unwrap();
    let read = |offset| Op::Read { offset, buf: pool.alloc(PAGE).unwrap() };
    assert_eq!(execute(&mut disk, read(SIZE / 2)).result, Err(Error::Media));
    assert_eq!(execute(&mut disk, read(SIZE / 2 - 4096)).result, Ok(()));
    assert_eq!(execute(&mut disk, write_op(&pool, 0, 4096)).result, Ok(()));
}

#[test]
fn a_mounted_device_is_refused() {
    let scratch = Scratch::new("mounted");
    let Some(device) = LoopDevice::new(&scratch.file(SIZE)) else { return };
    let at = scratch.0.join("mnt");
    fs::create_dir(&at).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&device.0).status();
    let mounted = Command::new("mount").arg(&device.0).arg(&at).status();
    if !made.is_ok_and(|status| status.success()) || !mounted.is_ok_and(|status| status.success()) {
        skip("cannot make and mount a file system here");
        return;
    }
    let refused = open(&device.0);
    let listed = list_devices().unwrap().into_iter().find(|entry| entry.path == device.0);
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    let expected = at.to_str().unwrap();
    assert!(matches!(refused, Err(OpenError::Mounted { at, .. }) if at == expected));
    assert_eq!(listed.unwrap().used_by.as_deref(), Some(expected));
}

#[test]
fn registered_buffers_conform() {
    let scratch = Scratch::new("registered");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let (arena, ring) = (Arena::new(4 << 20, 1).unwrap(), ring());
    if let Err(error) = ring.register_arena(&arena) {
        skip(&error.to_string());
        return;
    }
    let pool = arena.pool(0);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring);
    let mut buf = pool.alloc(3 * PAGE).unwrap();
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 7) as u8);
    let data = buf.freeze();
    let op = Op::Write { offset: 8192, data: WriteData::One(data.clone()), fua: true };
    assert_eq!(execute(&mut disk, op).result, Ok(()));
    let op = Op::Read { offset: 8192, buf: pool.alloc(3 * PAGE).unwrap() };
    let Op::Read { buf, .. } = execute(&mut disk, op).op else { panic!("it was a read") };
    assert!(buf[..] == data[..]);
}

fn execute(disk: &mut dyn Disk, op: Op) -> Completion {
    disk.submit(1, op);
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        disk.poll(&mut done);
    }
    done.remove(0)
}

#[test]
fn data_are_there_after_reopening() {
    let scratch = Scratch::new("reopen");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let pool = Arena::new(4 << 20, 1).unwrap().pool(0);
    let mut buf = pool.alloc(PAGE).unwrap();
    buf.fill(0x42);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring());
    let op = Op::Write { offset: SIZE - 4096, data: WriteData::One(buf.freeze()), fua: true };
    assert_eq!(execute(&mut disk, op).result, Ok(()));
    drop(disk);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring());
    let op = Op::Read { offset: SIZE - 4096, buf: pool.alloc(PAGE).unwrap() };
    let Op::Read { buf, .. } = execute(&mut disk, op).op else { panic!("it was a read") };
    assert!(buf.iter().all(|&byte| byte == 0x42));
}

#[test]
fn dropping_a_disk_waits_for_what_is_in_flight() {
    let scratch = Scratch::new("drop");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let (pool, ring) = (Arena::new(4 << 20, 1).unwrap().pool(0), ring());
    let free = pool.available();
    let mut disk = open(&path).unwrap().attach(&ring);
    for index in 0..100 {
        disk.submit(index, Op::Read { offset: index * 4096, buf: pool.alloc(PAGE).unwrap() });
    }
    drop(disk);
    assert_eq!(pool.available(), free);
    assert_eq!(ring.turn(), 0);
}

#[test]
fn a_locked_file_is_busy_until_released() {
    let scratch = Scratch::new("lock");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let first = open(&path).unwrap();
    let part = first.part(0..4096);
    assert!(matches!(open(&path), Err(OpenError::Busy(_))));
    drop(first);
    assert!(matches!(open(&path), Err(OpenError::Busy(_))), "a part keeps the lock");
    drop(part);
    open(&path).unwrap();
}

#[test]
fn errors_say_what_is_wrong() {
    let scratch = Scratch::new("errors");
    let missing = scratch.0.join("missing");
    assert!(matches!(open(&missing), Err(OpenError::NotFound(path)) if path == missing));
    assert!(matches!(open(&scratch.0), Err(OpenError::NotADisk(_))));
    assert!(matches!(open(Path::new("/dev/null")), Err(OpenError::NotADisk(_))));
    assert!(matches!(
        open(Path::new("/proc/self/status")),
        Err(OpenError::Permission(_)) | Err(OpenError::NoDirectIo(_))
    ));
    let empty = scratch.0.join("empty");
    fs::write(&empty, b"").unwrap();
    assert!(matches!(open(&empty), Err(OpenError::Empty(_) | OpenError::NoDirectIo(_))));
    let again = create_file(&empty, SIZE, Allocation::Sparse, &mut |_| {});
    assert!(matches!(again, Err(OpenError::Exists(_))));
    let huge = scratch.0.join("huge");
    let refused = create_file(&huge, 1 << 60, Allocation::Reserved, &mut |_| {});
    assert!(matches!(refused, Err(OpenError::NoSpace { .. })));
    assert!(!huge.exists(), "what could not be made is removed");
    assert!(matches!(reserve_file(&empty, 0..1 << 60), Err(OpenError::NoSpace { .. })));
    reserve_file(&empty, 0..1 << 20).unwrap();
    let reserved = fs::metadata(&empty).unwrap();
    assert!(reserved.len() == 0 && reserved.blocks() * 512 >= 1 << 20, "{reserved:?}");
}

#[test]
fn written_files_have_all_their_blocks() {
    let scratch = Scratch::new("written");
    let path = scratch.0.join("disk");
    let mut told = Vec::new();
    create_file(&path, 9 << 20, Allocation::Written, &mut |done| told.push(done)).unwrap();
    let mib = 1 << 20;
    assert_eq!(told, [4 * mib, 8 * mib, 9 * mib, 9 * mib]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 9 << 20);
}

#[test]
fn a_shortened_file_loses_blocks_and_writes_beyond_fail_for_good() {
    let scratch = Scratch::new("short");
    let path = scratch.file(SIZE);
    if !has_direct_io(&path) {
        return;
    }
    let pool = Arena::new(4 << 20, 1).unwrap().pool(0);
    let mut disk = SelfDriven::new(&open(&path).unwrap(), ring());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let read = |offset| Op::Read { offset, buf: pool.alloc(PAGE).unwrap() };
    assert_eq!(execute(&mut disk, read(4096)).result, Ok(()));
    assert_eq!(execute(&mut disk, read(8192)).result, Err(Error::Media));
}

#[test]
fn errors_of_the_kernel_have_their_meaning() {
    let os = io::Error::from_raw_os_error;
    assert_eq!(read_error(&os(libc::EIO)), Error::Media);
    assert_eq!(read_error(&os(libc::ENODEV)), Error::Removed);
    assert_eq!(read_error(&io::ErrorKind::UnexpectedEof.into()), Error::Media);
    assert_eq!(write_error(&os(libc::EIO)), Error::Failed);
    assert_eq!(write_error(&os(libc::ENOSPC)), Error::NoSpace);
    assert_eq!(write_error(&os(libc::ENXIO)), Error::Removed);
    assert_eq!(write_error(&io::ErrorKind::Unsupported.into()), Error::Unsupported);
}
