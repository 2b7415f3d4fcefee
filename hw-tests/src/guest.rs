//! One running guest: boot it once, run many scripts in it, lose it on drop.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::agent::{Agent, Job};
use crate::image::Image;
use crate::shell;

/// The host's loopback as the guest sees it.
pub(crate) const HOST: &str = "10.0.2.2";

/// The same over IPv6: `::1` of the host.
pub(crate) const HOST_IPV6: &str = "fec0::2";

/// Seven seconds are usual; it has taken seventy beside a build on all processors.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How often it is booted, since emulated timers of several processors can stop while the kernel
/// starts (RCU stalls on its console): nothing of ours runs in it before it is up.
const BOOT_TRIES: usize = 3;

/// TCG at any rate: nested KVM that opens and then cannot run a guest has been seen. A machine with
/// a KVM that works can say `HW_TESTS_ACCEL=kvm`.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=256";

/// What TCG emulates without much cost and the kernel makes good use of.
const PROCESSOR: &str = "qemu64,+x2apic,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+rdrand";

const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr \
    no_timer_check tsc=reliable random.trust_cpu=on null_blk.nr_devices=0";

/// Linux scans the namespaces of an NVMe/TCP controller side by side, and each takes the PDUs of
/// its flushes (and, with a scheduler, of all its requests) from an allocator of the queue that has
/// no lock (`nvme_tcp_init_request` in 6.12): pages are freed in use then, commands never sent,
/// reads failed. Its scans are the work of unbound workers, which have one processor here; the
/// queues' own work is bound to theirs.
const SCANS_ON_ONE_PROCESSOR: &str = "echo 1 > /sys/devices/virtual/workqueue/cpumask";

/// How to boot.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) memory_mib: u32,
    /// Linux makes no more I/O queues than it has processors.
    pub(crate) processors: u32,
    /// Where to write every frame that the guest sends or receives.
    pub(crate) capture: Option<PathBuf>,
    /// A port of the host's loopback that is handed on to a port of the guest.
    pub(crate) forward: Option<(u16, u16)>,
    /// More arguments for QEMU.
    pub(crate) arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory_mib: 768, processors: 4, capture: None, forward: None, arguments: Vec::new() }
    }
}

/// A running guest.
pub(crate) struct Guest {
    qemu: Child,
    agent: Agent,
    folder: PathBuf,
}

impl Guest {
    /// Boots a guest and waits until it takes scripts. `folder` is its own, for console and socket.
    ///
    /// # Errors
    /// If QEMU ends, the guest is not up in time or its clock is fast; the error holds the end of
    /// its console.
    pub(crate) fn boot(image: &Image, folder: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(folder)?;
        for _ in 1..BOOT_TRIES {
            match Self::boot_once(image, folder, options) {
                Ok(guest) => return Ok(guest),
                Err(error) => println!("the guest is booted again, since: {error:#}"),
            }
        }
        Self::boot_once(image, folder, options)
    }

    fn boot_once(image: &Image, folder: &Path, options: &Options) -> Result<Self> {
        let socket = folder.join("agent");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).context("cannot listen for the guest")?;
        listener.set_nonblocking(true)?;
        let mut qemu = command(image, folder, &socket, options)?;
        let started = Instant::now();
        let mut child = qemu.spawn().context("cannot run qemu-system-x86_64")?;
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let ended = child.try_wait()?;
            if ended.is_some() || started.elapsed() > BOOT_LIMIT {
                let _ = child.kill();
                bail!("QEMU did not start:\n{}", read_end(&folder.join("qemu.log")));
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_nonblocking(false)?;
        let agent = Agent::new(stream)?;
        let guest = Self { qemu: child, agent, folder: folder.to_owned() };
        let kernel = guest.agent.greeting(BOOT_LIMIT).with_context(|| guest.console())?;
        guest.run(SCANS_ON_ONE_PROCESSOR, BOOT_LIMIT)?;
        guest.check_clock(started)?;
        println!("guest up after {:.1} s: Linux {kernel}", started.elapsed().as_secs_f32());
        Ok(guest)
    }

