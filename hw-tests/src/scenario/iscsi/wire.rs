//! The traffic of an initiator, judged by Wireshark's dissector.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{MIB, step, unit};
use crate::bed::Bed;
use crate::shell;

/// PDUs that the traffic must hold, or it was not the traffic that we meant.
const OPCODES_SEEN: [(&str, &str); 16] = [
    ("0x00", "NOP-Out"),
    ("0x01", "SCSI Command"),
    ("0x02", "Task Management"),
    ("0x03", "Login"),
    ("0x04", "Text"),
    ("0x05", "Data-Out"),
    ("0x06", "Logout"),
    ("0x20", "NOP-In"),
    ("0x21", "SCSI Response"),
    ("0x22", "Task Management Response"),
    ("0x23", "Login Response"),
    ("0x24", "Text Response"),
    ("0x25", "Data-In"),
    ("0x26", "Logout Response"),
    ("0x31", "R2T"),
    ("0x32", "Asynchronous Message"),
];

/// A bit of everything, with and without digests.
pub(crate) fn live(bed: &mut Bed) -> Result<()> {
    let lun = unit(bed, "iscsi-wire", 64 * MIB, 512)?;
    for (round, (header, data)) in
        [("None", "None"), ("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C")]
            .into_iter()
            .enumerate()
    {
        step(
            bed,
            &format!(
                "login node.conn[0].iscsi.HeaderDigest={header} \\
                     node.conn[0].iscsi.DataDigest={data} \\
                     node.session.iscsi.ImmediateData={immediate} \\
                     node.session.iscsi.InitialR2T={initial_r2t} \\
                     node.conn[0].timeo.noop_out_interval=1
                 d=$(unit {lun})
                 head -c 700k /dev/urandom > /tmp/data
                 for size in 512 4096 20480 262144; do
                     dd if=/tmp/data of=$d bs=$size count=2 oflag=direct status=none
                     dd if=$d of=/dev/null bs=$size count=2 iflag=direct status=none
                 done
                 sg_unmap --force --lba=2048 --num=24 $d
                 sg_write_same --16 --in=/tmp/data --xferlen=512 --lba=4000 --num=20 $d
                 sg_get_lba_status --lba=0 $d > /dev/null
                 sg_vpd --all $d > /dev/null
                 sg_opcodes $d > /dev/null
                 sg_rtpg $d > /dev/null
                 sg_modes $d > /dev/null
                 sg_logs --page=0xc $d > /dev/null
                 sg_persist --no-inquiry --out --register-ignore --param-sark=0xa1 $d
                 sg_persist --no-inquiry --in --read-full-status $d > /dev/null
                 sg_persist --no-inquiry --out --clear --param-rk=0xa1 $d
                 sg_reset --device --no-escalate $d
                 sg_requests $d > /dev/null
                 sg_senddiag $d > /dev/null 2>&1 || true
                 sleep 1.5",
                immediate = if round % 2 == 0 { "Yes" } else { "No" },
                initial_r2t = if round < 2 { "Yes" } else { "No" },
            ),
        )?;
        if round == 0 {
            bed.resize("iscsi-wire", 96 * MIB)?;
            step(bed, "sleep 0.5")?;
        }
        step(bed, "logout")?;
    }
    // SEND DIAGNOSTIC is not supported.
    bed.forgive()
}

/// Reads the capture with tshark, the dissector told to be strict.
///
/// Wireshark 4.0 (Debian 12) dissects every PDU, verifies both digests, and knows the parameter
/// data of most commands; what it does not know it shows as bytes, without complaint. It takes the
/// list of log pages for parameters, and finds it short.
pub(crate) fn judge(file: &Path, port: u16) -> Result<()> {
    let tshark = format!(
        "tshark -r '{}' -d tcp.port=={port},iscsi -o iscsi.bogus_pdu_max_data_len:16777216 \\
            -o iscsi.demand_good_f_bit:TRUE",
        file.display(),
    );
    let limit = Duration::from_secs(240);
    let seen = shell::run(&format!("{tshark} -Y iscsi -T fields -e iscsi.opcode"), limit)?;
    let opcodes: BTreeSet<&str> = seen.split([',', '\n']).collect();
    for (opcode, name) in OPCODES_SEEN {
        ensure!(opcodes.contains(opcode), "no {name} was seen: {opcodes:?}");
    }
    // Hosts ask for four bytes to learn the length of an answer: the dissector misses the rest.
    let faults = "(_ws.malformed && !(iscsi.opcode == 0x25 && iscsi.datasegmentlength == 4)) || \
        iscsi.opcode.invalid || iscsi.opcode == 0x3f || scsi.unknown_page || \
        iscsi.reject.reason";
    let script = format!("{tshark} -Y '({faults}) && tcp.port == {port}' | head -n 20");
    let faults = shell::run(&script, limit)?;
    ensure!(faults.is_empty(), "tshark finds fault:\n{faults}");
    let count = |what: &str| -> Result<u32> {
        let script = format!("{tshark} -Y iscsi -O iscsi -V | grep -c '{what}' || true");
        Ok(shell::run(&script, limit)?.trim().parse()?)
    };
    let (header, data) = (count("HeaderDigest: .*Good CRC32")?, count("DataDigest: .*Good CRC32")?);
    println!("tshark: {header} header and {data} data digests of iSCSI verified");
    ensure!(count("Digest: .*Bad CRC32")? == 0, "tshark finds wrong digests");
    ensure!(header > 50 && data > 20, "few digests: {header}, {data}");
    Ok(())
}
