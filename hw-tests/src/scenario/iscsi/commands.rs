//! sg3-utils against what SPC-4, SBC-3 and docs/scsi.md say is to be answered.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{MIB, Outcome, lacking, step, unit};
use crate::bed::Bed;

/// What to ask of units of 64 MiB, `$d` of 512-byte blocks and `$D` of 4096, and what some line of
/// the answer must match.
const ANSWERS: &str = r#"
    expect 'PQual=0 .*PDT=0 .*version=0x06 +\[SPC-4\]' sg_inq $d
    expect 'TPGS=3 +3PC=1 +Protect=0' sg_inq $d
    expect 'Vendor identification: BASALT' sg_inq $d
    expect 'SBC-3' sg_inq --only --descriptors $d
    sg_vpd $d | sed -n 's/.*\[\(.*\)\]$/\1/p' | tr '\n' ' ' > /tmp/pages
    [ "$(cat /tmp/pages)" = "sv sn di mna ei mpp sp tpc bl bdc lbpv " ]
    fails sg_vpd --page=0xb3 $d

    # Names come of the volume's UUID, so that hosts of both protocols know them for the same.
    serial=$(sg_vpd --page=sn $d | sed -n 's/.*serial number: //p')
    grep -qE '^[0-9a-f]{32}$' <<< "$serial"
    expect "^ +0x6${serial:1}$" sg_vpd --page=di $d
    expect "$IQN,t,0x0001" sg_vpd --page=di $d
    expect 'Target port group: 0x1' sg_vpd --page=di $d
    [ "$(sg_vpd --page=sn $D)" != "$(sg_vpd --page=sn $d)" ]
    expect 'HEADSUP=1 ORDSUP=1 SIMPSUP=1' sg_vpd --page=ei $d
    expect 'Policy: shared' sg_vpd --page=mpp $d
    expect "$IQN,t,0x0001" sg_vpd --page=sp $d
    expect 'block -> block \[0x2\]' sg_vpd --page=tpc $d
    expect 'Maximum transfer length: 0x8000$' sg_vpd --page=bl $d
    expect 'Maximum transfer length: 0x1000$' sg_vpd --page=bl $D
    expect 'Optimal unmap granularity: 0x8$' sg_vpd --page=bl $d
    expect 'Optimal unmap granularity: 0x1$' sg_vpd --page=bl $D
    expect 'Unmap granularity alignment: 0x0$' sg_vpd --page=bl $d
    expect 'Maximum compare and write length: 0x1$' sg_vpd --page=bl $d
    expect 'Maximum write same length: 0x8000$' sg_vpd --page=bl $d
    expect 'Non-rotating' sg_vpd --page=bdc $d
    for said in LBPU=1 LBPWS=1 LBPWS10=1 LBPRZ=0x1 'thin provisioned'; do
        expect "$said" sg_vpd --page=lbpv $d
    done

    expect 'lbpme=1, lbprz=1' sg_readcap --long $d
    expect 'Number of logical blocks=131072$' sg_readcap --long $d
    expect 'block length=512 bytes' sg_readcap --long $d
    expect 'so physical block length=4096' sg_readcap --long $d
    expect 'Number of logical blocks=16384$' sg_readcap --long $D
    expect 'exponent=0$' sg_readcap --long $D
    expect 'Number of logical blocks=131072$' sg_readcap $d

    expect 'implies 2 lun entries' sg_luns $d
    expect '^ +0001000000000000$' sg_luns $d
    expect 'implies 0 lun entries' sg_luns --select=1 $d
    expect 'No Sense' sg_requests $d
    sg_start --start $d
    expect '^ 00 +08 12 00 00' sg_modes --page=8 $d
    expect 'DpoFua=1' sg_modes --page=8 $d
    expect 'Used LBA mapping' sg_logs --page=0xc $d
    expect 'Invalid opcode' sg_senddiag $d

    sg_opcodes $d > /tmp/opcodes
    [ $(grep -cE '^ [0-9a-f]{2} ' /tmp/opcodes) -gt 60 ]
    for code in 16 17 28 2a 41 42 4d 5e 5f 83 84 88 89 8a 8b 8f 93 9e a3 a4; do
        grep -q "^ $code" /tmp/opcodes
    done
    expect 'Usage data: 89 18 ff ff ff ff ff ff ff ff 00 00 00 ff 00 04' \
        sg_opcodes --opcode=0x89 $d
    expect 'is NOT supported' sg_opcodes --opcode=0xf0 $d
    expect 'Logical unit reset' sg_opcodes --tmf $d
