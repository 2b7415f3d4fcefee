//! Draws throughput and latency against queue depth as an SVG image.

use crate::load::Pattern;
use crate::suite::Cell;
use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 50.0;
const SERIES: [(Pattern, &str); 2] =
    [(Pattern::RandRead, "#1f6feb"), (Pattern::RandWrite, "#d1480f")];

/// Two panels: thousands of 4 KiB commands a second, and median latency, on the disk in memory.
pub(crate) fn throughput(cells: &[Cell]) -> String {
    let is_small = |cell: &&Cell| cell.disk == "ram" && cell.measured.size == 4096;
    let cells: Vec<&Cell> = cells.iter().filter(is_small).collect();
    let mut svg = String::new();
    let (width, height) = (2.0 * (WIDTH + 2.0 * MARGIN), HEIGHT + 2.0 * MARGIN);
    let _ = write!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' \
         font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>"
    );
    panel(&mut svg, 0.0, "thousand IOPS, 4 KiB", &cells, |cell| cell.measured.iops / 1000.0);
    panel(&mut svg, WIDTH + 2.0 * MARGIN, "median latency, µs", &cells, |cell| {
        cell.measured.p50_us
    });
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, title: &str, cells: &[&Cell], of: impl Fn(&Cell) -> f64) {
    let most = cells.iter().map(|cell| of(cell)).fold(1.0, f64::max);
    let x = |depth: u16| left + MARGIN + f64::from(depth).log2() / 7.0 * WIDTH;
    let y = |value: f64| MARGIN + HEIGHT * (1.0 - value / most);
    let (x0, y0) = (left + MARGIN, MARGIN + HEIGHT);
    let _ = write!(
        svg,
        "<text x='{x0}' y='30'>{title}</text><path d='M{x0} {MARGIN}V{y0}H{}' fill='none' \
         stroke='black'/><text x='{}' y='{}' text-anchor='end'>{most:.0}</text>",
        x0 + WIDTH,
        x0 - 5.0,
        MARGIN + 5.0
    );
    for depth in [1, 2, 4, 8, 16, 32, 64, 128] {
        let _ = write!(
            svg,
            "<text x='{}' y='{}' text-anchor='middle'>{depth}</text>",
            x(depth),
            y0 + 18.0
        );
    }
    for (number, (pattern, colour)) in SERIES.iter().enumerate() {
        let points: Vec<String> = cells
            .iter()
            .filter(|cell| cell.measured.pattern == *pattern)
            .map(|cell| format!("{:.1},{:.1}", x(cell.measured.depth), y(of(cell))))
            .collect();
        let _ = write!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/><text x='{}' \
             y='{}' fill='{colour}'>{pattern:?}</text>",
            points.join(" "),
            x0 + 10.0,
            MARGIN + 15.0 * (number as f64 + 1.0)
        );
    }
}
