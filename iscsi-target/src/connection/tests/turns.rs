//! Ordered commands, and those around them.

use super::*;
use storage_spec::iscsi::ScsiCommandFlags;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD: u8 = 3;
const TASK_SET_FULL: u8 = 0x28;

/// A session whose block requests end when the test says.
fn held() -> (Fabric, LinkId) {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.link(id).hold_blocks = true;
    (fabric, id)
}

fn read(fabric: &mut Fabric, id: LinkId, lun: u16, attribute: u8) -> u32 {
    let flags = ScsiCommandFlags::new().with_is_final(true).with_read(true);
    let flags = flags.with_attribute(attribute);
    let tag = fabric.link(id).initiator.command(lun, &read16(0, 1), flags, 4096, &[]);
    fabric.run();
    tag
}

/// Ends what the store has begun; how much that was.
fn end(fabric: &mut Fabric, id: LinkId) -> usize {
    let pending = fabric.link(id).memory.pending();
    for _ in 0..pending {
        fabric.link(id).complete(0);
    }
    fabric.run();
    pending
}

#[test]
fn an_ordered_command_waits_for_older_ones_and_younger_ones_for_it() {
    let (mut fabric, id) = held();
    let tags = [SIMPLE, 0, ORDERED, SIMPLE, SIMPLE, ORDERED, SIMPLE]
        .map(|attribute| read(&mut fabric, id, 0, attribute));
    let begun = [2, 1, 2, 1, 1, 0].map(|_| end(&mut fabric, id));
    assert_eq!(begun, [2, 1, 2, 1, 1, 0]);
    for tag in tags {
        let finished = fabric.link(id).initiator.finished(tag).expect("all have ended");
        assert_eq!(finished.status, 0);
    }
    assert_eq!(fabric.link(id).connection.slots.ordered(), 0);
}

#[test]
fn an_ordered_command_goes_on_only_when_the_last_older_one_has_ended() {
    let (mut fabric, id) = held();
    let first = [read(&mut fabric, id, 0, SIMPLE), read(&mut fabric, id, 0, SIMPLE)];
    let ordered = read(&mut fabric, id, 0, ORDERED);
    fabric.link(id).complete(1);
    fabric.run();
    assert_eq!(fabric.link(id).memory.pending(), 1, "the first has not ended");
    assert!(fabric.link(id).initiator.finished(first[1]).is_some());
    fabric.link(id).complete(0);
    fabric.run();
    assert!(fabric.link(id).initiator.finished(first[0]).is_some());
    assert_eq!(fabric.link(id).memory.pending(), 1, "the ordered one");
    end(&mut fabric, id);
    assert!(fabric.link(id).initiator.finished(ordered).is_some());
}

#[test]
fn head_of_queue_and_other_units_do_not_wait() {
    let (mut fabric, id) = held();
    read(&mut fabric, id, 0, SIMPLE);
    read(&mut fabric, id, 0, ORDERED);
    read(&mut fabric, id, 0, SIMPLE);
    assert_eq!(fabric.link(id).memory.pending(), 1);
    read(&mut fabric, id, 0, HEAD);
    read(&mut fabric, id, 1, SIMPLE);
    read(&mut fabric, id, 1, ORDERED);
    assert_eq!(fabric.link(id).memory.pending(), 3);
    assert_eq!([(); 4].map(|()| end(&mut fabric, id)), [3, 2, 1, 0]);
}

#[test]
fn commands_of_the_target_keep_order_too() {
    let (mut fabric, id) = held();
    let older = read(&mut fabric, id, 0, SIMPLE);
    let flags = ScsiCommandFlags::new().with_is_final(true).with_read(true);
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    let flags = flags.with_attribute(ORDERED);
    let tag = fabric.link(id).initiator.command(0, &inquiry, flags, 36, &[]);
    let younger = read(&mut fabric, id, 0, SIMPLE);
    assert!(fabric.link(id).initiator.finished(tag).is_none());
    assert_eq!(end(&mut fabric, id), 1);
    assert!(fabric.link(id).initiator.finished(older).is_some());
    assert!(fabric.link(id).initiator.finished(tag).is_some());
    assert_eq!(end(&mut fabric, id), 1);
    assert!(fabric.link(id).initiator.finished(younger).is_some());
}

