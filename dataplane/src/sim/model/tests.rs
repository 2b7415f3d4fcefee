use super::*;
use crate::sim::content::{Place, append};

fn model() -> Model {
    let mut model = Model { spaces: vec![vec![Space::of(1)]], ..Model::default() };
    model.volumes.insert(1, Volume::new(1, 0, 4 << 20, 9));
    model
}

fn operation(model: &mut Model, block: u64, kind: Kind) -> Operation {
    model.next_id += 1;
    let (id, begun) = (model.next_id, model.now);
    Operation { id, volume: 1, kind, offset: block * BLOCK, len: BLOCK, begun }
}

fn write(model: &mut Model, block: u64) -> Operation {
    let versions = (0..8).map(|sector| 100 * model.next_id + 50 + sector).collect();
    let writing = operation(model, block, Kind::Write { versions });
    model.begin_change(&writing);
    writing
}

fn read(model: &mut Model, block: u64) -> Operation {
    let reading = operation(model, block, Kind::Read);
    model.begin_read(&reading);
    reading
}

fn content(operation: &Operation) -> Vec<u8> {
    let Kind::Write { versions } = &operation.kind else { panic!("a write") };
    operation.content(versions)
}

#[test]
fn old_or_new_beside_a_write_and_only_new_after() {
    let mut model = model();
    let (reading, writing) = (read(&mut model, 1), write(&mut model, 1));
    let new = content(&writing);
    model.done(reading, &[0; 4096]);
    let reading = read(&mut model, 1);
    model.done(reading, &new);
    model.done(writing, &[]);
    let reading = read(&mut model, 1);
    model.done(reading, &new);
}

#[test]
#[should_panic(expected = "reads as")]
fn an_acknowledged_write_that_is_gone_is_seen() {
    let mut model = model();
    let writing = write(&mut model, 1);
    model.done(writing, &[]);
    let reading = read(&mut model, 1);
    model.done(reading, &[0; 4096]);
}

#[test]
#[should_panic(expected = "reads as")]
fn a_torn_block_is_seen() {
    let mut model = model();
    let writing = write(&mut model, 1);
    let mut torn = content(&writing);
    torn[512..].fill(0);
    let reading = read(&mut model, 1);
    model.done(reading, &torn);
}

#[test]
#[should_panic(expected = "reads as")]
fn what_was_seen_after_an_unknown_end_stays() {
    let mut model = model();
    let writing = write(&mut model, 1);
    let new = content(&writing);
    model.unknown(writing);
    let reading = read(&mut model, 1);
    model.done(reading, &new);
    let reading = read(&mut model, 1);
    model.done(reading, &[0; 4096]);
}

#[test]
#[should_panic(expected = "reads as")]
fn a_foreign_sector_is_seen() {
    let mut model = model();
    let writing = write(&mut model, 1);
    model.done(writing, &[]);
    let mut foreign = Vec::new();
    (0..8).for_each(|sector| append(&mut foreign, 3, Place { volume: 1, sector }));
    let reading = read(&mut model, 1);
    model.done(reading, &foreign);
}

#[test]
#[should_panic(expected = "write")]
fn full_is_not_believed_while_there_is_space() {
    let mut model = model();
    let writing = write(&mut model, 1);
    model.failed(writing, Status::CAPACITY_EXCEEDED);
}

#[test]
fn full_is_believed_when_more_slabs_are_in_use_than_there_are() {
    let mut model = model();
    let first = write(&mut model, 1);
    model.done(first, &[]);
    let second = write(&mut model, 600);
    model.failed(second, Status::CAPACITY_EXCEEDED);
}

#[test]
#[should_panic(expected = "read")]
fn media_errors_of_sound_blocks_are_seen() {
    let mut model = model();
    model.damage(1, 2);
    let reading = read(&mut model, 2);
    model.failed(reading, Status::UNRECOVERED_READ_ERROR);
    let reading = read(&mut model, 3);
    model.failed(reading, Status::UNRECOVERED_READ_ERROR);
}
