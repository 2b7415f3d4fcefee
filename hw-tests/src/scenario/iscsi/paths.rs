//! Several portals of one target: what discovery lists, two paths to a unit, moves from one portal
//! to another.

use anyhow::{Context, Result};

use super::{MIB, Outcome, TOOLS, lacking, step, unit};
use crate::agent::Job;
use crate::bed::Bed;
use crate::node::Portal;

/// Functions for sessions through several portals.
const PATHS: &str = r#"
    path() { # PORT LUN: the unit's block device through this portal, waiting for it
        local d s
        for _ in $(seq 150); do
            for s in $(grep -lx "$1" /sys/class/iscsi_connection/connection*/persistent_port); do
                for d in ${s%/*}/device/../target*/*:$2/block/*; do
                    [ -b "/dev/${d##*/}" ] && { echo ${d##*/}; return; }
                done
            done
            sleep 0.1
        done
        echo "there is no path to unit $2 through port $1" >&2
        return 1
    }
    is_path() { # PORT STATE: what the kernel says of the session that was opened there
        local s
        s=$(grep -lx "$1" /sys/class/iscsi_connection/connection*/persistent_port)
        [ "$(cat ${s%/*}/device/../iscsi_session/session*/state)" = "$2" ]
    }
    at_port() { [ "$(session port)" = "$1" ] && logged_in; }
    is_mapped() { # STATE STATE: of the two paths: A or F
        dmsetup status paths | grep -qE " [0-9]+:[0-9]+ $1 [0-9 ]+:[0-9]+ $2 "
    }
"#;

/// Discovery through IPv4 and IPv6, two paths to one unit of which one breaks off under a verified
/// load, and redirections from one portal to another.
pub(crate) fn paths(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let (second, ipv6) = bed.node.basalt()?.more_iscsi();
    let Some(ipv6) = ipv6 else {
        return Ok(Outcome::Skipped("this machine has no loopback of IPv6".to_owned()));
    };
    let lun = unit(bed, "iscsi-paths", 64 * MIB, 512)?;
    discovery(bed, &second, &ipv6)?;
    two_paths(bed, lun, &ipv6)?;
    redirection(bed, lun, &second).context("redirection")?;
    // The kernel tells of the path that was lost, and of the logouts.
    bed.forgive()?;
    Ok(Outcome::Passed)
}