    /// A guest cannot have been up for longer than its QEMU runs. Linux takes its processor's
    /// counter to be many times too slow if QEMU is interrupted between two instructions while the
    /// counter is compared with the timer (`PIT calibration deviates from HPET`, it says, and
    /// believes the PIT): the clock is as many times too fast then, and every limit too short.
    fn check_clock(&self, started: Instant) -> Result<()> {
        let printed = self.run("cut -d ' ' -f 1 /proc/uptime", BOOT_LIMIT)?;
        let up: f32 = printed.trim().parse().context("not an uptime")?;
        let since = started.elapsed().as_secs_f32();
        ensure!(up <= since, "its clock is fast: it was {up:.1} s up after {since:.1} s");
        Ok(())
    }

    /// Runs a script and returns what it printed; an error if it fails or takes too long.
    pub(crate) fn run(&self, script: &str, limit: Duration) -> Result<String> {
        self.finish(self.start(script, limit)?)
    }

    /// Runs a script that must fail, and returns what it printed.
    pub(crate) fn run_to_fail(&self, script: &str, limit: Duration) -> Result<String> {
        let job = self.start(script, limit)?;
        let done = job.wait(limit).with_context(|| self.diagnosis())?;
        if done.code == 0 {
            bail!("`{}` should have failed and printed:\n{}", first_line(script), done.printed);
        }
        Ok(done.printed)
    }

    /// Starts a script and leaves it running beside others.
    pub(crate) fn start(&self, script: &str, limit: Duration) -> Result<Job> {
        self.agent.start(script, limit)
    }

    /// Waits for a script; as [`Guest::run`].
    pub(crate) fn finish(&self, job: Job) -> Result<String> {
        let limit = job.limit();
        let script = first_line(job.script()).to_owned();
        let done = job.wait(limit).with_context(|| self.diagnosis())?;
        if done.code != 0 {
            let code = match done.code {
                124 | 137 => format!("took longer than {} s", limit.as_secs()),
                code => format!("failed with {code}"),
            };
            bail!("`{script}` {code} in the guest:\n{}", shell::last_lines(&done.printed, 40));
        }
        Ok(done.printed)
    }

    /// What the kernel has to say, for the report of a failure.
    pub(crate) fn diagnosis(&self) -> String {
        let script =
            "echo w > /proc/sysrq-trigger; sleep 0.3; dmesg | tail -n 40; nvme list-subsys";
        let asked = self.agent.start(script, Duration::from_secs(10));
        match asked.and_then(|job| job.wait(Duration::from_secs(10))) {
            Ok(done) => format!("the guest's kernel log ends:\n{}", done.printed),
            Err(_) => self.console(),
        }
    }

    fn console(&self) -> String {
        format!("the guest's console ends:\n{}", read_end(&self.folder.join("console.log")))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's command line. `setpriv` ends QEMU with the process that started it, however that ends.
fn command(image: &Image, folder: &Path, socket: &Path, options: &Options) -> Result<Command> {
    let accelerator = std::env::var("HW_TESTS_ACCEL").unwrap_or_else(|_| ACCELERATOR.to_owned());
    let processor = if accelerator.starts_with("tcg") { PROCESSOR } else { "host" };
    let forward = options
        .forward
        .map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-10.0.2.15:{guest}"));
    let network = format!("user,id=net{}", forward.unwrap_or_default());
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "kill", "qemu-system-x86_64"])
        .args(["-machine", "q35", "-accel", &accelerator, "-cpu", processor])
        .args(["-smp", &options.processors.to_string()])
        .args(["-m", &options.memory_mib.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", KERNEL_ARGUMENTS])
        .arg("-drive")
        .arg(format!(
            "if=none,id=root,file={},format=raw,readonly=on,file.locking=off",
            image.root.display()
        ))
        .args(["-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"])
        .args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net"])
        .arg("-serial")
        .arg(format!("file:{}", folder.join("console.log").display()))
        .arg("-chardev")
        .arg(format!("socket,id=agent,path={}", socket.display()))
        .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent"]);
    command.args(&options.arguments);
    if let Some(file) = &options.capture {
        command
            .arg("-object")
            .arg(format!("filter-dump,id=capture,netdev=net,maxlen=70000,file={}", file.display()));
    }
    let log = fs::File::create(folder.join("qemu.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn read_end(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    shell::last_lines(&String::from_utf8_lossy(&bytes), 30)
}

fn first_line(script: &str) -> &str {
    script.trim().trim_start_matches("# ").lines().next().unwrap_or_default()
}
