//! The Linux kernel's own target, inside the guest: it shows that a scenario is right before a node
//! of ours is blamed.
//!
//! The guest reaches it by way of the host (slirp out, forwarded in), so that its traffic is seen
//! where that of a node on the host is. Volumes are loop devices on sparse files in memory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ability, Node, Portal};
use crate::guest::{Guest, HOST};

const NQN: &str = "nqn.2026-11.io.example:nvmet";
const LIMIT: Duration = Duration::from_secs(60);

/// Shell functions for configfs.
const SETUP: &str = r"
    set -eu
    cd /sys/kernel/config/nvmet
    listen() { # PORT NUMBER
        mkdir ports/$1
        echo tcp > ports/$1/addr_trtype
        echo ipv4 > ports/$1/addr_adrfam
        echo 10.0.2.15 > ports/$1/addr_traddr
        echo $2 > ports/$1/addr_trsvcid
    }
";

/// The kernel's target in the guest; `port` of the host is forwarded to it.
pub(crate) struct Nvmet {
    port: u16,
    volumes: BTreeMap<String, u32>,
    next: u32,
    is_set_up: bool,
}

impl Nvmet {
    /// Where the target listens in the guest.
    pub(crate) const GUEST_PORT: u16 = 4420;

    pub(crate) fn new(port: u16) -> Self {
        Self { port, volumes: BTreeMap::new(), next: 1, is_set_up: false }
    }

    fn number(&self, name: &str) -> Result<u32> {
        self.volumes.get(name).copied().with_context(|| format!("no volume {name}"))
    }
}

impl Node for Nvmet {
    fn name(&self) -> &'static str {
        "nvmet"
    }

    fn start(&mut self, guest: &Guest) -> Result<()> {
        let mut script = String::new();
        if !self.is_set_up {
            script.push_str("modprobe -a nvmet-tcp loop; mkdir -p /tmp/volumes;");
            script.push_str("mountpoint -q /sys/kernel/config ||");
            script.push_str(" mount -t configfs configfs /sys/kernel/config\n");
        }
        script.push_str(SETUP);
        if !self.is_set_up {
            writeln!(script, "mkdir subsystems/{NQN}; listen 1 {}", Self::GUEST_PORT)?;
            writeln!(script, "echo 1 > subsystems/{NQN}/attr_allow_any_host")?;
        }
        writeln!(script, "ln -s $PWD/subsystems/{NQN} ports/1/subsystems/")?;
        guest.run(&script, LIMIT)?;
        self.is_set_up = true;
        Ok(())
    }

    fn kill(&mut self, guest: &Guest) -> Result<()> {
        let script = format!("{SETUP} rm ports/1/subsystems/{NQN}");
        guest.run(&script, LIMIT).map(drop)
    }

    fn nqn(&self) -> &str {
        NQN
    }

    fn portal(&self) -> Portal {
        Portal { address: HOST.to_owned(), port: self.port }
    }

    fn discovery(&self) -> Portal {
        self.portal()
    }

    fn offers(&self, _ability: Ability) -> bool {
        false
    }

    fn create_volume(&mut self, guest: &Guest, name: &str, bytes: u64, block: u32) -> Result<u32> {
        let number = self.next;
        let script = format!(
            "{SETUP}
             truncate -s {bytes} /tmp/volumes/{name}
             disk=$(losetup --show -f --sector-size {block} --direct-io=off /tmp/volumes/{name})
             mkdir subsystems/{NQN}/namespaces/{number}
             cd subsystems/{NQN}/namespaces/{number}
             echo $disk > device_path
             echo 1 > enable"
        );
        guest.run(&script, LIMIT)?;
        self.next += 1;
        self.volumes.insert(name.to_owned(), number);
        Ok(number)
    }

    fn resize_volume(&mut self, guest: &Guest, name: &str, bytes: u64) -> Result<()> {
        let number = self.number(name)?;
        let script = format!(
            "{SETUP}
             truncate -s {bytes} /tmp/volumes/{name}
             cd subsystems/{NQN}/namespaces/{number}
             losetup -c $(cat device_path)
             echo 1 > revalidate_size"
        );
        guest.run(&script, LIMIT).map(drop)
    }

    fn delete_volume(&mut self, guest: &Guest, name: &str) -> Result<()> {
        let number = self.number(name)?;
        let script = format!(
            "{SETUP}
             cd subsystems/{NQN}/namespaces
             disk=$(cat {number}/device_path)
             echo 0 > {number}/enable
             rmdir {number}
             losetup -d $disk
             rm /tmp/volumes/{name}"
        );
        guest.run(&script, LIMIT)?;
        self.volumes.remove(name);
        Ok(())
    }

    fn allow(&mut self, _host: &str, _allowed: bool) -> Result<()> {
        bail!("not tried with the kernel's target")
    }

    fn log(&mut self) -> String {
        String::new()
    }
}
