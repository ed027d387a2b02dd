//! What the library's errors say, in short: they hold a whole answer, at each level again.
//!
//! Must not know which library that is.

use std::error::Error;
use std::fmt;

/// The library's error, which says at each level what all below say, as what lies at the bottom of it.
#[derive(Debug)]
pub(super) struct Cause<E>(pub E);

impl<E: Error + 'static> fmt::Display for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bottom = chain(&self.0).last().expect("an error itself");
        f.write_str(&plain(&bottom.to_string()))
    }
}

impl<E: Error + 'static> Error for Cause<E> {}

/// An error, what caused it, and so on down to the bottom.
pub(super) fn chain(
    error: &(impl Error + 'static),
) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |e| (*e).source())
}

/// An answer in XML as its code and message.
fn plain(text: &str) -> String {
    let within = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>"))
            .map(|(inside, _)| inside)
    };
    let text = match (within("Code"), within("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.to_owned(),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    crate::files::printable(&words.join(" "))
}

/// The HTTP status that an error tells of, which the library says in words alone.
pub(super) fn status(error: &impl Error) -> Option<u16> {
    let text = error.to_string();
    let (_, status) = text.split_once("non-2xx status code: ")?;
    status.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_said_in_short() {
        for (text, short) in [
            (
                "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>There is\nnone\
                 </Message></Error>",
                "NoSuchBucket: There is none",
            ),
            ("x <Code>SlowDown</Code>", "SlowDown"),
            ("connection refused", "connection refused"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(plain(text), short);
        }
    }
}
