//! Times of the week in which moves may run.

use evenkeel_crds::{
    kinds::policy::{Day, Window},
    reason::{Cause, Reason},
    shared::Timestamp,
};
use jiff::{
    Zoned,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

/// Until when moves may run; nothing where that is for ever.
///
/// # Errors
/// Why none may run now: it is outside all windows, or a time zone has no such name.
pub(crate) fn open_until(windows: &[Window], now: Timestamp) -> Result<Option<Timestamp>, Cause> {
    if windows.is_empty() {
        return Ok(None);
    }
    let mut ends: Vec<Timestamp> = Vec::new();
    for window in windows {
        let zone = TimeZone::get(&window.time_zone).map_err(|_| {
            let message = format!("no time zone is named {:?}", window.time_zone);
            Cause::new(Reason::TimeZoneUnknown, message)
        })?;
        let today = now.to_zoned(zone.clone()).date();
        let days = [today.yesterday().ok(), Some(today)];
        let spans = days.into_iter().flatten();
        ends.extend(
            spans
                .filter_map(|day| span(window, day, &zone))
                .filter(|(from, to)| (from.timestamp()..to.timestamp()).contains(&now))
                .map(|(_, to)| to.timestamp()),
        );
    }
    let closed = || Cause::new(Reason::WindowClosed, "it is outside all windows");
    ends.into_iter().max().map(Some).ok_or_else(closed)
}

/// From when to when the window that begins on that day is open.
fn span(window: &Window, day: Date, zone: &TimeZone) -> Option<(Zoned, Zoned)> {
    let begins =
        window.days.is_empty() || window.days.iter().any(|one| weekday(*one) == day.weekday());
    let (from, to) = (time(&window.from)?, time(&window.to)?);
    let last = if to > from { day } else { day.tomorrow().ok()? };
    let at = |day: Date, time: Time| zone.to_ambiguous_zoned(day.to_datetime(time)).compatible();
    let (from, to) = (at(day, from).ok()?, at(last, to).ok()?);
    begins.then_some((from, to))
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], from: &str, to: &str, zone: &str) -> Window {
        Window {
            days: days.to_vec(),
            from: from.to_owned(),
            to: to.to_owned(),
            time_zone: zone.to_owned(),
        }
    }

    fn at(windows: &[Window], now: &str) -> Result<Option<String>, Reason> {
        open_until(windows, now.parse().unwrap())
            .map(|until| until.map(|until| until.to_string()))
            .map_err(|cause| cause.reason)
    }

    #[test]
    fn without_windows_it_is_always_open() {
        assert_eq!(at(&[], "2026-11-23T12:00:00Z"), Ok(None));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let night = [window(&[Day::Sat], "22:00", "05:00", "UTC")];
        let end = "2026-11-29T05:00:00Z".to_owned();
        for now in ["2026-11-28T22:00:00Z", "2026-11-29T04:59:59Z"] {
            assert_eq!(at(&night, now), Ok(Some(end.clone())), "{now}");
        }
        for now in [
            "2026-11-28T21:59:59Z",
            "2026-11-29T05:00:00Z",
            "2026-11-28T03:00:00Z",
            "2026-11-29T23:00:00Z",
        ] {
            assert_eq!(at(&night, now), Err(Reason::WindowClosed), "{now}");
        }
    }

    #[test]
    fn zones_have_their_own_hours_summer_and_winter() {
        let berlin = [window(&[], "01:00", "05:00", "Europe/Berlin")];
        let end = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            at(&berlin, "2026-07-01T00:30:00Z"),
            end("2026-07-01T03:00:00Z")
        );
        assert_eq!(
            at(&berlin, "2026-12-01T00:30:00Z"),
            end("2026-12-01T04:00:00Z")
        );
        assert_eq!(
            at(&berlin, "2026-07-01T03:30:00Z"),
            Err(Reason::WindowClosed)
        );
        let nowhere = [window(&[], "01:00", "05:00", "Europe/Atlantis")];
        assert_eq!(
            at(&nowhere, "2026-07-01T00:30:00Z"),
            Err(Reason::TimeZoneUnknown)
        );
    }
}