#[test]
fn writes_keep_their_order_and_those_that_wait_hold_few_buffers() {
    for immediate in [false, true] {
        let mut fabric = fabric();
        let config = InitiatorConfig { immediate, ..InitiatorConfig::default() };
        let id = fabric.log_in(config);
        let link = fabric.link(id);
        link.hold_blocks = true;
        link.connection.config.buffers_max = 1 << 20;
        let mut tags = vec![];
        let flags = ScsiCommandFlags::new().with_is_final(true).with_write(true);
        read(&mut fabric, id, 0, ORDERED);
        for block in 0..60_u8 {
            let data = vec![block; 4096];
            let initiator = &mut fabric.link(id).initiator;
            let tag = match immediate {
                true => initiator.command(0, &write16(0, 1), flags, 4096, &data),
                false => initiator.write(0, &write16(0, 1), &data),
            };
            tags.push(tag);
            fabric.run();
        }
        let link = fabric.link(id);
        assert!(link.connection.held() <= (1 << 20) / 8 + 8192, "{}", link.connection.held());
        while end(&mut fabric, id) > 0 {}
        let statuses: Vec<u8> = tags
            .iter()
            .map(|&tag| fabric.link(id).initiator.finished(tag).expect("it has ended").status)
            .collect();
        let (good, full) = (statuses.iter().filter(|&&status| status == 0).count(), TASK_SET_FULL);
        assert!(statuses.iter().all(|&status| status == 0 || status == full), "{statuses:?}");
        assert_eq!(good < 60, immediate, "{statuses:?}");
        assert!(good >= 30, "{statuses:?}");
    }
}

#[test]
fn those_that_wait_can_be_aborted_and_end_with_their_session() {
    let (mut fabric, id) = held();
    read(&mut fabric, id, 0, SIMPLE);
    let ordered = read(&mut fabric, id, 0, ORDERED);
    let younger = read(&mut fabric, id, 0, SIMPLE);
    fabric.link(id).initiator.manage(TaskFunction::AbortTask.0, 0, ordered);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::FunctionComplete));
    assert_eq!(fabric.link(id).memory.pending(), 2, "nothing keeps the younger one");
    read(&mut fabric, id, 0, ORDERED);
    fabric.link(id).initiator.manage(TaskFunction::AbortTaskSet.0, 0, 0);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), None, "two are with the store");
    assert_eq!(end(&mut fabric, id), 2);
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::FunctionComplete));
    assert!(fabric.link(id).initiator.finished(younger).is_none());
    assert!(!fabric.link(id).connection.starved());
    read(&mut fabric, id, 0, SIMPLE);
    read(&mut fabric, id, 0, ORDERED);
    let link = fabric.link(id);
    link.connection.close();
    assert!(!link.connection.starved());
    link.complete(0);
    assert_eq!(link.connection.outstanding(), 0);
}

proptest! {
    /// Against what the attributes mean, whatever ends when.
    #[test]
    fn nobody_overtakes_an_ordered_command(
        commands in prop::collection::vec((0..2_u16, 0..4_u8), 1..40),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let (mut fabric, id) = held();
        let tags: Vec<u32> = commands
            .iter()
            .map(|&(lun, attribute)| read(&mut fabric, id, lun, attribute))
            .collect();
        // Positions in the order in which they ended.
        let mut ended = Vec::new();
        for end in &ends {
            let pending = fabric.link(id).memory.pending();
            if pending > 0 {
                fabric.link(id).complete(end.index(pending));
                fabric.run();
            }
            for (at, &tag) in tags.iter().enumerate() {
                if fabric.link(id).initiator.finished(tag).is_some() {
                    ended.push(at);
                }
            }
        }
        prop_assert_eq!(ended.len(), commands.len(), "none waits for ever");
        for (place, &at) in ended.iter().enumerate() {
            let (lun, attribute) = commands[at];
            if attribute == ORDERED {
                let overtaken = ended[place + 1..].iter().any(|&b| b < at && commands[b].0 == lun);
                let younger = |&a: &usize| a > at && commands[a].0 == lun && commands[a].1 != HEAD;
                prop_assert!(!overtaken, "{commands:?} {ended:?}");
                prop_assert!(!ended[..place].iter().any(younger), "{commands:?} {ended:?}");
            }
        }
    }
}
