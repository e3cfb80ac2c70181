//! Results go to standard output, progress and errors to standard error. A reader that has seen enough
//! (`evenkeel get guests | head`) is no error.

use std::{
    env, fmt,
    io::{self, ErrorKind, IsTerminal as _, Write},
};

/// Writes results.
///
/// # Errors
/// Where standard output can't be written, unless its reader has gone.
pub fn print(text: impl fmt::Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("can't write to standard output"))
        }
        _ => Ok(()),
    }
}

/// Tells people something, one line. Where nobody listens, nothing happens.
pub fn tell(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells people that something is wrong.
pub fn complain(text: impl fmt::Display) {
    tell(format_args!("{} {text}", Paint::Red.on("error:")));
}

/// The few colours there are, on terminals whose users did not say NO_COLOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Something is wrong.
    Red,
}

impl Paint {
    /// The text in this colour, if standard error shows colours.
    #[must_use]
    pub fn on(self, text: &str) -> String {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|term| term == "dumb")
            || !io::stderr().is_terminal();
        let code = match self {
            Self::Red => "31",
        };
        if plain {
            text.to_owned()
        } else {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        }
    }
}

/// Text from a hypervisor or a manifest, harmless on a terminal: control characters are shown, not obeyed.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\n' && c != '\t';
            let (shown, hidden) = if escaped {
                (None, Some(c.escape_default()))
            } else {
                (Some(c), None)
            };
            shown.into_iter().chain(hidden.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            harmless("a\u{1b}[31mb\n\u{202e}é"),
            "a\\u{1b}[31mb\n\u{202e}é"
        );
    }
}
