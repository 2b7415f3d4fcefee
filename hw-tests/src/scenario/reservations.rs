//! Hosts that reserve a volume, through nvme-cli and through the kernel's own calls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// Three hosts on one kernel, which must not take their namespaces for paths of one another.
const HOSTS: &str = r#"
    host() { # LETTER: connects as a host with an identity of its own
        local id=00000000-0000-4000-8000-00000000000$1
        nvme connect -t tcp -a $ADDRESS -s $PORT -n $NQN --nr-io-queues=2 \
            --keep-alive-tmo=30 --hostnqn=nqn.2014-08.org.nvmexpress:uuid:$id --hostid=$id
        has_device() { [ -n "$(of $1 2> /dev/null)" ]; }
        until_true 30 has_device $1
    }
    control() { # LETTER: the controller of that host
        grep -l "00000000000$1" /sys/class/nvme/*/hostid | sed 's|/hostid||; s|.*/||'
    }
    of() { # LETTER: the block device of that host
        local c=$(control $1)
        [ -b /dev/${c}n1 ] && echo /dev/${c}n1
    }
    may() { # LETTER: what the host may do
        local r=- w=- d=$(of $1)
        dd if=$d of=/dev/null bs=4096 count=1 iflag=direct status=none 2> /tmp/read.$1 && r=r
        dd if=/dev/zero of=$d bs=4096 count=1 oflag=direct status=none 2> /tmp/write.$1 && w=w
        # A conflict, and no other error.
        [ $r = r ] || grep -q 'Invalid exchange' /tmp/read.$1 || r=?
        [ $w = w ] || grep -q 'Invalid exchange' /tmp/write.$1 || w=?
        echo $r$w
    }
    fails() {
        if "$@" > /dev/null 2>&1; then
            echo "succeeded: $*" >&2
            return 1
        fi
    }
    register() { nvme resv-register $(of $1) --nrkey=0x$1 --rrega=0 "${@:2}"; }
    acquire() { nvme resv-acquire $(of $1) --crkey=0x$1 "${@:2}"; }
    release() { nvme resv-release $(of $1) --crkey=0x$1 "${@:2}"; }
    report() { nvme resv-report $(of $1) --eds -o json; }
    notified() { # LETTER: kind of the oldest notification of the host
        nvme get-log /dev/$(control $1) --log-id=0x80 --log-len=64 -b \
            | od -An -tu1 -j8 -N1 | tr -d ' '
    }
"#;

/// Runs a step with the functions above.
fn step(bed: &Bed, script: &str) -> Result<String> {
    bed.run(&format!("{HOSTS}\n{script}"))
}

/// Every type, preemption, notifications, and what a kill of the node leaves.
pub(crate) fn nvme(bed: &mut Bed) -> Result<Outcome> {
    bed.volume("reserved", 64 * MIB, 4096)?;
    bed.run(
        "modprobe -r nvme-tcp
         [ ! -e /sys/module/nvme_core ] || rmmod nvme_core
         modprobe nvme-core multipath=N
         modprobe nvme-tcp
         [ $(cat /sys/module/nvme_core/parameters/multipath) = N ]",
    )?;
    scenes(bed)?;
    // The kernel says which commands met a conflict.
    bed.run(
        "nvme disconnect-all
         modprobe -r nvme-tcp
         [ ! -e /sys/module/nvme_core ] || rmmod nvme_core
         modprobe nvme-tcp
         dmesg | grep -E 'BUG:|WARNING:|Oops|hung task|blocked for more' > /tmp/dmesg || true
         dmesg -C
         ! [ -s /tmp/dmesg ]",
    )?;
    Ok(Outcome::Passed)
}

fn scenes(bed: &mut Bed) -> Result<()> {
    step(bed, "for h in a b c; do host $h; done; [ $(may a)$(may b)$(may c) = rwrwrw ]")?;
    types(bed)?;
    preemption(bed)?;
    persistence(bed)?;
    kernel_calls(bed)
}

/// What each type leaves to a registrant (b) and to a stranger (c), and that it ends.
fn types(bed: &Bed) -> Result<()> {
    step(bed, "register a; register b")?;
    for (kind, registrant, stranger) in [
        (1, "r-", "r-"),
        (2, "--", "--"),
        (3, "rw", "r-"),
        (4, "rw", "--"),
        (5, "rw", "r-"),
        (6, "rw", "--"),
    ] {
        let seen = step(
            bed,
            &format!(
                "acquire a --rtype={kind} --racqa=0 > /dev/null
                 fails acquire c --rtype={kind} --racqa=0
                 report c | jq -e '.rtype == {kind} and .regctl == 2' > /dev/null
                 echo $(may a) $(may b) $(may c)
                 release a --rtype={kind} --rrela=0 > /dev/null
                 [ $(may b)$(may c) = rwrw ]"
            ),
        )
        .with_context(|| format!("type {kind}"))?;
        let seen = seen.trim();
        let expected = format!("rw {registrant} {stranger}");
        ensure!(seen == expected, "type {kind} leaves {seen}, not {expected}");
    }
    step(bed, "release a --rrela=1; report a | jq -e '.regctl == 0'")?;
    Ok(())
}