"#;

/// Commands that change blocks, and what is there afterwards. They have wiped what is asked of
/// their neighbours.
const BLOCKS: &str = r#"
    blocks() { # FIRST COUNT: the blocks of $d
        dd if=$d bs=512 skip=$1 count=$2 iflag=direct status=none
    }
    head -c 512 /dev/urandom > /tmp/one
    head -c 512 /dev/zero > /tmp/zero
    head -c 65536 /dev/urandom > /tmp/data
    dd if=/tmp/data of=$d bs=64k oflag=direct status=none
    sg_sync $d
    sg_sync --16 --lba=8 --count=8 $d

    # COMPARE AND WRITE: first it is as expected, then it is not, from some byte on.
    cat /tmp/zero /tmp/one > /tmp/swap
    swap() { sg_compare_and_write --in=$1 --lba=1000 --num=1 --xferlen=1024 $d; }
    swap /tmp/swap
    blocks 1000 1 | cmp - /tmp/one
    expect 'Miscompare at byte offset: 0 ' swap /tmp/swap
    cat /tmp/one /tmp/zero > /tmp/swap
    printf '\x55\xaa' | dd of=/tmp/swap bs=1 seek=77 conv=notrunc status=none
    at=$({ cmp -n 512 /tmp/swap /tmp/one || true; } | sed 's/.*byte \([0-9]*\).*/\1/')
    expect "Miscompare at byte offset: $((at - 1)) " swap /tmp/swap
    blocks 1000 1 | cmp - /tmp/one
    blocks 999 1 | cmp - /tmp/zero

    # UNMAP of odd blocks: they are zeroes, their neighbours stay.
    sg_unmap --force --lba=3 --num=27 $d
    head -c 13824 /dev/zero | dd of=/tmp/data bs=512 seek=3 conv=notrunc status=none
    blocks 0 128 | cmp - /tmp/data
    expect '^0x0 +0x8 +0 ' sg_get_lba_status --brief --lba=0 $d
    expect '^0x8 +0x10 +1 ' sg_get_lba_status --brief --lba=8 $d
    expect '^0x18 +0x68 +0 ' sg_get_lba_status --brief --lba=0 $d

    # WRITE SAME with a block, with UNMAP, without a block; more than B0h says is refused.
    sg_write_same --16 --in=/tmp/one --lba=2000 --num=33 $d
    for n in $(seq 33); do cat /tmp/one; done > /tmp/same
    blocks 2000 33 | cmp - /tmp/same
    blocks 2033 1 | cmp - /tmp/zero
    sg_write_same --10 --unmap --in=/tmp/zero --lba=2000 --num=31 $d
    sg_write_same --16 --ndob --lba=2032 --num=1 $d
    blocks 2031 1 | cmp - /tmp/one
    for at in 2000 2030 2032; do blocks $at 1 | cmp - /tmp/zero; done
    expect 'Illegal request' sg_write_same --16 --unmap --lba=0 --num=32769 $d

    # VERIFY of the medium, of as many bytes, of one block again and again, of too few bytes.
    sg_write_same --16 --in=/tmp/one --lba=2000 --num=4 $d
    verify() { sg_verify --lba=2000 --in=/tmp/one --ndo=512 "$@" $d; }
    sg_verify --lba=0 --count=2048 $d
    verify --ebytchk=1 --count=1
    verify --ebytchk=3 --count=4
    expect MISCOMPARE verify --ebytchk=3 --count=5
    expect 'bad field in VERIFY' verify --ebytchk=1 --count=2
    expect 'out of range' sg_verify --lba=131072 --count=1 $d

    # EXTENDED COPY within a unit.
    sg() { echo /dev/$(ls /sys/block/${1##*/}/device/scsi_generic); }
    sg_xcopy if=$(sg $d) of=$(sg $d) bs=512 seek=40003 count=128
    blocks 40003 128 | cmp - /tmp/data
    ddpt --xcopy if=$d of=$d bs=512 seek=60000 count=128 2> /tmp/ddpt
    blocks 60000 128 | cmp - /tmp/data
    expect 'Copy from block device to block device' sg_copy_results --params $d

    # SANITIZE leaves zeroes.
    dd if=/tmp/data of=$D bs=64k oflag=direct status=none
    sg_sanitize --block --quick --wait $D > /dev/null
    dd if=$D bs=64k count=1 iflag=direct status=none | cmp -n 65536 - /dev/zero
"#;

/// Port groups and resets.
const GROUPS: &str = r#"
    state() { sg_rtpg --decode $d | sed -n 's/.*access state : \(0x..\).*/\1/p'; }
    [ $(state) = 0x00 ]
    expect 'Implicit transition time: 10' sg_rtpg --extended --decode $d
    expect 'U_SUP : 1, S_SUP : 1, AN_SUP : 1, AO_SUP : 1' sg_rtpg --decode $d
    expect '^ +0x01$' sg_rtpg --decode $d
    sg_stpg --active $d > /dev/null
    [ $(state) = 0x01 ]
    expect 'changed by SET TARGET PORT GROUPS' sg_rtpg --decode $d
    expect 'Illegal request' sg_stpg --state=ao --tp=9 $d
    sg_stpg --state=ao --tp=1 $d
    [ $(state) = 0x00 ]
    sg_reset --device --no-escalate $d
    expect 'reset' sg_requests $d
    sg_reset --target --no-escalate $d
    dd if=$d of=/dev/null bs=4096 count=1 iflag=direct status=none
"#;

/// Every answer, block command, port group and persistent reservation that sg3-utils knows.
pub(crate) fn commands(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let small = unit(bed, "iscsi-commands", 64 * MIB, 512)?;
    let large = unit(bed, "iscsi-commands-4k", 64 * MIB, 4096)?;
    let units = format!("d=$(unit {small}) D=$(unit {large})");
    step(bed, &format!("login; {units}\n{ANSWERS}")).context("answers")?;
    step(bed, &format!("{units}\n{BLOCKS}")).context("blocks")?;
    step(bed, &format!("{units}\n{GROUPS}")).context("port groups")?;
    persistent(bed, &units)?;
    step(bed, "logout")?;
    // Comparisons that fail are errors of the medium to the kernel.
    bed.forgive()?;
    Ok(Outcome::Passed)
}

/// Registrations and a reservation that are kept over a kill, and ones that are not.
fn persistent(bed: &mut Bed, units: &str) -> Result<()> {
    let tools = format!(
        "{units}
         out() {{ sg_persist --no-inquiry --out \"$@\" $d; }}
         told() {{ sg_persist --no-inquiry --in \"$@\" $d; }}"
    );
    step(
        bed,
        &format!(
            "{tools}
             expect 'Through Power Loss Capable.*: 1' told --report-capabilities
             expect 'Exclusive Access, all registrants: 1' told --report-capabilities
             expect 'no registered|there are NO' told --read-keys
             fails out --reserve --param-rk=0xa1 --prout-type=1
             for type in 1 3 5 6 7 8; do
                 out --register-ignore --param-sark=0xa1
                 out --reserve --param-rk=0xa1 --prout-type=$type
                 told --read-reservation | grep -qE 'scope: LU_SCOPE, +type: (Write|Exclusive)'
                 fails out --reserve --param-rk=0xa1 --prout-type=$((type == 1 ? 3 : 1))
                 fails out --release --param-rk=0xa2 --prout-type=$type
                 out --release --param-rk=0xa1 --prout-type=$type
                 expect 'no reservation|NO reservation' told --read-reservation
             done
             fails out --register --param-rk=0xa2 --param-sark=0xa3
             out --register --param-rk=0xa1 --param-sark=0xa3 --param-aptpl
             expect '^ +0xa3$' told --read-keys
             out --reserve --param-rk=0xa3 --prout-type=3"
        ),
    )
    .context("reservations")?;
    bed.kill_and_restart(Duration::from_millis(300))?;
    step(
        bed,
        &format!(
            "until_true 60 logged_in
             {tools}
             expect '^ +0xa3$' told --read-keys
             expect 'type: Exclusive Access$' told --read-reservation
             expect \"basalt:$GUEST,i,0x\" told --read-full-status
             dd if=/tmp/data of=$d bs=64k oflag=direct status=none
             # Without APTPL they end with the node.
             out --register --param-rk=0xa3 --param-sark=0xa4"
        ),
    )
    .context("reservations after a kill")?;
    bed.kill_and_restart(Duration::from_millis(300))?;
    step(
        bed,
        &format!(
            "until_true 60 logged_in
             {tools}
             expect 'no registered|there are NO' told --read-keys
             expect 'no reservation|NO reservation' told --read-reservation"
        ),
    )
    .context("reservations that do not persist")?;
    Ok(())
}
