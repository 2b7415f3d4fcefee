//! The shape of the file, as serde reads it. Values that can be wrong keep their place in the text.

use crate::size::Size;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::path::PathBuf;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default = "nowhere")]
    pub(super) node: Spanned<Node>,
    #[serde(default)]
    pub(super) disk: Vec<Spanned<Disk>>,
    #[serde(default)]
    pub(super) portal: Vec<Spanned<Portal>>,
    #[serde(default)]
    pub(super) management: Management,
    #[serde(default)]
    pub(super) metrics: Metrics,
}

fn nowhere() -> Spanned<Node> {
    Spanned::new(0..0, Node::default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Option<Spanned<String>>,
    pub(super) nqn: Option<Spanned<String>>,
    pub(super) iqn: Option<Spanned<String>>,
    pub(super) cores: Option<Spanned<Cores>>,
    #[serde(default)]
    pub(super) poll: bool,
    #[serde(default)]
    pub(super) no_iommu: bool,
    pub(super) buffers: Option<Spanned<Size>>,
    pub(super) metadata_cache: Option<Spanned<Size>>,
    pub(super) max_connections: Option<Spanned<usize>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) device: Option<Spanned<String>>,
    pub(super) namespace: Option<Spanned<u32>>,
    pub(super) port: Option<Spanned<u8>>,
    pub(super) fua: Option<Spanned<bool>>,
    pub(super) journal: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) zero_on_free: bool,
    pub(super) passthrough: Option<Spanned<bool>>,
    pub(super) ram: Option<Spanned<Size>>,
    pub(super) shards: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Portal {
    #[serde(default)]
    pub(super) protocol: Protocol,
    pub(super) listen: Spanned<String>,
    pub(super) advertise: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) discovery_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    #[default]
    Nvme,
    Iscsi,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Management {
    pub(super) socket: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<String>>,
}

/// Processors: `[0, 1]` or `"0-3,6"`.
#[derive(Debug)]
pub(super) struct Cores(pub(super) Vec<usize>);

/// Most entries taken from a list or range, so that a hostile file cannot ask for much.
const ENTRIES_MAX: usize = super::CORE_MAX + 1;

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("processors, as [0, 1] or \"0-3,6\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cores, E> {
                ranges(text).map(Cores).ok_or_else(|| {
                    E::custom(format_args!("{text:?} is not a list such as \"0-3,6\""))
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = list.next_element()? {
                    if cores.len() == ENTRIES_MAX {
                        return Err(de::Error::custom("too many processors"));
                    }
                    cores.push(core);
                }
                Ok(Cores(cores))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

fn ranges(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last - first >= ENTRIES_MAX || cores.len() >= ENTRIES_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}
