//! The few elements of SVG that pictures are made of.

use std::fmt::Write as _;

/// Colours by class. Orange leaves, blue arrives, vermilion has failed (and is striped); greys are what stays.
const STYLE: &str = "\
text{font:11px system-ui,'DejaVu Sans',sans-serif;fill:#222}\
.h{font-size:16px;font-weight:600}.s{font-size:13px;font-weight:600}.q{fill:#666}.e{text-anchor:end}.m{text-anchor:middle}\
.in{font-size:9px;fill:#111}.inb{font-size:9px;fill:#fff}\
.bg{fill:#fff}.track{fill:#eee}.stay{fill:#a9b0b8}.leave{fill:#e69f00}.come{fill:#0072b2}.fail{fill:url(#stripes)}\
.memory{opacity:.25}.other{fill:#d3d7db}.grid{stroke:#ddd}.edge{stroke:#fff;stroke-width:.6}.limit{stroke:#222;stroke-width:1.5}\
.fault{fill:#d55e00;opacity:.15}.drained{stroke:#222;stroke-dasharray:3 2;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6e6e6}.q{fill:#aaa}.in{fill:#111}.inb{fill:#fff}.bg{fill:#16191d}.track{fill:#2a2f35}\
.stay{fill:#6b747e}.other{fill:#454c54}.come{fill:#3a97d3}.grid{stroke:#363c43}.edge{stroke:#16191d}.limit{stroke:#e6e6e6}.drained{stroke:#e6e6e6}}";

/// A picture in the making.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// A line of text, its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"
        );
    }

    /// A filled rectangle, with words for who points at it.
    pub fn rect(&mut self, at: [f64; 4], class: &str, title: &str) {
        let [x, y, width, height] = at;
        let width = width.max(0.0);
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\""
        );
        let _ = if title.is_empty() {
            writeln!(self.body, "/>")
        } else {
            writeln!(self.body, "><title>{}</title></rect>", escape(title))
        };
    }

    /// A line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// The whole.
    #[must_use]
    pub fn finish(self, width: f64, height: f64, title: &str, summary: &str) -> String {
        let (title, summary) = (escape(title), escape(summary));
        let height = height.ceil();
        let body = self.body;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"title summary\" \
             width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <title id=\"title\">{title}</title>\n<desc id=\"summary\">{summary}</desc>\n<style>{STYLE}</style>\n\
             <defs><pattern id=\"stripes\" width=\"5\" height=\"5\" patternTransform=\"rotate(45)\" \
             patternUnits=\"userSpaceOnUse\"><rect width=\"5\" height=\"5\" fill=\"#d55e00\"/>\
             <rect width=\"1.8\" height=\"5\" fill=\"#fff\" opacity=\".6\"/></pattern></defs>\n\
             <rect width=\"100%\" height=\"100%\" class=\"bg\"/>\n{body}</svg>\n"
        )
    }
}

/// About how wide a text of that size is.
#[must_use]
pub fn wide(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.6
}

/// As much of a text as has room, the rest an ellipsis; nothing where hardly anything has.
#[must_use]
pub fn fit(text: &str, size: f64, room: f64) -> String {
    let most = (room / (size * 0.6)).floor().max(0.0) as usize;
    let count = text.chars().count();
    if count <= most {
        text.to_owned()
    } else if most < 4 {
        String::new()
    } else {
        let kept: String = text.chars().take(most - 1).collect();
        format!("{kept}\u{2026}")
    }
}

/// As XML's text or attribute. What no XML may hold is shown as a replacement character.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            // What turns the direction of text around would turn ours.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(
            escape("a<b>&\"'\u{0}\u{202e}\n"),
            "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}\u{fffd} "
        );
    }

    #[test]
    fn text_is_cut_where_there_is_no_room() {
        assert_eq!(fit("database", 10.0, 48.0), "database");
        assert_eq!(fit("database", 10.0, 36.0), "datab\u{2026}");
        assert_eq!(fit("database", 10.0, 12.0), "");
    }
}