/// Every portal is listed, with its group, whichever is asked; that one first.
fn discovery(bed: &Bed, second: &Portal, ipv6: &Portal) -> Result<()> {
    let Portal { address, port } = ipv6;
    step(
        bed,
        &format!(
            "initiator
             first=$ADDRESS:$ISCSI_PORT,1 second={}:{},1 third=[{address}]:{port},1
             listed() {{ # PORTAL: what it lists
                 iscsiadm -m discovery -t sendtargets -p $1 | sed \"s/ $IQN\\$//\"
             }}
             [ \"$(listed $ADDRESS:$ISCSI_PORT)\" = \"$first
$second
$third\" ]
             [ \"$(listed [{address}]:{port})\" = \"$third
$first
$second\" ]",
            second.address, second.port,
        ),
    )
    .context("discovery")
    .map(drop)
}

/// One unit over IPv4 and IPv6, both with digests, as one device.
fn two_paths(bed: &Bed, lun: u32, ipv6: &Portal) -> Result<()> {
    let Portal { address, port } = ipv6;
    let with_tools = |script: &str| format!("{PATHS}\n{script}");
    step(
        bed,
        &with_tools(&format!(
            "settings=(-n node.conn[0].iscsi.HeaderDigest -v CRC32C
                 -n node.conn[0].iscsi.DataDigest -v CRC32C)
             for portal in $ADDRESS:$ISCSI_PORT [{address}]:{port}; do
                 iscsiadm -m node -T $IQN -p $portal -o update \"${{settings[@]}}\"
                 iscsiadm -m node -T $IQN -p $portal --login > /dev/null
                 # The second is to be given up soon.
                 settings+=(-n node.conn[0].timeo.noop_out_interval -v 1
                     -n node.conn[0].timeo.noop_out_timeout -v 4
                     -n node.session.timeo.replacement_timeout -v 1)
             done
             one=$(path $ISCSI_PORT {lun}) two=$(path {port} {lun})
             [ $one != $two ]
             for page in di sn; do
                 sg_vpd --page=$page /dev/$one > /tmp/one
                 sg_vpd --page=$page /dev/$two > /tmp/two
                 [ -s /tmp/one ] && cmp /tmp/one /tmp/two
             done
             grep -qi naa <(sg_vpd --page=di /dev/$one)
             sg_rtpg --decode /dev/$one > /tmp/one
             sg_rtpg --decode /dev/$two | cmp - /tmp/one
             grep -qi 'active/optimized' /tmp/one
             modprobe -a dm-multipath dm-round-robin scsi_dh_alua
             head -c 1M /dev/urandom > /tmp/data
             dd if=/tmp/data of=/dev/$two bs=1M seek=32 oflag=direct status=none
             dd if=/dev/$one bs=1M skip=32 count=1 iflag=direct status=none | cmp - /tmp/data
             dmsetup create paths --table \"0 $(blockdev --getsz /dev/$one) multipath \
                 1 queue_if_no_path 1 alua 1 1 round-robin 0 2 1 \
                 $(cat /sys/block/$one/dev) 1 $(cat /sys/block/$two/dev) 1\"
             dmsetup mknodes
             is_mapped A A"
        )),
    )
    .context("two paths")?;
    let load = load_of_paths(bed)?;
    break_off(bed, lun, ipv6).context("a path breaks off")?;
    bed.end_load(load).context("while a path was lost")?;
    step(
        bed,
        &with_tools(&format!(
            "one=$(path $ISCSI_PORT {lun}) two=$(path {port} {lun})
             dmsetup remove paths
             for d in $one $two; do
                 dd if=/dev/$d bs=1M count=33 iflag=direct status=none | md5sum
             done | uniq | wc -l | grep -qx 1
             logout"
        )),
    )
    .context("after the load")
    .map(drop)
}

/// The path over IPv6 is lost and given up while the other goes on; it comes back, and is used.
fn break_off(bed: &Bed, lun: u32, ipv6: &Portal) -> Result<()> {
    let Portal { address, port } = ipv6;
    let tools = format!(
        "{PATHS}
         one=$(path $ISCSI_PORT {lun}) two=$(path {port} {lun})
         served() {{ awk '{{ print $1 + $5 }}' /sys/block/$1/stat; }}
         serves_more() {{ # DEVICE: it goes on
             local before
             before=$(served $1)
             serves() {{ [ $(served $1) -gt $before ]; }}
             until_true 40 serves $1
         }}"
    );
    step(
        bed,
        &format!(
            "{tools}
             serves_more $one
             serves_more $two
             ip -6 route add unreachable {address}/128
             until_true 60 is_mapped A F"
        ),
    )?;
    step(
        bed,
        &format!(
            "{tools}
             serves_more $one
             fails is_path {port} LOGGED_IN
             ip -6 route del unreachable {address}/128
             until_true 60 is_path {port} LOGGED_IN"
        ),
    )?;
    step(
        bed,
        &format!(
            "{tools}
             dmsetup message paths 0 \"reinstate_path $(cat /sys/block/$two/dev)\"
             serves_more $two
             is_mapped A A"
        ),
    )
    .map(drop)
}

/// fio on both paths, that verifies what it writes.
fn load_of_paths(bed: &Bed) -> Result<Job> {
    bed.load(
        TOOLS,
        "--name=paths --filename=/dev/mapper/paths --size=2M --rw=randwrite --bs=4k --iodepth=8 \
             --verify=crc32c --verify_fatal=1 --verify_backlog=64",
    )
}

/// Who logs in at the first portal comes to be served at another; who is there goes where the
/// operator wants it, and keeps its device.
fn redirection(bed: &mut Bed, lun: u32, second: &Portal) -> Result<()> {
    let port = second.port;
    let (_, first) = bed.node.iscsi().context("it has a target")?;
    bed.node.basalt()?.redirect(Some(second))?;
    step(
        bed,
        &format!(
            "{PATHS}
             login
             at_port {port}
             [ $(session persistent_port) = $ISCSI_PORT ]
             d=$(unit {lun})
             dd if=/tmp/data of=$d bs=1M oflag=direct status=none"
        ),
    )
    .context("at login")?;
    bed.node.basalt()?.redirect(Some(&first))?;
    step(
        bed,
        &format!(
            "{PATHS}
             until_true 30 at_port $ISCSI_PORT
             dd if=$(unit {lun}) bs=1M count=1 iflag=direct status=none | cmp - /tmp/data
             logout"
        ),
    )
    .context("under a session")?;
    bed.node.basalt()?.redirect(None)
}
