//! fio in the guest against the node, for the benchmark.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bed::{Bed, Maker};
use crate::node::Shape;

const VOLUME: u64 = 256 << 20;
const SECONDS: u64 = 5;

/// Measures 4 KiB random reads and writes at depths 1 and 32 and writes them to `file` as JSON.
///
/// The figures are those of an emulated processor; the node is seldom busy.
///
/// # Errors
/// If the machine or the node does not start, or fio fails.
pub(crate) fn run(maker: &mut Maker, file: &Path) -> Result<()> {
    let mut bed = maker.make(Shape::Plain, None)?;
    let nsid = bed.volume("measured", VOLUME, 4096)?;
    bed.run(&format!(
        "connect
         fio --name=fill --filename=$(device {nsid}) --rw=write --bs=128k --size={VOLUME} \
             --ioengine=libaio --iodepth=16 --direct=1"
    ))?;
    let mut cells = Vec::new();
    for pattern in ["randread", "randwrite"] {
        for depth in [1, 32] {
            cells.push(cell(&bed, nsid, pattern, depth)?);
        }
    }
    bed.run("disconnect")?;
    let kernel = bed.run("uname -r")?;
    let figures = json!({
        "host": format!("Linux {} in QEMU, TCG: bound by the emulated processor", kernel.trim()),
        "disk": "file",
        "cells": cells,
    });
    std::fs::write(file, serde_json::to_string_pretty(&figures)?)
        .with_context(|| file.display().to_string())
}

fn cell(bed: &Bed, nsid: u32, pattern: &str, depth: u32) -> Result<Value> {
    let fio = format!(
        "fio --name=cell --filename=$(device {nsid}) --rw={pattern} --bs=4k --size={VOLUME} \
             --ioengine=libaio --iodepth={depth} --direct=1 --norandommap --time_based \
             --runtime={SECONDS} --output-format=json --output=/tmp/cell
         sed -n '/^{{/,$p' /tmp/cell"
    );
    let told = bed.guest.finish(bed.start(&fio, Duration::from_secs(120))?)?;
    let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
    let direction = pattern.trim_start_matches("rand");
    let measured = &told["jobs"][0][direction];
    let number = |value: &Value, scale: f64| {
        value.as_f64().map(|number| number / scale).with_context(|| format!("fio told {told}"))
    };
    let latency = &measured["clat_ns"];
    Ok(json!({
        "pattern": pattern,
        "size": 4096,
        "depth": depth,
        "iops": number(&measured["iops"], 1.0)?,
        "mean_us": number(&latency["mean"], 1000.0)?,
        "p50_us": number(&latency["percentile"]["50.000000"], 1000.0)?,
        "p99_us": number(&latency["percentile"]["99.000000"], 1000.0)?,
    }))
}
