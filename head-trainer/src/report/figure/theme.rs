//! Colours of figures, light and dark: told apart by people with any colour vision, with a contrast
//! of 4.5 or more against the ground, since labels have their curve's colour.

use std::fmt::Write as _;

/// Colours of series; those beyond begin again, with another marker.
pub const SERIES: usize = 8;

const RULES: &str = include_str!("theme.css");

/// A variable, its light and its dark value.
type Color = (&'static str, &'static str, &'static str);

/// Everything that is no series.
const BASE: [Color; 5] = [
    ("ground", "#ffffff", "#14171a"),
    ("ink", "#1c2024", "#e9ecef"),
    ("soft", "#5b636b", "#a4adb6"),
    ("line", "#8b939b", "#737c85"),
    ("faint", "#e4e7ea", "#2b3036"),
];

/// Series, after Okabe and Ito's palette, made darker or lighter until text in them can be read.
const SERIES_COLORS: [(&str, &str); SERIES] = [
    ("#0068a8", "#5db4f0"), // blue
    ("#bf4e00", "#ff9a4d"), // vermillion
    ("#007d5a", "#3cc99a"), // bluish green
    ("#a83f84", "#e58cc4"), // reddish purple
    ("#4b3ba6", "#a79bff"), // indigo
    ("#6f6a00", "#c9c34a"), // olive
    ("#8a2d2d", "#f08a8a"), // wine
    ("#555b61", "#b4bac0"), // grey
];

/// The class that gives an element the colour of series `number`.
pub fn series_class(number: usize) -> String {
    format!("s{}", number % SERIES)
}

/// Declarations of the variables, for `:root` of a page.
pub fn variables(is_dark: bool) -> String {
    let mut css = String::new();
    for (name, light, dark) in BASE {
        let _ = write!(css, "--{name}:{};", if is_dark { dark } else { light });
    }
    for (i, (light, dark)) in SERIES_COLORS.iter().enumerate() {
        let _ = write!(css, "--s{i}:{};", if is_dark { dark } else { light });
    }
    css
}

fn series_rules() -> String {
    (0..SERIES)
        .map(|i| format!(".s{i}{{color:var(--s{i})}}\n"))
        .collect()
}

/// Rules for the figures of a page that declares [`variables`].
pub fn page_css() -> String {
    format!("{RULES}{}", series_rules())
}

/// The rules with colours in place of variables.
fn plain_css(is_dark: bool) -> String {
    let mut css = page_css();
    let color = |light: &str, dark: &str| (if is_dark { dark } else { light }).to_owned();
    for (name, light, dark) in BASE {
        css = css.replace(&format!("var(--{name})"), &color(light, dark));
    }
    for (i, (light, dark)) in SERIES_COLORS.iter().enumerate() {
        css = css.replace(&format!("var(--s{i})"), &color(light, dark));
    }
    css
}

/// Rules for a figure by itself, light on paper and where nothing else is asked for.
pub fn file_css() -> String {
    format!(
        "{}@media screen and (prefers-color-scheme:dark){{\n{}}}\n",
        light_css(),
        plain_css(true)
    )
}

/// Rules for a figure by itself, light.
pub fn light_css() -> String {
    format!(
        ".figure{{font-family:\"DejaVu Sans\",Verdana,sans-serif}}\n{}",
        plain_css(false)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, WCAG 2.2.
    fn luminance(color: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read() {
        let [ground, ink, soft, ..] = BASE;
        assert!((contrast("#ffffff", "#000000") - 21.0).abs() < 1e-9);
        let texts = [ink, soft].map(|(_, light, dark)| (light, dark));
        for (light, dark) in texts.into_iter().chain(SERIES_COLORS) {
            assert!(contrast(light, ground.1) >= 4.5, "{light}");
            assert!(contrast(dark, ground.2) >= 4.5, "{dark}");
        }
    }

    #[test]
    fn files_have_no_variables() {
        let css = file_css();
        assert!(!css.contains("var(") && css.contains("prefers-color-scheme:dark"));
        assert!(!light_css().contains("@media"));
        for name in ["ground", "ink", "s7"] {
            assert!(page_css().contains(&format!("var(--{name})")));
            assert!(variables(true).contains(&format!("--{name}:#")));
        }
    }
}
