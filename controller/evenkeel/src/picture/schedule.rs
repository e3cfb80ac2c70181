//! What moves when: for each host what leaves it and what comes to it, on one time line.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Bar, MARGIN, Sort, WIDTH,
    svg::{Svg, fit, wide},
};
use crate::table::human;

/// More lanes than this are drawn smaller.
const MANY: usize = 40;
/// Where the time line begins.
const NAMES: f64 = 150.0;

/// A host's moves in one direction, those in a lane one after the other.
struct Row<'a> {
    host: &'a str,
    /// Whether they leave.
    out: bool,
    lanes: Vec<Vec<&'a Bar>>,
}

/// Draws them from `y` on, and says where it ended.
pub fn draw(svg: &mut Svg, bars: &[Bar], faults: &[(Duration, Duration, String)], y: f64) -> f64 {
    if bars.is_empty() {
        return y;
    }
    svg.text(MARGIN, y, "s", "Schedule");
    let known = bars.iter().all(|bar| bar.end.is_some());
    if !known {
        let words = "How long moves take is not known: Hosts say no bandwidth of their links.";
        svg.text(MARGIN + 80.0, y, "q", words);
    }
    let mut x = MARGIN + 90.0;
    let failed = bars.iter().any(|bar| matches!(bar.sort, Sort::Failed(_)));
    let memory = bars.iter().any(|bar| bar.memory.is_some());
    let legend = [
        (memory, "memory", "memory travels"),
        (failed, "fail", "fails"),
        (!faults.is_empty(), "fault", "something is broken"),
    ];
    for (_, class, words) in legend.into_iter().filter(|(shown, ..)| *shown && known) {
        svg.rect([x, y - 9.0, 12.0, 10.0], class, "");
        svg.text(x + 16.0, y, "q", words);
        x += 32.0 + wide(words, 11.0);
    }
    let ends = bars.iter().map(|bar| bar.end.unwrap_or(bar.start));
    let end = ends.max().unwrap_or_default().as_secs_f64();
    let end = if end > 0.0 { end } else { 1.0 };
    let width = WIDTH - 2.0 * MARGIN - NAMES;
    let left = MARGIN + NAMES;
    let x = |time: Duration| left + (time.as_secs_f64().min(end)) / end * width;
    let rows = rows(bars);
    let lanes: usize = rows.iter().map(|row| row.lanes.len()).sum();
    let high = if lanes > MANY { 6.0 } else { 14.0 };
    let gap = if lanes > MANY { 4.0 } else { 7.0 };
    let axis = y + 20.0;
    let top = axis + 6.0;
    let bottom = top + lanes as f64 * (high + 1.0) + rows.len() as f64 * gap;
    for tick in ticks(end) {
        let at = left + tick / end * width;
        svg.line((at, axis + 2.0), (at, bottom), "grid");
        let time = Duration::from_secs_f64(tick);
        let words = if time.is_zero() {
            "now".to_owned()
        } else {
            format!("+{}", human(time))
        };
        svg.text(at, axis - 2.0, "q m", &words);
    }
    for (from, to, what) in faults {
        let start = x(*from);
        let title = format!("+{}: {what}", human(*from));
        svg.rect(
            [start, top - 4.0, (x(*to) - start).max(2.0), bottom - top],
            "fault",
            &title,
        );
    }
    let mut y = top;
    for row in &rows {
        let height = row.lanes.len() as f64 * (high + 1.0);
        let arrow = if row.out {
            "\u{2192} from"
        } else {
            "\u{2190} to"
        };
        let size = if high < 8.0 { 90.0 } else { 110.0 };
        svg.text(
            MARGIN,
            y + height / 2.0 + 3.5,
            "q",
            &format!("{arrow} {}", fit(row.host, 11.0, size)),
        );
        for lane in &row.lanes {
            for bar in lane {
                one(svg, bar, row.out, [x(bar.start), y, 0.0, high], |end| {
                    x(end)
                });
            }
            y += high + 1.0;
        }
        y += gap;
    }
    bottom
}

