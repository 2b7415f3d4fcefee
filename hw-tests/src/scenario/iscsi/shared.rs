//! Two hosts on one volume, over one protocol and over both.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{MIB, Outcome, TOOLS, lacking, step, step_in_second, unit};
use crate::bed::Bed;

/// How a host finds out what it may do: `rw`, `r-`, `--`, or `?` where an error is no conflict.
const MAY: &str = r#"
    may() { # DEVICE
        local r=- w=-
        dd if=$1 of=/dev/null bs=4096 count=1 iflag=direct status=none 2> /tmp/read && r=r
        dd if=/dev/zero of=$1 bs=4096 count=1 seek=9 oflag=direct status=none 2> /tmp/write && w=w
        [ $r = r ] || grep -q 'Invalid exchange' /tmp/read || r=?
        [ $w = w ] || grep -q 'Invalid exchange' /tmp/write || w=?
        echo $r$w
    }
    out() { sg_persist --no-inquiry --out "$@" $d; }
    told() { sg_persist --no-inquiry --in "$@" $d; }
"#;

/// A file system goes from one protocol to the other and back, and so does a reservation.
pub(crate) fn both(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-both", 128 * MIB, 512)?;
    let nsid = lun + 1;
    step(
        bed,
        &format!(
            "login node.conn[0].iscsi.DataDigest=CRC32C
             d=$(unit {lun})
             mkfs.ext4 -q $d
             mount $d /mnt
             for n in 1 2 3 4; do head -c $((n * 777777)) /dev/urandom > /mnt/$n; done
             cp -r /etc /mnt/tree
             (cd /mnt && find . -type f -exec md5sum {{}} +) | sort > /tmp/sums
             cp /tmp/sums /mnt/sums
             umount /mnt"
        ),
    )?;
    let serial = step(bed, &format!("sg_vpd --page=sn $(unit {lun}) | sed -n 's/.*: //p'"))?;
    step_in_second(
        bed,
        &format!(
            "connect --data-digest
             d=$(device {nsid})
             # The NGUID is the UUID that the serial number is.
             [ \"$(cat /sys/block/${{d##*/}}/nguid | tr -d -)\" = {} ]
             e2fsck -fn $d
             mount $d /mnt
             cd /mnt
             find . -type f ! -name sums -exec md5sum {{}} + | sort | diff - sums
             head -c 3M /dev/urandom > nvme
             md5sum nvme > nvme.sum
             rm 2
             cd /
             umount /mnt",
            serial.trim(),
        ),
    )?;
    step(
        bed,
        &format!(
            "d=$(unit {lun})
             blockdev --flushbufs $d
             e2fsck -fn $d
             mount -o ro $d /mnt
             (cd /mnt && md5sum -c nvme.sum && [ ! -e 2 ])
             umount /mnt"
        ),
    )?;
    reservations(bed, lun)?;
    step(bed, "logout")?;
    step_in_second(bed, "disconnect")?;
    // Conflicts were asked for.
    bed.forgive()?;
    Ok(Outcome::Passed)
}

/// What an initiator reserves a host of NVMe respects, and the other way round.
fn reservations(bed: &mut Bed, lun: u32) -> Result<()> {
    let here = format!("d=$(unit {lun})\n{MAY}");
    let there = format!("d=$(device {})\n{MAY}", lun + 1);
    step(
        bed,
        &format!(
            "{here}
             out --register --param-sark=0xa1 --param-aptpl
             out --reserve --param-rk=0xa1 --prout-type=5
             [ $(may $d) = rw ]"
        ),
    )?;
    step_in_second(
        bed,
        &format!(
            "{there}
             [ $(may $d) = r- ]
             nvme resv-report $d --eds -o json | jq -e '.rtype == 3 and .regctl == 1 and
                 .regctlext[0].rkey == 161' > /dev/null
             nvme resv-register $d --nrkey=0xb1 --rrega=0 > /dev/null
             [ $(may $d) = rw ]
             nvme resv-acquire $d --crkey=0xb1 --prkey=0xa1 --rtype=2 --racqa=1 > /dev/null"
        ),
    )
    .context("NVMe preempts what an initiator has reserved")?;
    step(
        bed,
        &format!(
            "{here}
             expect 'Registrations preempted' sg_requests $d
             [ $(may $d) = -- ]
             expect '^ +0xb1$' told --read-keys
             expect 'type: Exclusive Access$' told --read-reservation
             fails out --reserve --param-rk=0xa1 --prout-type=1"
        ),
    )
    .context("an initiator respects what NVMe has reserved")?;
    bed.kill_and_restart(Duration::from_millis(300))?;
    step(
        bed,
        &format!(
            "until_true 60 logged_in
             {here}
             [ $(may $d) = -- ]
             out --register --param-sark=0xa2
             out --preempt --param-rk=0xa2 --param-sark=0xb1 --prout-type=3
             [ $(may $d) = rw ]"
        ),
    )
    .context("an initiator preempts what NVMe has reserved, after a kill")?;
    step_in_second(
        bed,
        &format!(
            "live() {{ grep -q live /sys/class/nvme/$(controller)/state; }}
             until_true 60 live
             {there}
             [ $(may $d) = -- ]"
        ),
    )?;
    step(bed, &format!("{here}\nout --clear --param-rk=0xa2"))?;
    step_in_second(bed, &format!("{there}\n[ $(may $d) = rw ]"))?;
    Ok(())
}

/// Two hosts fence each other in the order in which the validation of a Windows cluster does:
/// registrations of both, a reservation for registrants, arbitration by preemption under I/O, and
/// what each may do at every point.
pub(crate) fn fence(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-fence", 64 * MIB, 512)?;
    let host = format!("d=$(unit {lun})\n{MAY}");
    let a = |bed: &mut Bed, script: &str| step(bed, &format!("{host}\n{script}"));
    let b = |bed: &mut Bed, script: &str| step_in_second(bed, &format!("{host}\n{script}"));
    step(bed, "login")?;
    step_in_second(bed, "login")?;

    // Both register, ignoring what is there, to be kept over power loss; A reserves.
    a(bed, "out --register-ignore --param-sark=0xa1 --param-aptpl")?;
    b(bed, "out --register-ignore --param-sark=0xb1 --param-aptpl")?;
    b(
        bed,
        "told --read-keys | grep -oE '0x(a1|b1)$' | sort | tr '\\n' ' ' | grep -qx '0xa1 0xb1 '",
    )?;
    a(bed, "out --reserve --param-rk=0xa1 --prout-type=5")?;
    b(
        bed,
        "expect 'Key=0xa1' told --read-reservation
         expect 'Write Exclusive, registrants only' told --read-reservation
         fails out --reserve --param-rk=0xb1 --prout-type=5
         # Who does not hold it, releases nothing; and with a wrong key nothing at all.
         out --release --param-rk=0xb1 --prout-type=5
         fails out --release --param-rk=0xa1 --prout-type=5
         expect 'Key=0xa1' told --read-reservation
         [ $(may $d) = rw ]",
    )?;
    // Who has registered may write; who has not may read.
    b(bed, "out --register --param-rk=0xb1 --param-sark=0; [ $(may $d) = r- ]")?;
    b(bed, "out --register-ignore --param-sark=0xb1 --param-aptpl; [ $(may $d) = rw ]")?;

    arbitrate(bed, &host, lun)?;

    come_back(bed, &host)?;
    // Conflicts were asked for.
    bed.forgive()?;
    Ok(Outcome::Passed)
}

/// B takes the volume from A, which is writing: A's writes end with conflicts, and none of them
/// comes after the answer to B.
fn arbitrate(bed: &mut Bed, host: &str, lun: u32) -> Result<()> {
    let load = bed.start(
        &format!(
            "{TOOLS}
             fio --name=load --filename=$(unit {lun}) --size=16M --rw=randwrite --bs=4k \\
                 --direct=1 --ioengine=libaio --iodepth=16 --time_based --runtime=60 \\
                 > /tmp/fio 2>&1 || true
             grep -q 'Invalid exchange' /tmp/fio || grep -q 'error=52' /tmp/fio"
        ),
        Duration::from_secs(120),
    )?;
    sleep(Duration::from_secs(3));
    step_in_second(
        bed,
        &format!(
            "{host}
             out --preempt-abort --param-rk=0xb1 --param-sark=0xa1 --prout-type=5
             head -c 16M /dev/zero | tr '\\0' 'b' > /tmp/b
             dd if=/tmp/b of=$d bs=1M oflag=direct status=none
             sleep 1
             dd if=$d bs=1M count=16 iflag=direct status=none | cmp - /tmp/b
             expect 'Key=0xb1' told --read-reservation
             [ $(may $d) = rw ]"
        ),
    )
    .context("preempt and abort")?;
    bed.guest.finish(load).context("the load of who was preempted")?;
    step(bed, &format!("{host}\n[ $(may $d) = r- ]\nexpect '^ +0xb1$' told --read-keys"))?;
    Ok(())
}

/// The fenced host comes back and takes over; the node goes and comes back; all ends.
fn come_back(bed: &mut Bed, host: &str) -> Result<()> {
    let a = |bed: &mut Bed, script: &str| step(bed, &format!("{host}\n{script}"));
    let b = |bed: &mut Bed, script: &str| step_in_second(bed, &format!("{host}\n{script}"));
    // It registers, and preempts who has preempted it.
    a(
        bed,
        "fails out --reserve --param-rk=0xa1 --prout-type=5
         out --register-ignore --param-sark=0xa2 --param-aptpl
         [ $(may $d) = rw ]
         out --preempt --param-rk=0xa2 --param-sark=0xb1 --prout-type=5
         expect 'Key=0xa2' told --read-reservation",
    )?;
    b(bed, "expect 'Registrations preempted' sg_requests $d; [ $(may $d) = r- ]")?;
    // The node goes and comes back; both find what was there.
    bed.kill_and_restart(Duration::from_millis(300))?;
    let back = "until_true 60 logged_in";
    a(bed, &format!("{back}; expect 'Key=0xa2' told --read-reservation; [ $(may $d) = rw ]"))?;
    b(bed, &format!("{back}; expect 'Key=0xa2' told --read-reservation; [ $(may $d) = r- ]"))?;
    // Release tells the other registrants; clear ends everything.
    b(bed, "out --register-ignore --param-sark=0xb2")?;
    a(bed, "out --release --param-rk=0xa2 --prout-type=5")?;
    b(
        bed,
        "expect 'Reservations released' sg_requests $d
         out --reserve --param-rk=0xb2 --prout-type=3
         out --clear --param-rk=0xb2",
    )?;
    a(
        bed,
        "expect 'Reservations preempted' sg_requests $d
         [ $(may $d) = rw ]
         expect 'no registered|there are NO' told --read-keys
         logout",
    )?;
    b(bed, "[ $(may $d) = rw ]; logout")?;
    Ok(())
}
