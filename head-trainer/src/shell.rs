//! Commands as lines for a shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// Words as a line that a POSIX shell reads as the same words, and a terminal shows as it is.
pub(crate) fn shell_line(words: &[OsString]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    quoted.join(" ")
}

/// A word as a POSIX shell reads it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./,:=+@%".contains(b);
    match word.to_str() {
        Some(text) if !bytes.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Some(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            // Bytes that a terminal should not see. A newline at the very end is lost.
            let is_safe = |b: &u8| b.is_ascii_alphanumeric() || b"/._".contains(b);
            let escape = |b: &u8| match is_safe(b) {
                true => char::from(*b).to_string(),
                false => format!("\\{b:03o}"),
            };
            let escaped: String = bytes.iter().map(escape).collect();
            format!("\"$(printf '{escaped}')\"")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_the_same_words() {
        let words: [&[u8]; 9] = [
            b"plain-1.5e-6,x=y",
            b"",
            b"two words",
            b"it's $HOME `x` \"y\" \\z",
            "gr\u{fc}n".as_bytes(),
            b"\xff100%\x1b[31m",
            b"line\nbreak",
            b"-dash\x01",
            b"*",
        ];
        let words = words.map(|word| OsStr::from_bytes(word).to_owned());
        let line = shell_line(&words);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let script = format!("printf '%s\\0' {line}");
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let read: Vec<&[u8]> = output.stdout.split(|b| *b == 0).collect();
        let expected: Vec<&[u8]> = words
            .iter()
            .map(|w| w.as_bytes())
            .chain([&[][..]])
            .collect();
        assert_eq!(read, expected);
    }
}
