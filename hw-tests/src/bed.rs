//! One guest and one node, as a scenario finds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use target_io::testing::free_port;

use crate::agent::Job;
use crate::guest::{Guest, Options};
use crate::image::Image;
use crate::node::{Basalt, Node, Nvmet, Shape};

/// Which node to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The `basalt` program on the host.
    Basalt,
    /// The Linux kernel's target in the guest, to prove the scenarios themselves.
    Nvmet,
}

/// What is needed to make a [`Bed`].
#[derive(Clone)]
pub(crate) struct Maker {
    pub(crate) image: Image,
    pub(crate) kind: Kind,
    /// The program under test.
    pub(crate) binary: PathBuf,
    /// For everything that a run leaves behind.
    pub(crate) folder: PathBuf,
    pub(crate) made: u32,
    /// No bed could be made; another try would end the same.
    pub(crate) is_broken: bool,
}

/// A booted guest and a started node without volumes.
pub(crate) struct Bed {
    pub(crate) guest: Guest,
    pub(crate) node: Box<dyn Node>,
    pub(crate) shape: Shape,
    volumes: Vec<String>,
    /// A second host, once a scenario has asked for it.
    second: Option<Guest>,
    image: Image,
    folder: PathBuf,
}

/// Functions that every script may use.
const PRELUDE: &str = r#"
set -euo pipefail
connect() { # OPTION...
    nvme connect -t tcp -a $ADDRESS -s $PORT -n $NQN --reconnect-delay=1 --ctrl-loss-tmo=120 \
        --keep-alive-tmo=10 "$@" > /dev/null
}
disconnect() { nvme disconnect -n $NQN > /dev/null; }
controller() { # the first controller of the subsystem, such as nvme0
    local c
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat $c/subsysnqn)" = $NQN ] && { echo ${c##*/}; return; }
    done
    echo "no controller of $NQN" >&2
    return 1
}
device() { # NSID: its block device, waiting for it
    local d
    for _ in $(seq 150); do
        # Paths of a multipath device have a c in their names.
        d=$(grep -slx "$1" /sys/block/nvme*n*/nsid | grep -v 'nvme[0-9]*c' | head -n 1) || true
        d=${d%/nsid}
        [ -n "$d" ] && [ -b /dev/${d##*/} ] && {
            echo /dev/${d##*/}
            return
        }
        sleep 0.1
    done
    echo "namespace $1 did not appear" >&2
    return 1
}
until_true() { # SECONDS COMMAND...
    local n=$(($1 * 5))
    shift
    for _ in $(seq $n); do
        "$@" && return
        sleep 0.2
    done
    echo "never true: $*" >&2
    return 1
}
"#;

/// Leaves no session behind.
const DISCONNECTED: &str = r#"
    nvme disconnect-all
    [ -z "$(ls /sys/class/nvme)" ]
    ! pidof iscsid > /dev/null || iscsiadm -m node --logout > /dev/null 2>&1 || true
    [ -z "$(ls /sys/class/iscsi_session 2> /dev/null)" ]
"#;

/// Makes the second guest another host than the first.
const SECOND_IDENTITY: &str = "
    echo nqn.2014-08.org.nvmexpress:uuid:6e8a0a5c-3c0f-4c6c-8d0e-5d1f6f6b0002 > /etc/nvme/hostnqn
    echo 6e8a0a5c-3c0f-4c6c-8d0e-5d1f6f6b0002 > /etc/nvme/hostid";

/// What no kernel should ever say.
const BUGS: &str = "BUG:|WARNING:|Oops|hung task|blocked for more";

/// What a kernel says of storage that fails it.
const ERRORS: &str = "I/O error|conflict error|critical [a-z]+ error|conn error|ping timeout";

/// Enough for one step on a machine that does other work besides.
const STEP_LIMIT: Duration = Duration::from_secs(90);

impl Maker {
    /// One that makes machines beside those of this one.
    pub(crate) fn lane(&self, number: usize) -> Self {
        let folder = self.folder.join(format!("lane-{number}"));
        Self { folder, made: 0, ..self.clone() }
    }

    /// Boots a guest and starts a node.
    pub(crate) fn make(&mut self, shape: Shape, capture: Option<&Path>) -> Result<Bed> {
        self.made += 1;
        let folder = self.folder.join(self.made.to_string());
        let mut options = Options { capture: capture.map(Path::to_owned), ..Options::default() };
        let mut node: Box<dyn Node> = match self.kind {
            Kind::Basalt => Box::new(Basalt::new(&self.binary, &folder.join("node"), shape)?),
            Kind::Nvmet => {
                let port = free_port();
                options.forward = Some((port, Nvmet::GUEST_PORT));
                Box::new(Nvmet::new(port))
            }
        };
        let guest = Guest::boot(&self.image, &folder.join("guest"), &options)?;
        node.start(&guest)?;
        let image = self.image.clone();
        Ok(Bed { guest, node, shape, volumes: Vec::new(), second: None, image, folder })
    }
}

impl Bed {
    /// Makes a volume that is deleted after the scenario, and returns its namespace id.
    pub(crate) fn volume(&mut self, name: &str, bytes: u64, block: u32) -> Result<u32> {
        let nsid = self.node.create_volume(&self.guest, name, bytes, block)?;
        self.volumes.push(name.to_owned());
        Ok(nsid)
    }

    /// As [`Bed::volume`], of 4096-byte blocks, on the small disk.
    pub(crate) fn small_volume(&mut self, name: &str, bytes: u64) -> Result<u32> {
        let nsid = self.node.basalt()?.create_small(name, bytes)?;
        self.volumes.push(name.to_owned());
        Ok(nsid)
    }

    pub(crate) fn resize(&mut self, name: &str, bytes: u64) -> Result<()> {
        self.node.resize_volume(&self.guest, name, bytes)
    }

    pub(crate) fn delete(&mut self, name: &str) -> Result<()> {
        self.node.delete_volume(&self.guest, name)?;
        self.volumes.retain(|volume| volume != name);
        Ok(())
    }

    /// Ends the node at once, makes its small disk larger by so many MiB, and starts it again.
    pub(crate) fn kill_and_grow(&mut self, mib: u64) -> Result<()> {
        self.node.kill(&self.guest)?;
        self.node.basalt()?.grow_small(mib)?;
        self.node.start(&self.guest)
    }

    /// Ends the node at once, leaves it dead for `pause`, and starts it again.
    pub(crate) fn kill_and_restart(&mut self, pause: Duration) -> Result<()> {
        self.node.kill(&self.guest)?;
        std::thread::sleep(pause);
        self.node.start(&self.guest)
    }

    /// Runs a script in the guest, with the functions of the prelude.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        self.guest.finish(self.start(script, STEP_LIMIT)?)
    }

    /// Starts a load in the guest: fio with these arguments after the lines of `before`, again and
    /// again for a few seconds each, until [`Bed::end_load`].
    pub(crate) fn load(&self, before: &str, fio: &str) -> Result<Job> {
        let script = format!(
            "{before}
             rm -f /tmp/enough
             while [ ! -e /tmp/enough ]
             do
                 fio --ioengine=libaio --direct=1 --time_based --runtime=4 {fio}
             done"
        );
        self.start(&script, Duration::from_secs(240))
    }

    /// As [`Bed::load`]: writes to `$d`, which `before` sets, and reads back what was written a
    /// little later, all verified.
    pub(crate) fn verified_load(&self, before: &str) -> Result<Job> {
        self.load(
            before,
            "--name=load --filename=$d --size=16M --rw=randwrite --bs=4k --iodepth=8 \
                 --verify=crc32c --verify_fatal=1 --verify_backlog=64",
        )
    }

    /// Ends a load, which must still be running, and nothing of it may have failed.
    pub(crate) fn end_load(&self, mut load: Job) -> Result<()> {
        let runs = load.is_running();
        self.run("touch /tmp/enough")?;
        self.guest.finish(load).context("the load")?;
        self.run("rm /tmp/enough")?;
        ensure!(runs, "the load ended before it was told to");
        Ok(())
    }

    /// Runs a script that must fail.
    pub(crate) fn run_to_fail(&self, script: &str) -> Result<String> {
        self.guest.run_to_fail(&self.with_prelude(script, 'a'), STEP_LIMIT)
    }

    /// Starts a script that runs beside others.
    pub(crate) fn start(&self, script: &str, limit: Duration) -> Result<Job> {
        self.guest.start(&self.with_prelude(script, 'a'), limit)
    }

    /// As [`Bed::run`], in a second host, which is booted when first asked for and has names and
    /// identifiers of its own.
    pub(crate) fn run_in_second(&mut self, script: &str) -> Result<String> {
        let job = self.start_in_second(script, STEP_LIMIT)?;
        self.second.as_ref().context("it was just booted")?.finish(job)
    }

    /// As [`Bed::start`], in the second host.
    pub(crate) fn start_in_second(&mut self, script: &str, limit: Duration) -> Result<Job> {
        if self.second.is_none() {
            let options = Options { memory_mib: 512, processors: 2, ..Options::default() };
            let guest = Guest::boot(&self.image, &self.folder.join("second"), &options)?;
            guest.run(SECOND_IDENTITY, STEP_LIMIT)?;
            self.second = Some(guest);
        }
        let script = self.with_prelude(script, 'b');
        self.second.as_ref().context("it was just booted")?.start(&script, limit)
    }

    /// What the kernels have said is as it should be, given what the scenario did; a bug or a task
    /// that hangs never is.
    pub(crate) fn forgive(&mut self) -> Result<()> {
        self.check_kernels(BUGS)
    }

    /// The same for all scenarios: nothing connected, no volume, and a kernel without complaints.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.run(DISCONNECTED)?;
        if self.second.is_some() {
            self.run_in_second(DISCONNECTED)?;
        }
        for volume in std::mem::take(&mut self.volumes) {
            self.node.delete_volume(&self.guest, &volume)?;
        }
        self.check_kernels(&format!("{BUGS}|{ERRORS}"))
    }

    /// Empties the kernels' logs; an error if something of this pattern was there, with what was
    /// said just before it and after.
    fn check_kernels(&mut self, pattern: &str) -> Result<()> {
        let script = format!("dmesg -c | grep -E -B 20 -A 20 '{pattern}' | head -n 120 || true");
        let mut complaints = self.run(&script)?;
        if self.second.is_some() {
            complaints += &self.run_in_second(&script)?;
        }
        ensure!(complaints.is_empty(), "the guest's kernel complains:\n{complaints}");
        Ok(())
    }

    fn with_prelude(&self, script: &str, guest: char) -> String {
        let portal = self.node.portal();
        let discovery = self.node.discovery();
        let (iqn, iscsi) = self.node.iscsi().unzip();
        format!(
            "# {}\nNQN={} ADDRESS={} PORT={} DISCOVERY_ADDRESS={} DISCOVERY_PORT={}\n\
             IQN={} ISCSI_PORT={} GUEST={guest}\n{PRELUDE}\n{script}",
            script.trim().lines().next().unwrap_or_default(),
            self.node.nqn(),
            portal.address,
            portal.port,
            discovery.address,
            discovery.port,
            iqn.unwrap_or_default(),
            iscsi.map_or(0, |portal| portal.port),
        )
    }
}

/// A field of what `nvme ... -o json` printed.
pub(crate) fn field<'a>(
    document: &'a serde_json::Value,
    name: &str,
) -> Result<&'a serde_json::Value> {
    document.get(name).with_context(|| format!("no field {name} in {document}"))
}
