//! The arena's buffers as targets see them.

use crate::dma::Buf;
use target_io::Buffer;

impl Buffer for Buf {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn crcs(&self) -> &[u32] {
        Buf::crcs(self)
    }

    fn crcs_mut(&mut self) -> &mut [u32] {
        Buf::crcs_mut(self)
    }
}
