//! Emulated AHCI adapters with SATA drives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// An emulated SATA drive. QEMU's have logical blocks of 512 bytes, NCQ of 32, TRIM, SMART, a
/// volatile cache, neither FUA nor log 10h.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sata {
    pub(crate) mib: u64,
    /// Bytes of a physical block.
    pub(crate) physical: u32,
    /// Turns in a minute; 1: it does not turn.
    pub(crate) turns: u16,
}

/// An AHCI adapter behind a root port of its own, with a drive on each of its first ports.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) drives: Vec<Sata>,
}

impl Sata {
    pub(crate) const PLAIN: Self = Self { mib: 1024, physical: 4096, turns: 1 };
}

impl Adapter {
    /// With these drives.
    pub(crate) fn of(drives: &[Sata]) -> Self {
        Self { drives: drives.to_vec() }
    }

    /// The image of the drive on a port of the adapter behind root port `number`.
    pub(super) fn image(number: usize, port: usize) -> String {
        format!("sata{number}-{port}.img")
    }

    /// QEMU's arguments for it, behind root port `number`.
    pub(super) fn arguments<'a>(
        &self,
        folder: &Path,
        number: usize,
        images: &mut impl Iterator<Item = &'a PathBuf>,
    ) -> Result<Vec<String>> {
        let mut devices = vec![
            format!("pcie-root-port,id=port{number},chassis={number},slot={number}"),
            format!("ahci,id=ahci{number},bus=port{number}"),
        ];
        let mut blocks = Vec::new();
        for (port, drive) in self.drives.iter().enumerate() {
            let node = format!("sata{number}-{port}");
            let file = match images.next() {
                Some(image) => image.clone(),
                None => {
                    let file = folder.join(Self::image(number, port));
                    fs::File::create(&file)?.set_len(drive.mib << 20)?;
                    file
                }
            };
            let file = file.display();
            blocks.extend([
                format!("driver=file,filename={file},node-name={node}-file,discard=unmap"),
                format!("driver=raw,node-name={node}-base,file={node}-file,discard=unmap"),
                format!("driver=raw,node-name={node},file={node}-base,discard=unmap"),
            ]);
            let Sata { physical, turns, .. } = drive;
            devices.push(format!(
                "ide-hd,drive={node},bus=ahci{number}.{port},serial=SATA{number}{port},\
                 physical_block_size={physical},rotation_rate={turns},share-rw=on"
            ));
        }
        // A block node is made before the device that stands on it.
        let blocks = blocks.into_iter().flat_map(|block| ["-blockdev".to_owned(), block]);
        let devices = devices.into_iter().flat_map(|device| ["-device".to_owned(), device]);
        Ok(blocks.chain(devices).collect())
    }
}
