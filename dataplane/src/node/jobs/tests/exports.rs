//! Through which protocols hosts see a volume.

use super::*;

#[test]
fn a_volume_is_seen_through_the_protocols_that_it_is_exported_by() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    // What the NVMe and the iSCSI target have: they refuse to change what they have not.
    let seen = |bench: &mut Bench| {
        let record = bench.control.jobs.volumes["a"].record.clone();
        let (control, nsid) = (&mut bench.control, NamespaceId(record.nsid));
        let nvme = control.target.resize_namespace(&control.subsystem, nsid, record.size).is_ok();
        (nvme, control.iscsi.resize_unit(nsid.0 as u16 - 1, record.size).is_ok())
    };
    assert_eq!(seen(&mut bench), (true, true));
    for (nvme, iscsi) in [(false, true), (true, false), (false, false), (true, true), (false, true)]
    {
        let exports = Exports { nvme, iscsi };
        let answer = bench.call(Command::ExportVolume { name: "a".into(), exports }).unwrap();
        assert!(matches!(answer, Answer::Volume(info) if info.exports == exports));
        assert_eq!(seen(&mut bench), (nvme, iscsi));
        // Neither growth nor another name shows it again, nor asks who does not know it.
        let size = bench.control.jobs.volumes["a"].record.size + SIZE;
        bench.call(Command::ResizeVolume { name: "a".into(), size }).unwrap();
        bench.call(Command::RenameVolume { name: "a".into(), to: "b".into() }).unwrap();
        bench.call(Command::RenameVolume { name: "b".into(), to: "a".into() }).unwrap();
        assert_eq!(seen(&mut bench), (nvme, iscsi));
    }
    let mut bench = bench.restart();
    assert_eq!(seen(&mut bench), (false, true), "kept");
    bench.fail(0);
    let exports = Exports::default();
    assert!(bench.call(Command::ExportVolume { name: "a".into(), exports }).is_err());
    assert_eq!(seen(&mut bench), (false, true), "as it is kept");
    bench.failures[0] = None;
    bench.call(delete("a")).unwrap();
}
