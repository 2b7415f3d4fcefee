//! The traffic of a guest, judged by Wireshark's dissector.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, Maker};
use crate::node::{Ability, Shape};
use crate::scenario::{Outcome, iscsi};
use crate::shell;

const MIB: u64 = 1 << 20;

/// PDU types that the traffic must hold, or it was not the traffic that we meant.
const TYPES_SEEN: [(&str, &str); 7] = [
    ("0", "ICReq"),
    ("1", "ICResp"),
    ("4", "CapsuleCmd"),
    ("5", "CapsuleResp"),
    ("6", "H2CData"),
    ("7", "C2HData"),
    ("9", "R2T"),
];

/// What tshark counted.
#[derive(Debug, Default)]
struct Judgement {
    types: BTreeMap<String, u32>,
    header_digests_good: u32,
    data_digests_good: u32,
    wrong: Vec<String>,
}

/// Captures a short life of a host and has tshark look at every PDU.
pub(crate) fn check(maker: &mut Maker) -> Result<Outcome> {
    let file = maker.folder.join("wire.pcap");
    std::fs::create_dir_all(&maker.folder)?;
    let mut bed = maker.make(Shape::Plain, Some(&file))?;
    let ports = [bed.node.portal().port, bed.node.discovery().port];
    live(&mut bed)?;
    let iscsi_port = bed.node.iscsi().map(|(_, portal)| portal.port);
    if iscsi_port.is_some() {
        iscsi::wire::live(&mut bed)?;
    }
    bed.clear()?;
    drop(bed);
    let judgement = judge(&file, ports)?;
    let Judgement { types, header_digests_good, data_digests_good, wrong } = &judgement;
    let pdus: u32 = types.values().sum();
    println!(
        "tshark: {pdus} PDUs, {header_digests_good} header and {data_digests_good} data digests \
         verified"
    );
    ensure!(wrong.is_empty(), "tshark finds fault:\n{}", shell::last_lines(&wrong.join("\n"), 20));
    for (number, name) in TYPES_SEEN {
        ensure!(types.contains_key(number), "no {name} was seen: {types:?}");
    }
    ensure!(*header_digests_good > 50 && *data_digests_good > 20, "few digests: {judgement:?}");
    if let Some(port) = iscsi_port {
        iscsi::wire::judge(&file, port)?;
    }
    Ok(Outcome::Passed)
}

/// A bit of everything, with and without digests.
fn live(bed: &mut Bed) -> Result<()> {
    let nsid = bed.volume("wire", 64 * MIB, 512)?;
    for digests in ["--hdr-digest --data-digest", "--hdr-digest", "--data-digest", ""] {
        bed.run(&format!(
            "nvme discover -t tcp -a $DISCOVERY_ADDRESS -s $DISCOVERY_PORT > /dev/null
             connect {digests} --nr-io-queues=2
             d=$(device {nsid})
             head -c 700k /dev/urandom > /tmp/data
             for size in 512 4096 8192 20480 262144; do
                 dd if=/tmp/data of=$d bs=$size count=2 oflag=direct status=none
                 dd if=$d of=/dev/null bs=$size count=2 iflag=direct status=none
             done
             blkdiscard -o 1M -l 1M $d
             blkdiscard -z -o 2M -l 1M $d
             nvme flush $d
             nvme id-ns $d > /dev/null
             nvme smart-log /dev/$(controller) > /dev/null"
        ))?;
        if digests.is_empty() {
            bed.resize("wire", 96 * MIB)?;
            bed.volume("wire-too", 32 * MIB, 4096)?;
            bed.run("sleep 1")?;
        }
        if bed.node.offers(Ability::AllCommands) {
            bed.run(&format!(
                "d=$(device {nsid})
                 nvme write $d -s 0 -c 7 -z 4096 -d /tmp/data
                 nvme compare $d -s 0 -c 7 -z 4096 -d /tmp/data"
            ))?;
        }
        bed.run("disconnect")?;
    }
    Ok(())
}

/// Reads the capture with tshark. The ports are given with `-d`: the preference for them gives way
/// to whatever other dissector has a claim on such a port.
///
/// Wireshark 4.0 (Debian 12) dissects every PDU type and, when told to, verifies both digests. It
/// does not know the term request's digest rules, Copy, Verify, nor the newer Identify pages: it
/// shows their bytes without complaint, so a mistake inside them is not seen here.
fn judge(file: &Path, ports: [u16; 2]) -> Result<Judgement> {
    let script = format!(
        "tshark -r '{}' -d tcp.port=={},nvme-tcp -d tcp.port=={},nvme-tcp \
            -o nvme-tcp.check_hdgst:TRUE -o nvme-tcp.check_ddgst:TRUE \
            -Y 'nvme-tcp || _ws.malformed' -T fields -E separator=';' -E occurrence=a \
            -e frame.number -e nvme-tcp.type -e nvme-tcp.hdgst.status -e nvme-tcp.ddgst.status \
            -e _ws.malformed -e nvme-tcp.unknown_data -e nvme-tcp.c2htermreq.fes \
            -e nvme-tcp.h2ctermreq.fes",
        file.display(),
        ports[0],
        ports[1],
    );
    let printed = shell::run(&script, Duration::from_secs(240))?;
    let mut judgement = Judgement::default();
    for line in printed.lines() {
        judgement.add(line).with_context(|| format!("tshark printed {line}"))?;
    }
    Ok(judgement)
}

impl Judgement {
    /// Adds one frame, which may hold several PDUs.
    fn add(&mut self, line: &str) -> Result<()> {
        let fields: Vec<&str> = line.split(';').collect();
        let [frame, types, headers, data, faults @ ..] = fields.as_slice() else {
            anyhow::bail!("too few fields");
        };
        for number in values(types) {
            *self.types.entry(number.trim_start_matches("0x").to_owned()).or_default() += 1;
        }
        for (statuses, good, what) in [
            (headers, &mut self.header_digests_good, "header"),
            (data, &mut self.data_digests_good, "data"),
        ] {
            for status in values(statuses) {
                match status {
                    "1" | "Good" => *good += 1,
                    // Unverified: digests are off. Not present: no data.
                    "2" | "3" | "Unverified" | "Not present" => {}
                    bad => self.wrong.push(format!("frame {frame}: {what} digest is {bad}")),
                }
            }
        }
        if faults.iter().any(|fault| !fault.is_empty()) {
            self.wrong.push(format!("frame {frame}: malformed, unknown or terminated: {faults:?}"));
        }
        Ok(())
    }
}

fn values(field: &str) -> impl Iterator<Item = &str> {
    field.split(',').filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_judged() {
        let mut judgement = Judgement::default();
        judgement.add("7;4,6;1,1;1;;;;").expect("a frame as tshark prints it");
        judgement.add("8;7;;3;;;;").expect("a frame as tshark prints it");
        assert_eq!((judgement.header_digests_good, judgement.data_digests_good), (2, 1));
        assert_eq!(judgement.types.len(), 3);
        assert!(judgement.wrong.is_empty());
        judgement.add("9;7;0;1;;;;").expect("a frame as tshark prints it");
        judgement.add("10;7;1;1;1;;;").expect("a frame as tshark prints it");
        judgement.add("11;3;;;;;0x01;").expect("a frame as tshark prints it");
        assert_eq!(judgement.wrong.len(), 3, "{:?}", judgement.wrong);
    }
}
