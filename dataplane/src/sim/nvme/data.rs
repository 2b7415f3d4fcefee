//! Where a command's data are, as the controller finds out.

use super::model::Model;
use crate::dma::EmulatedBus;
use storage_spec::nvme::command::{
    Command, PSDT_PRP, PSDT_SGL, SGL_DATA_BLOCK, SGL_LAST_SEGMENT, SglDescriptor,
};
use storage_spec::nvme::status::Status;
use zerocopy::{FromBytes, IntoBytes};

const PAGE: u64 = 4096;

/// Pieces of memory: address and length.
type Pieces = Vec<(u64, usize)>;

impl Model {
    /// Data of a write.
    pub(super) fn take_data(&mut self, command: &Command, len: usize) -> Result<Vec<u8>, Status> {
        let (bus, pieces) = self.pieces(command, len)?;
        let mut data = vec![0; len];
        let mut at = 0;
        for (address, len) in pieces {
            let read = bus.read(address, &mut data[at..at + len]);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            at += len;
        }
        Ok(data)
    }

    /// Data of a read.
    pub(super) fn give_data(&mut self, command: &Command, data: &[u8]) -> Result<(), Status> {
        let (bus, pieces) = self.pieces(command, data.len())?;
        let mut at = 0;
        for (address, len) in pieces {
            let written = bus.write(address, &data[at..at + len]);
            written.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            at += len;
        }
        Ok(())
    }

    fn pieces(&mut self, command: &Command, len: usize) -> Result<(EmulatedBus, Pieces), Status> {
        let bus = self.bus.clone().ok_or(Status::DATA_TRANSFER_ERROR)?;
        let pieces = match command.command_flags().psdt() {
            PSDT_PRP => prp_pieces(&bus, command, len),
            PSDT_SGL if self.config.sgl => sgl_pieces(&bus, command, len),
            _ => Err(Status::INVALID_FIELD),
        };
        let pieces = pieces.inspect_err(|status| {
            self.violations.push(format!("data pointer of {command:?}: {status:?}"));
        })?;
        Ok((bus, pieces))
    }
}

fn prp_pieces(bus: &EmulatedBus, command: &Command, len: usize) -> Result<Pieces, Status> {
    let words = command.sgl.as_bytes().as_chunks::<8>().0;
    let [first, second] = [words[0], words[1]].map(u64::from_le_bytes);
    if !first.is_multiple_of(4) {
        return Err(Status::INVALID_FIELD);
    }
    let mut rest = len;
    let mut pieces = Vec::new();
    let mut add = |address: u64| {
        let len = ((PAGE - address % PAGE) as usize).min(rest);
        pieces.push((address, len));
        rest -= len;
        rest
    };
    let rest = add(first);
    if rest == 0 {
        return Ok(pieces);
    }
    if rest <= PAGE as usize {
        if !second.is_multiple_of(PAGE) {
            return Err(Status::INVALID_FIELD);
        }
        add(second);
        return Ok(pieces);
    }
    let entries = rest.div_ceil(PAGE as usize);
    if !second.is_multiple_of(8) || second % PAGE + entries as u64 * 8 > PAGE {
        return Err(Status::INVALID_FIELD);
    }
    for index in 0..entries as u64 {
        let mut bytes = [0; 8];
        bus.read(second + index * 8, &mut bytes).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let entry = u64::from_le_bytes(bytes);
        if !entry.is_multiple_of(PAGE) {
            return Err(Status::INVALID_FIELD);
        }
        add(entry);
    }
    Ok(pieces)
}

fn sgl_pieces(bus: &EmulatedBus, command: &Command, len: usize) -> Result<Pieces, Status> {
    let descriptor = command.sgl;
    let piece =
        |descriptor: &SglDescriptor| (descriptor.address.get(), descriptor.length.get() as usize);
    let pieces = match descriptor.identifier {
        SGL_DATA_BLOCK => vec![piece(&descriptor)],
        SGL_LAST_SEGMENT => {
            let mut bytes = vec![0; descriptor.length.get() as usize];
            let read = bus.read(descriptor.address.get(), &mut bytes);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            let list = <[SglDescriptor]>::ref_from_bytes(&bytes);
            let list = list.map_err(|_| Status::INVALID_SGL_SEGMENT)?;
            if list.iter().any(|descriptor| descriptor.identifier != SGL_DATA_BLOCK) {
                return Err(Status::SGL_TYPE_INVALID);
            }
            list.iter().map(piece).collect()
        }
        _ => return Err(Status::SGL_TYPE_INVALID),
    };
    let total: usize = pieces.iter().map(|(_, len)| len).sum();
    if total == len { Ok(pieces) } else { Err(Status::DATA_SGL_LENGTH_INVALID) }
}
