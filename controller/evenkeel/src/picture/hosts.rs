//! Hosts before and after: a bar for memory, CPU and disk each, guests as blocks in them. Those that nothing happens
//! to are small squares, so that a fleet of any size has room.

use evenkeel_crds::quantity::Bytes;

use super::{
    MARGIN, WIDTH,
    svg::{Svg, fit, wide},
};
use crate::plan::{Amounts, Block, Side, Standing};

/// More hosts than this are drawn smaller.
const MANY: usize = 16;
/// Where the bars begin.
const NAMES: f64 = 150.0;
/// Between before and after.
const GAP: f64 = 24.0;

/// A resource: its name, how much, and that in words.
struct Resource {
    name: &'static str,
    amount: fn(&Amounts) -> u64,
    words: fn(u64) -> String,
}

const RESOURCES: [Resource; 3] = [
    Resource {
        name: "memory",
        amount: |amounts| amounts.memory,
        words: |amount| Bytes(amount).human(),
    },
    Resource {
        name: "CPU",
        amount: |amounts| amounts.cpu_milli,
        words: |amount| format!("{:.1} CPUs", amount as f64 / 1000.0),
    },
    Resource {
        name: "disk",
        amount: |amounts| amounts.disk,
        words: |amount| Bytes(amount).human(),
    },
];

/// Draws them from `y` on, and says where it ended.
pub fn draw(svg: &mut Svg, hosts: &[Standing], y: f64) -> f64 {
    let (shown, rest): (Vec<&Standing>, Vec<&Standing>) = hosts
        .iter()
        .partition(|host| host.changes() || host.drained);
    let mut y = y + 14.0;
    if !shown.is_empty() {
        y = legend(svg, y);
        let column = (WIDTH - MARGIN * 2.0 - NAMES - GAP) / 2.0;
        let left = MARGIN + NAMES;
        let right = left + column + GAP;
        svg.text(left, y, "s", "Before");
        svg.text(right, y, "s", "After");
        y += 8.0;
        let (bar, gap) = if shown.len() > MANY {
            (5.0, 6.0)
        } else {
            (11.0, 12.0)
        };
        for host in shown {
            row(svg, host, [left, right], column, y, bar);
            y += 3.0 * (bar + 1.0) + gap;
        }
    }
    if !rest.is_empty() {
        y = squares(svg, &rest, y + 14.0);
    }
    y
}

/// What colours mean, in words.
fn legend(svg: &mut Svg, y: f64) -> f64 {
    let mut x = MARGIN;
    for (class, words) in [
        ("leave", "leaves"),
        ("come", "arrives"),
        ("stay", "stays"),
        ("other", "taken otherwise"),
    ] {
        svg.rect([x, y - 9.0, 12.0, 10.0], class, "");
        svg.text(x + 16.0, y, "q", words);
        x += 32.0 + wide(words, 11.0);
    }
    svg.text(
        x,
        y,
        "q",
        "bars from above: memory, CPU, disk; their length is what may be promised",
    );
    y + 24.0
}

fn row(svg: &mut Svg, host: &Standing, columns: [f64; 2], width: f64, y: f64, bar: f64) {
    let height = 3.0 * (bar + 1.0);
    svg.text(
        MARGIN,
        y + height / 2.0 + 4.0,
        "",
        &fit(&host.name, 11.0, if host.drained { 86.0 } else { 142.0 }),
    );
    if host.drained {
        let right = MARGIN + NAMES - 10.0;
        svg.text(right, y + height / 2.0 + 4.0, "q e", "drained");
    }
    for (x, side, moved) in [
        (columns[0], &host.before, "leave"),
        (columns[1], &host.after, "come"),
    ] {
        for (index, resource) in RESOURCES.iter().enumerate() {
            let y = y + index as f64 * (bar + 1.0);
            fill(svg, host, side, resource, [x, y, width, bar], moved);
        }
        if host.drained {
            svg.rect([x - 2.0, y - 2.0, width + 4.0, height + 3.0], "drained", "");
        }
    }
}

/// One bar: guests that stay, those that move, and what is taken otherwise.
fn fill(
    svg: &mut Svg,
    host: &Standing,
    side: &Side,
    resource: &Resource,
    [x, y, width, height]: [f64; 4],
    moved: &str,
) {
    let amount = resource.amount;
    let (limit, used) = (amount(&host.limit), amount(&side.used));
    let known: u64 = side.guests.iter().map(|block| amount(&block.takes)).sum();
    let whole = limit.max(used).max(known).max(1) as f64;
    let scale = |amount: u64| amount as f64 / whole * width;
    let percent = if limit == 0 {
        String::new()
    } else {
        format!(" ({:.0} %)", used as f64 * 100.0 / limit as f64)
    };
    let words = resource.words;
    let title = format!(
        "{}: {} of {} {}{percent}",
        host.name,
        words(used),
        words(limit),
        resource.name
    );
    svg.rect([x, y, width, height], "track", &title);
    let mut at = x;
    for Block {
        guest,
        takes,
        other,
    } in &side.guests
    {
        let own = scale(amount(takes));
        let class = if other.is_some() { moved } else { "stay" };
        let way = match (other, moved) {
            (None, _) => String::new(),
            (Some(other), "leave") => format!(", goes to {other}"),
            (Some(other), _) => format!(", comes from {other}"),
        };
        if own > 0.0 {
            let title = format!("{guest}: {} {}{way}", words(amount(takes)), resource.name);
            svg.rect([at, y, own, height], &format!("{class} edge"), &title);
            let label = fit(guest, 9.0, own - 4.0);
            if height > 9.0 && !label.is_empty() {
                let ink = if class == "come" { "inb" } else { "in" };
                svg.text(at + 2.0, y + height - 2.5, ink, &label);
            }
        }
        at += own;
    }
    if used > known {
        let title = format!("{}: {} otherwise", host.name, words(used - known));
        svg.rect([at, y, scale(used - known), height], "other", &title);
    }
    if used > limit && limit > 0 {
        let at = x + scale(limit);
        svg.line((at, y - 1.0), (at, y + height + 1.0), "limit");
    }
}

/// Hosts that nothing happens to: filled as high as their fullest resource.
fn squares(svg: &mut Svg, hosts: &[&Standing], y: f64) -> f64 {
    let plural = if hosts.len() == 1 { "" } else { "s" };
    let words = format!(
        "{} host{plural} where nothing changes, each as full as its fullest resource",
        hosts.len()
    );
    svg.text(MARGIN, y, "s", &words);
    let (side, step) = (16.0, 20.0);
    let columns = ((WIDTH - 2.0 * MARGIN) / step) as usize;
    let top = y + 10.0;
    for (index, host) in hosts.iter().enumerate() {
        let x = MARGIN + (index % columns) as f64 * step;
        let y = top + (index / columns) as f64 * step;
        let part = |resource: &Resource| {
            let limit = (resource.amount)(&host.limit).max(1);
            (resource.amount)(&host.before.used) as f64 / limit as f64
        };
        let full = RESOURCES
            .iter()
            .map(|resource| (part(resource), resource.name))
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        let (full, name) = full.unwrap_or((0.0, ""));
        let silent = if host.out_of_reach {
            ", out of reach"
        } else {
            ""
        };
        let title = format!("{}: {:.0} % of its {name}{silent}", host.name, full * 100.0);
        svg.rect([x, y, side, side], "track", &title);
        if !host.out_of_reach {
            let high = side * full.min(1.0);
            svg.rect([x, y + side - high, side, high], "stay", &title);
        }
    }
    top + hosts.len().div_ceil(columns) as f64 * step
}
