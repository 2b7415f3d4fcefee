//! Disks of the kernel's that are accessed by better ways than its block layer with interrupts.

use anyhow::{Result, ensure};

use super::machine::{Machine, Ssd};
use super::pulled;
use super::steps;
use crate::bed::Maker;
use crate::scenario::Outcome;

/// With queues that have no interrupts the driver keeps every promise of a disk, and the node
/// serves it without an interrupt for a read or write.
pub(crate) fn polled(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        let printed = machine.run(
            "# conformance
            modprobe -r nvme
            modprobe nvme poll_queues=1
            until_there /dev/nvme0n1
            [ $(cat /sys/block/nvme0n1/queue/io_poll) = 1 ]
            $C conformance /dev/nvme0n1",
        )?;
        ensure!(
            printed.contains("access: kernel polled,") && printed.contains("passed"),
            "{printed}"
        );
        let device = steps::serve_path(machine, "/dev/nvme0n1", "")?;
        let printed = machine.run(&format!(
            r#"# verify
            interrupts() {{
                awk '/nvme0q[1-9]/ {{ for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+$/) n += $i }}
                    END {{ print n + 0 }}' /proc/interrupts
            }}
            before=$(interrupts)
            fio --name=v --filename={device} --rw=randrw --bsrange=4k-64k --size=64M --io_size=32M \
                --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
                --randseed=5 > /tmp/fio || {{ cat /tmp/fio; false; }}
            fio --name=r --filename={device} --rw=randread --bs=4k --size=64M --io_size=8M \
                --iodepth=8 --ioengine=libaio --direct=1 > /tmp/fio || {{ cat /tmp/fio; false; }}
            after=$(interrupts)
            if $B events | grep disk.unpolled; then false; fi
            $B disk list /dev/nvme0n1 | grep -q 'kernel polled'
            nvme disconnect-all
            stop
            $B disk check /dev/nvme0n1 > /dev/null
            echo $((after - before))"#
        ))?;
        // Flushes and the like have interrupts: far fewer than the 2,048 reads of the second run.
        let interrupts: u64 = printed.lines().last().unwrap_or_default().trim().parse()?;
        ensure!(interrupts < 1024, "{interrupts} interrupts");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// Past the kernel's block layer the driver keeps every promise of a disk; the node serves it so,
/// keeps others off the block device, has lost nothing when it was killed, and finds the disk again
/// after it was pulled under load.
pub(crate) fn passthrough(maker: &mut Maker) -> Result<Outcome> {
    Machine::boot(maker, &[Ssd::plain()])?.finish(|machine| {
        let printed = machine.run("# conformance\n$C passthrough /dev/nvme0n1")?;
        let is_so = |text: &str| printed.contains(text);
        ensure!(is_so("access: kernel passthrough,") && is_so("passed"), "{printed}");
        let device = pulled::serve_linked(machine, "passthrough = true")?;
        machine.run(&format!(
            r#"# verify
            fio --name=v --filename={device} --rw=randrw --bsrange=4k-64k --size=32M --io_size=16M \
                --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
                --randseed=5 > /tmp/fio || {{ cat /tmp/fio; false; }}
            ls -l /proc/$(cat /run/node.pid)/fd | grep -q /dev/ng0n1
            $B disk list /dev/nvme0n1 | grep -q 'kernel passthrough'
            if $B events | grep disk.passthrough; then false; fi
            ! $B disk format /dev/nvme0n1 --force 2> /tmp/refused
            grep -q 'in use' /tmp/refused"#
        ))?;
        steps::kills(machine, &device, 3)?;
        pulled::pulls(machine, &device, 1)?;
        machine.run(
            r#"# end
            $B events | grep -q disk.returned
            nvme disconnect-all
            stop
            $B disk check /run/ssd > /dev/null"#,
        )?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}
