//! Software that shares or opens logical units by itself: LVM, sanlock, QEMU.

use anyhow::{Context, Result};

use super::{MIB, Outcome, lacking, step, step_in_second, unit};
use crate::bed::Bed;

/// LVM as it is where nobody runs udev.
const LVM: &str = r#"
    cat > /etc/lvm/lvmlocal.conf << 'END'
devices {
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    filter = [ "a|^/dev/sd|", "r|.*|" ]
}
activation {
    udev_sync = 0
    udev_rules = 0
    monitoring = 0
}
END
    modprobe -a dm_mod dm_snapshot
"#;

/// A volume group on a unit that two hosts see: its logical volumes go from one to the other, and
/// it grows with the volume.
pub(crate) fn lvm(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-lvm", 256 * MIB, 512)?;
    step(
        bed,
        &format!(
            "login
             {LVM}
             d=$(unit {lun})
             pvcreate -qq $d
             vgcreate -qq network $d
             lvcreate -qq -y -L 64M -n first network
             lvcreate -qq -y -L 64M -n second network
             head -c 8M /dev/urandom > /tmp/data
             dd if=/tmp/data of=/dev/network/first bs=1M oflag=direct status=none
             mkfs.ext4 -q /dev/network/second
             lvcreate -qq -y -s -L 16M -n before network/first
             dd if=/dev/zero of=/dev/network/first bs=1M count=8 oflag=direct status=none
             dd if=/dev/network/before bs=1M count=8 iflag=direct status=none | cmp - /tmp/data
             lvremove -qq -y network/before
             dd if=/tmp/data of=/dev/network/first bs=1M oflag=direct status=none
             md5sum < /tmp/data
             vgchange -qq -an network"
        ),
    )
    .and_then(|sum| {
        step_in_second(
            bed,
            &format!(
                "login
                 {LVM}
                 vgscan -q > /dev/null
                 vgchange -qq -ay network
                 [ \"$(dd if=/dev/network/first bs=1M count=8 iflag=direct status=none | md5sum)\" \
                     = \"{}\" ]
                 mount /dev/network/second /mnt
                 cp -r /etc /mnt/tree
                 fstrim /mnt
                 umount /mnt
                 vgchange -qq -an network",
                sum.trim(),
            ),
        )
    })?;
    bed.resize("iscsi-lvm", 384 * MIB)?;
    step(
        bed,
        &format!(
            "d=$(unit {lun})
             iscsiadm -m session --rescan > /dev/null
             grown() {{ [ $(blockdev --getsize64 $d) = {} ]; }}
             until_true 20 grown
             pvresize -q $d > /dev/null
             vgchange -qq -ay network
             e2fsck -fp /dev/network/second > /dev/null
             lvextend -qq -r -L 200M network/second > /dev/null
             mount /dev/network/second /mnt
             [ $(df --output=size -m /mnt | tail -n 1) -gt 150 ]
             diff /etc/services /mnt/tree/services
             umount /mnt
             vgchange -qq -an network
             logout",
            384 * MIB
        ),
    )?;
    step_in_second(bed, "logout")?;
    Ok(Outcome::Passed)
}

/// sanlock without a watchdog, which a guest that is killed does not need, and what it is asked.
const SANLOCK: &str = r#"
    lock_daemon() {
        sanlock daemon -w 0 -h 0 -U root -G root
        up() { sanlock client status > /dev/null 2>&1; }
        until_true 10 up
    }
    try_lease() { sanlock client command -r $lease -c /bin/echo mine; }
"#;

/// A lockspace and a lease on a unit: two hosts join, one holds the lease, the other gets it when
/// it is given up.
pub(crate) fn sanlock(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-sanlock", 16 * MIB, 512)?;
    let tools = format!("{SANLOCK}\nd=$(unit {lun}) lease=LEASES:disk:$(unit {lun}):1048576");
    step(
        bed,
        &format!(
            "login
             {tools}
             sanlock direct init -s LEASES:0:$d:0 -o 2
             sanlock direct init -r $lease
             lock_daemon
             sanlock client add_lockspace -s LEASES:1:$d:0 -o 2
             sanlock client command -r $lease -c /bin/sleep 600 > /tmp/holder 2>&1 &
             holds() {{ sanlock client status | grep -q ^r; }}
             until_true 20 holds"
        ),
    )?;
    step_in_second(
        bed,
        &format!(
            "login
             {tools}
             lock_daemon
             sanlock client add_lockspace -s LEASES:2:$d:0 -o 2
             # The owner lives. A busy machine may time out instead, and is asked again.
             owned() {{ expect 'acquire done -243' try_lease; }}
             until_true 30 owned
             sanlock direct dump $d:0:2M > /tmp/dump
             grep -q '^00000000 .* 0001 0001$' /tmp/dump
             grep -q '^00000512 .* 0002 0001$' /tmp/dump
             grep -q '^01048576 .* disk .* 0001 ' /tmp/dump"
        ),
    )?;
    step(
        bed,
        "pkill -x sleep
         free() { ! sanlock client status | grep -q ^r; }
         until_true 20 free",
    )?;
    step_in_second(
        bed,
        &format!(
            "{tools}
             gained() {{ expect mine try_lease; }}
             until_true 30 gained
             sanlock direct dump $d:0:2M | grep -q '^01048576 .* disk .* 0002 '
             sanlock client rem_lockspace -s LEASES:2:$d:0
             sanlock client shutdown
             logout"
        ),
    )
    .context("after the lease was given up")?;
    step(
        bed,
        &format!(
            "{tools}
             sanlock client rem_lockspace -s LEASES:1:$d:0
             sanlock client shutdown
             logout"
        ),
    )?;
    Ok(Outcome::Passed)
}

/// QEMU's own initiator, libiscsi: images, patterns, holes. QEMU 10.0 cannot read much at once from
/// a unit of 4096-byte blocks: it asks for the state of 2^31 - 512 bytes, and finds that odd.
pub(crate) fn qemu(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let first = unit(bed, "iscsi-qemu", 64 * MIB, 512)?;
    let second = unit(bed, "iscsi-qemu-4k", 64 * MIB, 4096)?;
    step(
        bed,
        &format!(
            "one=iscsi://$ADDRESS:$ISCSI_PORT/$IQN/{first}
             two=iscsi://$ADDRESS:$ISCSI_PORT/$IQN/{second}
             expect 'virtual size: 64 MiB' qemu-img info -f raw $one
             expect 'virtual size: 64 MiB' qemu-img info -f raw $two
             qemu-io -f raw -c 'write -P 0x5a 1M 1M' -c 'read -P 0x5a 1M 1M' \
                 -c 'write -P 0x11 4M 3M' -c 'aio_write -P 0x22 8M 64k' -c aio_flush \
                 -c 'write -z -u 1M 512k' -c 'read -P 0 1M 512k' -c 'read -P 0x5a 1536k 512k' \
                 -c 'discard 4M 1M' -c 'read -P 0x11 5M 2M' -c 'write -P 7 33280 1536' \
                 -c 'read -P 0 32k 512' -c 'read -P 7 33280 1536' -c flush $one > /tmp/io
             ! grep -qi 'verification failed\\|error' /tmp/io
             qemu-img convert -n -f raw -O raw $one $two
             qemu-img compare -f raw -F raw $one $two > /dev/null
             # Holes stay holes.
             qemu-img map -f raw --output=json $two | jq -e \
                 '[.[] | select(.data) | .length] | add < 5 * 1048576' > /dev/null
             # An image with a format of its own.
             qemu-img create -q -f qcow2 $one 32M
             qemu-io -f qcow2 -c 'write -P 0x77 1M 2M' $one > /dev/null
             qemu-img check -q -f qcow2 $one
             qemu-img convert -n -f qcow2 -O raw $one $two
             qemu-img compare -f qcow2 -F raw $one $two > /dev/null
             qemu-io -f qcow2 -c 'read -P 0x77 1M 2M' -c 'read -P 0 3M 5M' $one > /tmp/io
             ! grep -qi 'verification failed\\|error' /tmp/io"
        ),
    )?;
    Ok(Outcome::Passed)
}