/// A host with I/O under way is preempted: its writes fail, and it is told.
fn preemption(bed: &Bed) -> Result<()> {
    step(
        bed,
        "for h in a b; do while [ $(notified $h) != 0 ]; do :; done; done
         trace=/sys/kernel/debug/tracing
         echo 1 > $trace/events/nvme/nvme_async_event/enable
         echo > $trace/trace
         register a; register b
         acquire a --rtype=2 --racqa=0",
    )?;
    let load = bed.start(
        &format!(
            "{HOSTS}
             fio --name=load --filename=$(of a) --size=16M --rw=randwrite --bs=4k --direct=1 \
                 --ioengine=libaio --iodepth=16 --time_based --runtime=60 > /tmp/fio 2>&1 || true
             grep -q 'Invalid exchange' /tmp/fio || grep -q 'error=52' /tmp/fio"
        ),
        Duration::from_secs(120),
    )?;
    std::thread::sleep(Duration::from_secs(2));
    step(
        bed,
        "acquire b --rtype=1 --racqa=2 --prkey=0xa
         # Nothing of the preempted comes after the answer.
         head -c 16M /dev/zero | tr '\\0' 'b' > /tmp/b
         dd if=/tmp/b of=$(of b) bs=1M oflag=direct status=none
         sleep 1
         dd if=$(of b) bs=1M count=16 iflag=direct status=none | cmp - /tmp/b
         [ $(may a)$(may b) = r-rw ]
         fails nvme resv-register $(of b) --nrkey=0xc --rrega=0
         [ $(notified a),$(notified a),$(notified b) = 1,0,0 ]
         grep -q 'NVME_AEN=0x800006' /sys/kernel/debug/tracing/trace
         echo 0 > /sys/kernel/debug/tracing/events/nvme/nvme_async_event/enable
         release b --rrela=1",
    )?;
    bed.guest.finish(load)?;
    Ok(())
}

/// What persists is there after a kill, and what does not is not.
fn persistence(bed: &mut Bed) -> Result<()> {
    let live = "for h in a b c; do
            up() { grep -q live /sys/class/nvme/$(control $1)/state; }
            until_true 60 up $h
        done";
    step(bed, "register a --cptpl=3; register b; acquire a --rtype=2 --racqa=0")?;
    for _ in 0..2 {
        bed.kill_and_restart(Duration::from_millis(500))?;
        step(
            bed,
            &format!(
                "{live}
                 report b | jq -e '.rtype == 2 and .regctl == 2 and .ptpls == 1'
                 [ $(may a)$(may b)$(may c) = rw---- ]"
            ),
        )?;
    }
    step(bed, "nvme resv-register $(of a) --crkey=0xa --nrkey=0xa --rrega=2 --cptpl=2")?;
    bed.kill_and_restart(Duration::from_millis(500))?;
    step(
        bed,
        &format!("{live}\nreport b | jq -e '.rtype == 0 and .regctl == 0'; [ $(may c) = rw ]"),
    )?;
    Ok(())
}

/// The same by the kernel's own calls, as cluster software makes them.
fn kernel_calls(bed: &Bed) -> Result<()> {
    step(
        bed,
        "command -v blkpr > /dev/null || { echo 'no blkpr'; exit 0; }
         blkpr --operation register --key 0xa $(of a)
         blkpr --operation register --key 0xb $(of b)
         blkpr --operation reserve --key 0xa --type exclusive-access-reg-only $(of a)
         [ $(may b)$(may c) = rw-- ]
         fails blkpr --operation reserve --key 0xb --type exclusive-access $(of b)
         # Which of the keys is whose differs between versions; the wrong way is a conflict.
         preempt() {
             blkpr --operation preempt --key $1 --oldkey $2 --type write-exclusive $(of b)
         }
         preempt 0xb 0xa || preempt 0xa 0xb
         [ $(may a)$(may b) = r-rw ]
         blkpr --operation clear --key 0xb $(of b)
         [ $(may a)$(may b)$(may c) = rwrwrw ]",
    )?;
    Ok(())
}
