//! The picture: for each row, how many times as good `onceonly` is as each peer, on a logarithmic
//! axis. To the right of the line at 1 a peer is that many times worse, to the left it is better.
//! Each peer has a lane of its own in every row, so no two marks lie on each other; a mark's whisker
//! goes from the least to the most of the rounds.

use crate::results::{Measured, Results};
use crate::{durable, memory};
use std::fmt::Write as _;

const WIDTH: f64 = 980.0;
const LEFT: f64 = 370.0;
const RIGHT: f64 = 24.0;
const LANE: f64 = 7.0;
const GAP: f64 = 9.0;
/// The axis goes from one hundredth to a thousand times.
const LEAST: f64 = -2.0;
const MOST: f64 = 3.0;

const COLOURS: [&str; 6] = ["#d95f02", "#7570b3", "#1b9e77", "#e7298a", "#66a61e", "#a6761d"];

pub(super) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for (title, letter, peers) in [
        ("In memory", 'W', &memory::NAMES[1..]),
        ("With a disk", 'D', &durable::NAMES[1..]),
    ] {
        let rows: Vec<_> = results
            .rows()
            .filter(|measured| measured.row.group.starts_with(letter) && !measured.others().is_empty())
            .collect();
        if !rows.is_empty() {
            y = panel(&mut body, y, title, peers, &rows);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">How many times better onceonly is than each peer</text>\n\
         {body}</svg>\n"
    )
}

/// One panel from `y` on; where the next may begin.
fn panel(out: &mut String, y: f64, title: &str, peers: &[&str], rows: &[Measured<'_>]) -> f64 {
    let _ = writeln!(
        out,
        "<text x=\"16\" y=\"{:.0}\" font-size=\"14\" font-weight=\"bold\">{title}</text>",
        y + 18.0
    );
    let mut x = LEFT;
    for (at, peer) in peers.iter().enumerate() {
        mark(out, x + 6.0, y + 14.0, at);
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\">{peer}</text>",
            x + 15.0,
            y + 18.0
        );
        x += 98.0;
    }
    let top = y + 34.0;
    let height = peers.len() as f64 * LANE + GAP;
    let bottom = top + height * rows.len() as f64;
    for (at, measured) in rows.iter().enumerate() {
        row(
            out,
            top + height * at as f64,
            height,
            peers,
            measured,
            at % 2 == 0,
        );
    }
    axis(out, top, bottom);
    bottom + 56.0
}

fn row(out: &mut String, y: f64, height: f64, peers: &[&str], measured: &Measured<'_>, shaded: bool) {
    if shaded {
        let _ = writeln!(
            out,
            "<rect x=\"8\" y=\"{y:.1}\" width=\"{:.0}\" height=\"{height:.1}\" fill=\"#f3f3f3\"/>",
            WIDTH - 16.0
        );
    }
    let middle = y + height / 2.0 + 4.0;
    let _ = writeln!(
        out,
        "<text x=\"16\" y=\"{middle:.1}\" font-weight=\"bold\">{}</text><text x=\"46\" y=\"{middle:.1}\">{}, {}</text>",
        measured.row.group,
        measured.row.title,
        crate::common::short(measured.keys)
    );
    for (at, peer) in peers.iter().enumerate() {
        let Some(times) = measured.times_better_than(peer) else {
            continue;
        };
        let lane = y + GAP / 2.0 + LANE * (at as f64 + 0.5);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" y1=\"{lane:.1}\" x2=\"{:.1}\" y2=\"{lane:.1}\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            place(times.least),
            place(times.most),
            COLOURS[at % COLOURS.len()]
        );
        mark(out, place(times.middle), lane, at);
    }
}

fn mark(out: &mut String, x: f64, y: f64, peer: usize) {
    let colour = COLOURS[peer % COLOURS.len()];
    let _ = match peer % 3 {
        0 => writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
        ),
        1 => writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"5.4\" height=\"5.4\" fill=\"{colour}\"/>",
            x - 2.7,
            y - 2.7
        ),
        _ => writeln!(
            out,
            "<path d=\"M{x:.1} {:.1}l3.6 3.6l-3.6 3.6l-3.6 -3.6z\" fill=\"{colour}\"/>",
            y - 3.6
        ),
    };
}

fn axis(out: &mut String, top: f64, bottom: f64) {
    for (times, label) in [
        (0.01, "1/100"),
        (0.1, "1/10"),
        (1.0 / 3.0, "1/3"),
        (1.0, "1"),
        (3.0, "3"),
        (10.0, "10"),
        (100.0, "100"),
        (1_000.0, "1,000"),
    ] {
        let x = place(times);
        let (colour, width) = if times == 1.0 {
            ("#000000", 1.4)
        } else {
            ("#c8c8c8", 0.7)
        };
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 15.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">peer better</text>\
         <text x=\"{:.1}\" y=\"{:.1}\">onceonly better, so many times</text>\
         <text x=\"16\" y=\"{:.1}\" fill=\"#666666\">marks at an end of the axis lie beyond it</text>",
        place(1.0) - 8.0,
        bottom + 31.0,
        place(1.0) + 8.0,
        bottom + 31.0,
        bottom + 15.0
    );
}

/// Where on the axis; what is beyond an end is drawn at it.
fn place(times: f64) -> f64 {
    let at = times.log10().clamp(LEAST, MOST);
    LEFT + (at - LEAST) / (MOST - LEAST) * (WIDTH - LEFT - RIGHT)
}
