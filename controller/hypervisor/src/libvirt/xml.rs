//! Small helpers for reading and writing libvirt's XML.

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{Fault, PortError, PortResult};
use roxmltree::{Document, Node};

/// Parses what libvirt returned.
pub(crate) fn parse(text: &str) -> PortResult<Document<'_>> {
    Document::parse(text).map_err(|error| {
        PortError::new(
            Fault::Other,
            format!("libvirt returned XML that is none: {error}"),
        )
    })
}

/// Child elements of that name without a namespace.
pub(crate) fn children<'a, 'd>(
    node: Node<'a, 'd>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children()
        .filter(move |child| child.is_element() && is(*child, name))
}

/// The first child element of that name.
pub(crate) fn child<'a, 'd>(node: Node<'a, 'd>, name: &'static str) -> Option<Node<'a, 'd>> {
    children(node, name).next()
}

/// The element at the end of a path of names.
pub(crate) fn at<'a, 'd>(node: Node<'a, 'd>, path: &[&'static str]) -> Option<Node<'a, 'd>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// The text of an element that has nothing but text. With a comment or an element in between it has none: half of a number
/// is another number.
fn only_text<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let text = node.first_child()?;
    text.next_sibling()
        .is_none()
        .then(|| text.text())?
        .filter(|_| text.is_text())
}

/// The text of the element at the end of a path, trimmed, if there is any.
pub(crate) fn text<'a>(node: Node<'a, '_>, path: &[&'static str]) -> Option<&'a str> {
    only_text(at(node, path)?)
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// Whether an element has that name and no namespace.
pub(crate) fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.tag_name().namespace().is_none() && node.tag_name().name() == name
}

/// An amount of memory with libvirt's `unit` attribute; KiB where there is none.
pub(crate) fn amount(node: Node<'_, '_>) -> Option<Bytes> {
    amount_in(node, "KiB")
}

/// A size of a pool or a volume with libvirt's `unit` attribute; bytes where there is none.
pub(crate) fn size(node: Node<'_, '_>) -> Option<Bytes> {
    amount_in(node, "bytes")
}

fn amount_in(node: Node<'_, '_>, unit: &str) -> Option<Bytes> {
    let number: u64 = only_text(node)?.trim().parse().ok()?;
    let unit: u64 = match node.attribute("unit").unwrap_or(unit) {
        "b" | "bytes" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).map(Bytes)
}

/// A text as it may stand in an attribute in either kind of quotes, or between tags.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' | '\r' => escaped.push_str(&format!("&#{};", c as u32)),
            // XML has no way to write other control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A path with doubled slashes and a slash at the end removed, so that equal ones compare equal.
pub(crate) fn tidy_path(path: &str) -> String {
    let mut tidy = String::with_capacity(path.len());
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        tidy.push('/');
        tidy.push_str(part);
    }
    if tidy.is_empty() {
        tidy.push('/');
    }
    tidy
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn escaping_comes_back() {
        let text = "a<b>&\"c'\n d";
        let xml = format!("<x y='{0}' z=\"{0}\">{0}</x>", escape(text));
        let document = Document::parse(&xml).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("y"), Some(text));
        assert_eq!(root.attribute("z"), Some(text));
        assert_eq!(root.text(), Some(text));
    }

    #[test]
    fn paths() {
        assert_eq!(tidy_path("/a//b/./c/"), "/a/b/c");
        assert_eq!(tidy_path("/"), "/");
    }
}
