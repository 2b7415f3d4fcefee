//! Where the chunks of each volume are: a table that every core has a copy of.

use super::VolumeStats;
use crate::store::{CHUNK, ChunkKey, Extent, VolumeId};
use nvmeof_target::io::VolumeIndex;
use std::sync::Arc;

/// A shard by the core that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardAddress {
    /// Core, by its position in the node's list.
    pub(crate) core: u16,
    /// Position among that core's shards.
    pub(crate) shard: u16,
}

/// One volume as a core sees it.
#[derive(Clone)]
pub(crate) struct Route {
    /// Its id on its disk.
    pub(crate) volume: VolumeId,
    /// The shards of its disk, in the order of the disk.
    pub(crate) shards: Arc<[ShardAddress]>,
    /// This core's counters.
    pub(crate) stats: Arc<VolumeStats>,
}

impl Route {
    /// The first piece of `offset..offset + len`, at most `limit` bytes: its shard and extent.
    pub(crate) fn piece(&self, offset: u64, len: u64, limit: u64) -> (ShardAddress, Extent) {
        let index = (offset / CHUNK) as u32;
        let within = offset % CHUNK;
        let len = len.min(CHUNK - within).min(limit);
        let shard = self.shards[index as usize % self.shards.len()];
        let chunk = ChunkKey { volume: self.volume, index };
        (shard, Extent { chunk, offset: within as u32, len: len as u32 })
    }
}

/// All volumes, by [`VolumeIndex`].
#[derive(Default)]
pub(crate) struct Routes {
    routes: Vec<Option<Route>>,
}

impl Routes {
    pub(crate) fn get(&self, volume: VolumeIndex) -> Option<&Route> {
        self.routes.get(volume.0 as usize)?.as_ref()
    }

    /// Adds, replaces or removes a route.
    pub(crate) fn set(&mut self, volume: VolumeIndex, route: Option<Route>) {
        let index = volume.0 as usize;
        if index >= self.routes.len() {
            self.routes.resize(index + 1, None);
        }
        self.routes[index] = route;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_chunks_and_alternate_shards() {
        let shards: Arc<[ShardAddress]> =
            (0..2).map(|shard| ShardAddress { core: 0, shard }).collect();
        let route = Route { volume: VolumeId(7), shards, stats: Arc::new(VolumeStats::new()) };
        let (shard, extent) = route.piece(CHUNK - 4096, 8192, u64::MAX);
        assert_eq!((shard.shard, extent.offset, extent.len), (0, CHUNK as u32 - 4096, 4096));
        let (shard, extent) = route.piece(CHUNK, 4096, u64::MAX);
        assert_eq!((shard.shard, extent.chunk.index, extent.offset), (1, 1, 0));
        let (_, extent) = route.piece(2 * CHUNK, CHUNK, 1 << 20);
        assert_eq!((extent.chunk.index, extent.len), (2, 1 << 20));
    }
}
