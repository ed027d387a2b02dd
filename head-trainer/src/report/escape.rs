//! Text of others (names of classes, paths) inside HTML and SVG.
//!
//! One function for both and for attributes as well as content, so that no place can take the
//! wrong one.

/// `text` for HTML or XML, as content or between quotes of either kind. What XML cannot hold and
/// what would turn the direction of the text around it is written out (`\u{202e}`).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() || turns_text(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.extend(c.escape_unicode());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The characters of Unicode's bidirectional algorithm that reach beyond themselves.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` in `most` characters, its middle left out if need be.
pub fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let head = most.saturating_sub(1).div_ceil(2);
    let tail = most.saturating_sub(1) - head;
    let first = text.chars().take(head);
    let last = text.chars().skip(count - tail);
    first.chain(['…']).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text() {
        let name = "<script>alert('\"&')</script>";
        let expected = "&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(escape(name), expected);
        assert_eq!(escape("קוט 猫 é"), "קוט 猫 é");
        assert_eq!(escape("a\nb\0\u{202e}c"), "a\\u{a}b\\u{0}\\u{202e}c");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("abcdefgh", 8), "abcdefgh");
        assert_eq!(shortened("abcdefghi", 8), "abcd…ghi");
        assert_eq!(shortened("äöüäöü", 3), "ä…ü");
        assert_eq!(shortened("abc", 1), "…");
    }
}
