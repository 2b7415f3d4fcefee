//! A node of a few vectors, for tests of what is above it.

use super::Node;
use dataplane::node::{
    Answer, Command, CommandError, ConnectionInfo, CoreCounters, DiskInfo, Exports, HostInfo,
    NodeEvent, Redirect, Severity, Snapshot, VolumeInfo,
};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// A node without disks or hosts. A volume named `slow` takes its time to be shown.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    volumes: Mutex<Vec<VolumeInfo>>,
    hosts: Mutex<Vec<String>>,
    events: Mutex<Vec<NodeEvent>>,
    redirect: Mutex<Option<Redirect>>,
    /// Whether it was shut down.
    pub(crate) is_stopped: AtomicBool,
    /// Whether pings wait.
    pub(crate) is_stalled: AtomicBool,
    /// Pings that do.
    pub(crate) waiting: AtomicUsize,
}

/// How long a slow answer takes.
pub(crate) const SLOW: Duration = Duration::from_secs(2);

impl Fake {
    pub(crate) fn event(&self, text: &str) {
        let mut events = self.events.lock().expect("no panic");
        let sequence = events.len() as u64 + 1;
        events.push(NodeEvent {
            sequence,
            unix_ms: 0,
            severity: Severity::Info,
            kind: "test".to_owned(),
            text: text.to_owned(),
        });
    }

    fn offline(&self, disk: &str) -> Answer {
        self.event(&format!("{disk} is offline"));
        Answer::Done
    }

    fn ping(&self) -> Answer {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        while self.is_stalled.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Answer::Done
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut VolumeInfo)) -> AnswerResult {
        let mut volumes = self.volumes.lock().expect("no panic");
        let found = volumes.iter_mut().find(|volume| volume.name == name);
        let volume = found.ok_or_else(|| missing(name))?;
        change(volume);
        Ok(Answer::Done)
    }
}

type AnswerResult = Result<Answer, CommandError>;

fn missing(name: &str) -> CommandError {
    CommandError::NotFound(format!("there is no volume {name:?}"))
}

fn volume(name: String, id: (Uuid, u32), size: (u64, u32), disk: String) -> VolumeInfo {
    VolumeInfo {
        name,
        uuid: id.0,
        size: size.0,
        used: 0,
        block_size: size.1,
        nsid: id.1,
        subsystem: "nqn".to_owned(),
        disk,
        write_protected: false,
        lun: (id.1 - 1) as u16,
        exports: Exports::default(),
    }
}

impl Fake {
    /// Commands about volumes; others come back.
    fn volume_call(&self, command: Command) -> Result<AnswerResult, Command> {
        Ok(match command {
            Command::CreateVolume { name, size, block_size, uuid, disk } => {
                let mut volumes = self.volumes.lock().expect("no panic");
                if volumes.iter().any(|volume| volume.name == name) {
                    let exists = format!("there is a volume {name:?}");
                    return Ok(Err(CommandError::Exists(exists)));
                }
                let nsid = volumes.len() as u32 + 1;
                let disk = disk.unwrap_or_default();
                let volume = volume(name, (uuid, nsid), (size, block_size), disk);
                volumes.push(volume.clone());
                Ok(Answer::Volume(volume))
            }
            Command::DeleteVolume { name } => {
                let mut volumes = self.volumes.lock().expect("no panic");
                let before = volumes.len();
                volumes.retain(|volume| volume.name != name);
                if volumes.len() < before { Ok(Answer::Done) } else { Err(missing(&name)) }
            }
            Command::ResizeVolume { name, size } => self.change(&name, |volume| volume.size = size),
            Command::RenameVolume { name, to } => self.change(&name, |volume| volume.name = to),
            Command::ExportVolume { name, exports } => {
                self.change(&name, |volume| volume.exports = exports)
            }
            Command::ListVolumes => {
                Ok(Answer::Volumes(self.volumes.lock().expect("no panic").clone()))
            }
            Command::ShowVolume { name } => {
                if name == "slow" {
                    std::thread::sleep(SLOW);
                }
                let volumes = self.volumes.lock().expect("no panic");
                let found = volumes.iter().find(|volume| volume.name == name);
                found.cloned().map(Answer::Volume).ok_or_else(|| missing(&name))
            }
            other => return Err(other),
        })
    }
}

impl Node for Fake {
    fn call(&self, command: Command) -> AnswerResult {
        let command = match self.volume_call(command) {
            Ok(answer) => return answer,
            Err(command) => command,
        };
        match command {
            Command::AllowHost { nqn } => {
                self.hosts.lock().expect("no panic").push(nqn);
                Ok(Answer::Done)
            }
            Command::AllowInitiator { name, .. } => {
                self.hosts.lock().expect("no panic").push(name);
                Ok(Answer::Done)
            }
            Command::DenyHost { nqn } => {
                self.hosts.lock().expect("no panic").retain(|host| *host != nqn);
                Ok(Answer::Done)
            }
            Command::ListHosts => {
                let hosts = self.hosts.lock().expect("no panic");
                Ok(Answer::Hosts(
                    hosts.iter().map(|nqn| HostInfo { nqn: nqn.clone(), chap: false }).collect(),
                ))
            }
            Command::ListDisks => Ok(Answer::Disks(vec![DiskInfo {
                path: "/dev/x".to_owned(),
                uuid: Some(Uuid::nil()),
                capacity: 10,
                free: 5,
                shards: 1,
                cores: vec![0],
                mode: Some("intent".to_owned()),
                state: "ok".to_owned(),
                reason: None,
                access: None,
                drive: None,
            }])),
            Command::OnlineDisk { disk } => Err(missing(&disk)),
            Command::OfflineDisk { disk } => Ok(self.offline(&disk)),
            Command::Ping => Ok(self.ping()),
            Command::RedirectInitiators { to } => {
                *self.redirect.lock().expect("no panic") = to;
                Ok(Answer::Done)
            }
            Command::ShowRedirect => Ok(Answer::Redirect(*self.redirect.lock().expect("no panic"))),
            Command::ListConnections => Ok(Answer::Connections(vec![ConnectionInfo {
                id: 7,
                peer: "192.0.2.1:1".to_owned(),
                host: String::new(),
                protocol: "nvme".to_owned(),
                controller: Some(3),
                queue: None,
                core: 1,
            }])),
            _ => unreachable!("commands about volumes"),
        }
    }

    fn counters(&self) -> Snapshot {
        let cores = vec![CoreCounters { processor: 3, turns: 9, ..CoreCounters::default() }];
        Snapshot { uptime_ns: 5, cores, ..Snapshot::default() }
    }

    fn events_since(&self, sequence: u64) -> Vec<NodeEvent> {
        let events = self.events.lock().expect("no panic");
        events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    fn shutdown(&self) -> Result<(), CommandError> {
        self.is_stopped.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn local_addresses(&self) -> Vec<SocketAddr> {
        vec!["127.0.0.1:4420".parse().expect("an address")]
    }
}
