//! Finding, connecting, and what the host learns of the node.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Outcome;
use crate::bed::{Bed, field};
use crate::node::Ability;

const MIB: u64 = 1 << 20;

/// Both portals show the subsystem in the discovery log, and the host can connect by that log.
pub(crate) fn discover(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("discovered", 64 * MIB, 4096)?;
    let nqn = bed.node.nqn().to_owned();
    for portal in [bed.node.discovery(), bed.node.portal()] {
        let log = bed.run(&format!(
            "nvme discover -t tcp -a {} -s {} -o json",
            portal.address, portal.port
        ))?;
        let log: Value = serde_json::from_str(&log)?;
        let records = field(&log, "records")?.as_array().cloned().unwrap_or_default();
        let ours = records.iter().any(|record| record["subnqn"] == nqn.as_str());
        ensure!(ours, "{nqn} is not in the log of {portal:?}: {log}");
    }
    bed.run(&format!(
        "nvme connect-all -t tcp -a $DISCOVERY_ADDRESS -s $DISCOVERY_PORT
         device {nsid}
         disconnect"
    ))?;
    Ok(Outcome::Passed)
}

/// Everything that nvme-cli prints of a controller and its namespaces can be read and makes sense.
pub(crate) fn identify(bed: &mut Bed) -> Result<Outcome> {
    let small = bed.volume("small-blocks", 64 * MIB, 512)?;
    let large = bed.volume("large-blocks", 128 * MIB, 4096)?;
    bed.run(&format!("connect; device {small}; device {large}"))?;
    let controller = json(bed, "nvme id-ctrl /dev/$(controller) -o json")?;
    ensure!(controller["subnqn"] == bed.node.nqn(), "wrong subnqn in {controller}");
    ensure!(field(&controller, "kas")?.as_u64() > Some(0), "no keep alive: {controller}");
    for (nsid, bytes, block) in [(small, 64 * MIB, 512), (large, 128 * MIB, 4096)] {
        let namespace = json(bed, &format!("nvme id-ns $(device {nsid}) -o json"))?;
        ensure!(namespace["nsze"].as_u64() == Some(bytes / block), "nsze in {namespace}");
        let size = bed.run(&format!("blockdev --getsize64 --getss $(device {nsid})"))?;
        let sizes: Vec<u64> = size.split_whitespace().flat_map(str::parse).collect();
        ensure!(sizes == [bytes, block], "the host sees {sizes:?}, not {bytes} of {block}");
        let identity = bed.run(&format!("d=$(device {nsid}); cat /sys/block/${{d##*/}}/wwid"))?;
        ensure!(identity.contains("uuid."), "no identity: {identity}");
    }
    let listed = json(bed, "nvme list -o json")?;
    let devices = field(&listed, "Devices")?.as_array().map_or(0, Vec::len);
    ensure!(devices == 2, "`nvme list` shows {devices} namespaces: {listed}");
    bed.run(&format!(
        "c=/dev/$(controller)
         nvme list-ns $c
         nvme ns-descs $c -n {small}
         nvme smart-log $c
         nvme error-log $c -e 4
         nvme fw-log $c
         nvme effects-log $c
         nvme changed-ns-list-log $c
         nvme get-feature $c -f 7
         nvme get-feature $c -f 0xb
         nvme get-feature $c -f 0xf
         nvme show-regs $c
         disconnect"
    ))?;
    Ok(Outcome::Passed)
}

/// Each choice of digests and queues carries data unharmed.
pub(crate) fn digests(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("digests", 64 * MIB, 512)?;
    for digests in ["", "--hdr-digest", "--data-digest", "--hdr-digest --data-digest"] {
        for queues in [1, 4] {
            let job = bed.run(&format!(
                "connect {digests} --nr-io-queues={queues}
                 d=$(device {nsid})
                 [ $(cat /sys/class/nvme/$(controller)/queue_count) = {} ]
                 head -c 3000000 /dev/urandom > /tmp/sent
                 dd if=/tmp/sent of=$d bs=1000k oflag=direct conv=sync status=none
                 head -c 6000 /dev/urandom | dd of=/tmp/sent conv=notrunc status=none
                 head -c 6000 /tmp/sent | dd of=$d conv=notrunc,fsync status=none
                 disconnect
                 connect {digests} --nr-io-queues={queues}
                 head -c 3000000 $(device {nsid}) | cmp - /tmp/sent
                 disconnect",
                queues + 1
            ));
            job.map_err(|error| error.context(format!("{queues} queues, digests: `{digests}`")))?;
        }
    }
    Ok(Outcome::Passed)
}

/// A host that is taken off the list is refused, and let in again when it is back on it.
pub(crate) fn host_list(bed: &mut Bed) -> Result<Outcome> {
    if !bed.node.offers(Ability::HostLists) {
        return Ok(Outcome::Skipped(format!("not set up for {}", bed.node.name())));
    }
    let nsid = bed.volume("guarded", 64 * MIB, 4096)?;
    let host = bed.run("cat /etc/nvme/hostnqn")?.trim().to_owned();
    bed.node.allow("*", false)?;
    bed.run_to_fail("connect")?;
    bed.node.allow(&host, true)?;
    bed.run(&format!("connect; device {nsid}"))?;
    bed.node.allow(&host, false)?;
    bed.run("gone() { ! grep -q live /sys/class/nvme/*/state; }; until_true 20 gone")?;
    bed.node.allow("*", true)?;
    bed.run(&format!("nvme disconnect-all; connect; device {nsid}; disconnect"))?;
    Ok(Outcome::Passed)
}

fn json(bed: &Bed, script: &str) -> Result<Value> {
    let printed = bed.run(script)?;
    Ok(serde_json::from_str(&printed)?)
}
