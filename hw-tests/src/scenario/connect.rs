//! Finding, connecting, and what the host learns of the node.

use std::time::Duration;

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
    if bed.node.basalt().is_ok() {
        second_passes(bed, nsid)?;
    }
    Ok(Outcome::Passed)
}

/// The node's counter shows that the data digests of aligned reads and writes, in capsules and by
/// R2T, come from the checksums of the store alone. A read of less than a block must show in it.
fn second_passes(bed: &mut Bed, unaligned: u32) -> Result<()> {
    let nsid = bed.volume("aligned", 64 * MIB, 4096)?;
    let passes = |bed: &mut Bed| -> Result<u64> {
        // The counters are published twice a second.
        std::thread::sleep(Duration::from_secs(1));
        Ok(bed.node.basalt()?.core_counter("digest_second_passes")?.iter().sum())
    };
    bed.run(&format!("connect --data-digest; device {nsid}; device {unaligned}"))?;
    let before = passes(bed)?;
    bed.run(&format!(
        "fio --name=aligned --filename=$(device {nsid}) --size=24M --rw=randwrite --iodepth=8 \
             --bsrange=4k-1m --blockalign=4k --ioengine=libaio --direct=1 --verify=crc32c \
             --verify_fatal=1 --do_verify=1"
    ))?;
    let aligned = passes(bed)?;
    ensure!(aligned == before, "{} second passes for aligned I/O", aligned - before);
    bed.run(&format!(
        "dd if=$(device {unaligned}) of=/dev/null bs=512 skip=1 count=1 iflag=direct status=none
         disconnect"
    ))?;
    ensure!(passes(bed)? > aligned, "the counter does not count");
    Ok(())
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

/// Discovery over IPv6 names the address of IPv6, and the host can use it.
pub(crate) fn ipv6(bed: &mut Bed) -> Result<Outcome> {
    let Some(portal) = bed.node.basalt()?.portal_ipv6() else {
        return Ok(Outcome::Skipped("this machine has no IPv6, not even on loopback".to_owned()));
    };
    let nsid = bed.volume("ipv6", 64 * MIB, 4096)?;
    let (address, port) = (&portal.address, portal.port);
    bed.run(
        "card=$(ls /sys/class/net | grep -v lo); ip -6 address add fec0::15/64 dev $card nodad",
    )?;
    let log = json(bed, &format!("nvme discover -t tcp -a {address} -s {port} -o json"))?;
    let records = field(&log, "records")?.as_array().cloned().unwrap_or_default();
    let nqn = bed.node.nqn().to_owned();
    let ours = records.iter().filter(|record| record["subnqn"] == nqn.as_str());
    let named = ours.map(|record| (&record["adrfam"], &record["traddr"], &record["trsvcid"]));
    let expected = port.to_string();
    let is_named = |(family, at, service): (&Value, &Value, &Value)| {
        family == "ipv6" && at == address.as_str() && service == expected.as_str()
    };
    ensure!(named.clone().any(is_named), "no {portal:?} in {log}");
    bed.run(&format!(
        "ADDRESS={address} PORT={port}
         connect --hdr-digest --data-digest
         grep -q 'traddr={address},' /sys/class/nvme/$(controller)/address
         fio --name=ipv6 --filename=$(device {nsid}) --size=8M --rw=randwrite --bsrange=4k-64k \
             --blockalign=4k --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c \
             --verify_fatal=1 --do_verify=1
         disconnect
         nvme connect-all -t tcp -a {address} -s {port}
         device {nsid}
         disconnect"
    ))?;
    Ok(Outcome::Passed)
}

fn json(bed: &Bed, script: &str) -> Result<Value> {
    let printed = bed.run(script)?;
    Ok(serde_json::from_str(&printed)?)
}
