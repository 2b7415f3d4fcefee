//! A stock Linux host that speaks iSCSI: open-iscsi, sg3-utils, LVM, sanlock and QEMU.

mod chap;
mod commands;
mod connect;
mod files;
mod paths;
mod shared;
mod software;
pub(crate) mod wire;

use anyhow::{Context, Result};

pub(crate) use chap::chap;
pub(crate) use commands::commands;
pub(crate) use connect::{connect, faults};
pub(crate) use files::files;
pub(crate) use paths::paths;
pub(crate) use shared::{both, fence};
pub(crate) use software::{lvm, qemu, sanlock};

use super::Outcome;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// Functions that every script of an initiator may use.
const TOOLS: &str = r#"
    trap 'echo "failed: $BASH_COMMAND" >&2' ERR
    initiator() { # starts open-iscsi, under the name of this guest
        pidof iscsid > /dev/null && return
        modprobe -a iscsi_tcp sd_mod sg
        echo "InitiatorName=iqn.2026-11.io.basalt:$GUEST" > /etc/iscsi/initiatorname.iscsi
        iscsid
    }
    login() { # NAME=VALUE... of the node's record
        local setting settings=()
        initiator
        for setting; do
            settings+=(-n "${setting%%=*}" -v "${setting#*=}")
        done
        iscsiadm -m discovery -t sendtargets -p $ADDRESS:$ISCSI_PORT > /tmp/targets
        grep -qx "$ADDRESS:$ISCSI_PORT,1 $IQN" /tmp/targets || { cat /tmp/targets; return 1; }
        # Discovery lists all portals: one session.
        set -- -m node -T $IQN -p $ADDRESS:$ISCSI_PORT
        [ ${#settings[@]} = 0 ] || iscsiadm "$@" -o update "${settings[@]}"
        iscsiadm "$@" --login > /tmp/login || { cat /tmp/login; return 1; }
    }
    logout() {
        iscsiadm -m node -T $IQN --logout > /dev/null
        iscsiadm -m node -T $IQN -o delete
    }
    unit() { # LUN: its block device, waiting for it
        local d
        for _ in $(seq 150); do
            for d in /sys/class/iscsi_session/session*/device/target*/*:$1/block/*; do
                [ -b "/dev/${d##*/}" ] && { echo /dev/${d##*/}; return; }
            done
            sleep 0.1
        done
        echo "unit $1 did not appear" >&2
        return 1
    }
    session() { # NAME: what the kernel says of the session or its connection
        cat /sys/class/iscsi_session/session*/$1 /sys/class/iscsi_connection/connection*/$1 \
            2> /dev/null || true
    }
    logged_in() { [ "$(session state | sort -u | tr '\n' ' ')" = "LOGGED_IN up " ]; }
    fails() {
        if "$@" > /tmp/unexpected 2>&1; then
            echo "succeeded: $*" >&2
            cat /tmp/unexpected >&2
            return 1
        fi
    }
    expect() { # REGEX COMMAND...: some line of what it prints, whatever its exit code
        local printed regex=$1
        shift
        printed=$("$@" 2>&1) || true
        grep -qE -- "$regex" <<< "$printed" && return
        echo "\`$*\` should have said $regex, and said:" >&2
        echo "$printed" >&2
        return 1
    }
"#;

/// Why there is nothing to run, if so.
fn lacking(bed: &Bed) -> Option<Outcome> {
    let lacks = bed.node.iscsi().is_none();
    lacks.then(|| Outcome::Skipped(format!("{} has no iSCSI target", bed.node.name())))
}

/// Runs a step with the functions above.
fn step(bed: &Bed, script: &str) -> Result<String> {
    bed.run(&format!("{}\n{TOOLS}\n{script}", heading(script)))
}

/// The same in the second host.
fn step_in_second(bed: &mut Bed, script: &str) -> Result<String> {
    bed.run_in_second(&format!("{}\n{TOOLS}\n{script}", heading(script)))
        .context("in the second host")
}

/// Makes a volume and returns its logical unit number.
fn unit(bed: &mut Bed, name: &str, bytes: u64, block: u32) -> Result<u32> {
    Ok(bed.volume(name, bytes, block)? - 1)
}

/// The first line of a script, as a comment, for reports.
fn heading(script: &str) -> String {
    format!("# {}", script.trim().lines().next().unwrap_or_default())
}