/// One bar. One whose end is not known is a mark at its start.
fn one(
    svg: &mut Svg,
    bar: &Bar,
    out: bool,
    [start, y, _, height]: [f64; 4],
    x: impl Fn(Duration) -> f64,
) {
    let width = bar.end.map_or(6.0, |end| (x(end) - start).max(1.5));
    let class = match (&bar.sort, out) {
        (Sort::Failed(_), _) => "fail",
        (_, true) => "leave",
        (_, false) => "come",
    };
    let end = bar
        .end
        .map_or("?".to_owned(), |end| format!("+{}", human(whole(end))));
    let sort = match &bar.sort {
        Sort::Planned => String::new(),
        Sort::Done => ", done".to_owned(),
        Sort::Failed(reason) => format!(", failed: {reason}"),
    };
    let memory = bar.memory.map_or(String::new(), |memory| {
        format!(", memory from +{}", human(whole(memory)))
    });
    let title = format!(
        "{}: {} to {}, +{} to {end}{memory}{sort}",
        bar.guest,
        bar.source,
        bar.target,
        human(whole(bar.start)),
    );
    svg.rect([start, y, width, height], &format!("{class} edge"), &title);
    if let Some(memory) = bar.memory {
        let from = x(memory).min(start + width);
        svg.rect([from, y, start + width - from, height], "memory", &title);
    }
    let other = if out { &bar.target } else { &bar.source };
    let way = if out { "\u{2192}" } else { "\u{2190}" };
    let words = format!("{} {way} {other}", bar.guest);
    let mut label = fit(&words, 9.0, width - 4.0);
    if label.is_empty() || label.ends_with('\u{2026}') {
        label = fit(&bar.guest, 9.0, width - 4.0);
    }
    if height > 9.0 && !label.is_empty() {
        let ink = if class == "come" { "inb" } else { "in" };
        svg.text(start + 3.0, y + height - 4.0, ink, &label);
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs_f64().round() as u64)
}

/// Each host's moves in lanes: as few as there are moves at once.
fn rows(bars: &[Bar]) -> Vec<Row<'_>> {
    let mut found: BTreeMap<(bool, &str), Vec<&Bar>> = BTreeMap::new();
    for bar in bars {
        found.entry((false, &bar.source)).or_default().push(bar);
        found.entry((true, &bar.target)).or_default().push(bar);
    }
    found
        .into_iter()
        .map(|((comes, host), mut bars)| {
            bars.sort_by_key(|bar| bar.start);
            let mut lanes: Vec<Vec<&Bar>> = Vec::new();
            for bar in bars {
                let free = lanes.iter_mut().find(|lane| {
                    let last = lane.last().and_then(|last| last.end);
                    last.is_some_and(|end| end <= bar.start)
                });
                match free {
                    Some(lane) => lane.push(bar),
                    None => lanes.push(vec![bar]),
                }
            }
            Row {
                host,
                out: !comes,
                lanes,
            }
        })
        .collect()
}

/// Round times, at most eight of them.
fn ticks(end: f64) -> Vec<f64> {
    const STEPS: [f64; 15] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
        21600.0,
    ];
    let step = STEPS
        .into_iter()
        .find(|step| end / step <= 8.0)
        .unwrap_or_else(|| (end / 8.0 / 86_400.0).ceil() * 86_400.0);
    let count = (end / step).floor() as usize;
    (0..=count).map(|number| number as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        assert_eq!(ticks(5.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(146.0), [0.0, 30.0, 60.0, 90.0, 120.0]);
        for end in [0.1, 7.0, 3000.0, 1e5, 1e7] {
            assert!(ticks(end).len() <= 9);
        }
    }

    #[test]
    fn a_lane_holds_what_follows_one_another() {
        let bar = |guest: &str, start: u64, end: u64| Bar {
            guest: guest.to_owned(),
            source: "h1".to_owned(),
            target: "h2".to_owned(),
            start: Duration::from_secs(start),
            end: Some(Duration::from_secs(end)),
            memory: None,
            sort: Sort::Planned,
        };
        let bars = [bar("a", 0, 10), bar("b", 5, 8), bar("c", 10, 12)];
        let rows = rows(&bars);
        let lanes: Vec<(&str, bool, usize)> = rows
            .iter()
            .map(|row| (row.host, row.out, row.lanes.len()))
            .collect();
        assert_eq!(lanes, [("h1", true, 2), ("h2", false, 2)]);
    }
}
