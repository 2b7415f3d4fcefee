//! What is left of a unit's state when the node starts anew.

use super::*;

/// What hosts have changed is not kept, and they are told that it may have gone.
#[test]
fn after_a_restart_units_are_as_at_first_and_every_session_is_told() {
    const NON_OPTIMIZED: u8 = 1;
    let report_groups = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    for _start in 0..2 {
        let mut fabric = fabric();
        let id = fabric.open(InitiatorConfig::default());
        fabric.link(id).initiator.login(TARGET);
        fabric.run();
        for lun in 0..2 {
            let told = fabric.read(id, lun, &[0; 6], 0);
            assert_eq!((told.sense, told.format), (Some((6, 0x2900)), 0x70));
        }
        let control = fabric.read(id, 0, &[0x1A, 8, 0x0A, 0, 255, 0], 255).data;
        // PS and D_SENSE, SWP.
        assert_eq!((control[4] & 0x80, control[6] & 4, control[8] & 8), (0, 0, 0));
        let groups = fabric.read(id, 0, &report_groups, 64).data;
        assert_eq!(groups[4] & 0xF, 0, "active/optimized");
        let modes = [0, 0, 0, 0, 0xA, 10, 6, 0x10, 8, 0x40, 0, 0, 0xFF, 0xFF, 0, 0];
        let saved = fabric.write(id, 0, &[0x15, 0x11, 0, 0, 16, 0], &modes);
        assert_eq!(saved.sense, Some((5, 0x2400)), "SP");
        assert_eq!(fabric.write(id, 0, &[0x15, 0x10, 0, 0, 16, 0], &modes).status, 0);
        let set_groups = [0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
        let group = [0, 0, 0, 0, NON_OPTIMIZED, 0, 0, 1];
        assert_eq!(fabric.write(id, 0, &set_groups, &group).status, 0);
        let groups = fabric.read(id, 0, &report_groups, 64).data;
        assert_eq!(groups[4] & 0xF, NON_OPTIMIZED);
        let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(fabric.write(id, 0, &write, &[1; 4096]).sense, Some((7, 0x2702)));
    }
}
