//! Finds a file's address on a package index's page, in either of its two forms.
//!
//! The page's own hashes and sizes are ignored, since the pinned ones decide. It makes no
//! request.

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

/// What to ask an index for: its JSON form, else its HTML form.
pub(super) const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, \
     application/vnd.pypi.simple.v1+html; q=0.2, text/html; q=0.1";

/// The address of a project's page on an index.
pub(super) fn project_page(index: &Url, project: &str) -> Url {
    let mut url = index.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(project).push("");
    }
    url
}

/// The address of the file named `wheel` on the page at `base`, if it is listed.
pub(super) fn find_link(
    page: &str,
    media_type: Option<&str>,
    base: &Url,
    wheel: &str,
) -> Result<Option<Url>, serde_json::Error> {
    let is_json = match media_type {
        Some(media_type) if media_type.ends_with("json") => true,
        Some(media_type) if media_type.ends_with("html") => false,
        _ => page.trim_start().starts_with('{'),
    };
    if is_json {
        find_in_json(page, base, wheel)
    } else {
        Ok(find_in_html(page, base, wheel))
    }
}

#[derive(Deserialize)]
struct Page {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    url: String,
}

fn find_in_json(page: &str, base: &Url, wheel: &str) -> Result<Option<Url>, serde_json::Error> {
    let page: Page = serde_json::from_str(page)?;
    let mut files = page.files.into_iter();
    let found = files.find(|entry| entry.filename == wheel);
    Ok(found.and_then(|entry| base.join(&entry.url).ok()))
}

/// Looks at every `<a href>`; the last segment of its path is the file's name.
fn find_in_html(page: &str, base: &Url, wheel: &str) -> Option<Url> {
    let mut base = base.clone();
    for (tag, href) in tags(page) {
        let Ok(url) = base.join(href.trim()) else {
            continue;
        };
        if tag.eq_ignore_ascii_case("base") {
            base = url;
        } else if tag.eq_ignore_ascii_case("a") {
            let name = url.path().rsplit('/').next().unwrap_or_default();
            if percent_decode_str(name).decode_utf8_lossy() == wheel {
                return Some(url);
            }
        }
    }
    None
}

/// Every opening tag that has an `href`, with that attribute's value.
fn tags(page: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = page;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('<')? + 1..];
            if let Some(comment) = rest.strip_prefix("!--") {
                rest = &comment[comment.find("-->")? + 3..];
                continue;
            }
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
            let (tag, attributes) = rest.split_at(end.unwrap_or(rest.len()));
            let (href, after) = href(attributes);
            rest = after;
            if let Some(href) = href {
                return Some((tag, href));
            }
        }
    })
}

/// The `href` among a tag's attributes, and what follows the tag.
fn href(attributes: &str) -> (Option<String>, &str) {
    let mut rest = attributes;
    let mut href = None;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/' | '<'));
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.trim_start();
        if let Some(value) = rest.strip_prefix('=') {
            let value = value.trim_start();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (value, after) = match quote {
                Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
                None => {
                    let end = value.find(|c: char| c.is_whitespace() || c == '>');
                    value.split_at(end.unwrap_or(value.len()))
                }
            };
            if href.is_none() && name.eq_ignore_ascii_case("href") {
                href = Some(unescape(value));
            }
            rest = after;
        } else if name.is_empty() {
            // The end of the tag or of the page, or a tag that begins before this one ends.
            return (href, rest.strip_prefix('>').unwrap_or(rest));
        }
    }
}

/// Resolves the character references that occur in addresses.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let decoded = rest.find(';').and_then(|end| {
            let character = match &rest[1..end] {
                "amp" => '&',
                "quot" => '"',
                "apos" => '\'',
                "lt" => '<',
                "gt" => '>',
                reference => {
                    let number = reference.strip_prefix('#')?;
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)?
                }
            };
            Some((character, end + 1))
        });
        let (character, length) = decoded.unwrap_or(('&', 1));
        out.push(character);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHEEL: &str = "ort-1.0-cp311-cp311-linux.whl";

    fn base() -> Url {
        Url::parse("https://i.example/simple/ort/").unwrap()
    }

    fn html(page: &str) -> Option<String> {
        find_link(page, Some("text/html"), &base(), WHEEL)
            .unwrap()
            .map(String::from)
    }

    #[test]
    fn the_projects_page_keeps_what_the_index_has() {
        for index in ["https://u:p@h/a/simple", "https://u:p@h/a/simple/"] {
            let page = project_page(&Url::parse(index).unwrap(), "ort");
            assert_eq!(page.as_str(), "https://u:p@h/a/simple/ort/");
        }
    }

    #[test]
    fn json_names_the_file() {
        let page = format!(
            r#"{{"meta":{{}},"files":[{{"filename":"x","url":"x"}},
                {{"filename":"{WHEEL}","url":"../../f/{WHEEL}","hashes":{{"sha256":"00"}}}}]}}"#
        );
        let expected = format!("https://i.example/f/{WHEEL}");
        for media_type in [Some("application/vnd.pypi.simple.v1+json"), None] {
            let found = find_link(&page, media_type, &base(), WHEEL).unwrap();
            assert_eq!(found.unwrap().as_str(), expected);
        }
        assert!(find_link("{}", None, &base(), WHEEL).is_err());
        let empty = r#"{"files":[]}"#;
        assert_eq!(find_link(empty, None, &base(), WHEEL).unwrap(), None);
    }

    #[test]
    fn html_in_all_its_forms() {
        let relative = format!("https://i.example/f/{WHEEL}#sha256=00");
        for page in [
            format!("<a href=\"../../f/{WHEEL}#sha256=00\">{WHEEL}</a>"),
            format!("<A data-x='>' HREF = '/f/{WHEEL}#sha256=00' rel=internal>text</A>"),
            format!("<a\n  href=/f/{WHEEL}#sha256=00>x"),
            format!("<!-- <a href=\"wrong/{WHEEL}\"> --><a href=\"/f/{WHEEL}#sha256=00\"/>"),
            format!("<br/><a><a name=x><a disabled href='/f/{WHEEL}#sha256=00'>"),
            format!("<p <a href='/f/{WHEEL}#sha256=00'>"),
            format!("<base href='/f/'><a href='{WHEEL}#sha256=00'>x</a>"),
        ] {
            assert_eq!(html(&page).as_deref(), Some(relative.as_str()), "{page}");
        }
    }

    #[test]
    fn names_are_decoded_before_they_are_compared() {
        let escaped = WHEEL.replace('-', "%2D");
        let page = format!("<a href='https://f.example/{escaped}?a=1&amp;b=&#50;&x'>");
        let expected = format!("https://f.example/{escaped}?a=1&b=2&x");
        assert_eq!(html(&page), Some(expected));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for page in [
            String::new(),
            "<".to_owned(),
            "<a href=".to_owned(),
            "<a href='".to_owned(),
            "<!-- never closed".to_owned(),
            format!("<a href='/f/{WHEEL}.metadata'>{WHEEL}</a>"),
            format!("<link href='/f/{WHEEL}'>"),
            format!("<a title='href=/f/{WHEEL}'>{WHEEL}"),
            WHEEL.to_owned(),
        ] {
            assert_eq!(html(&page), None, "{page}");
        }
    }
}
