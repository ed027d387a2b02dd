//! Views by hand, golden boxes, bounds, names.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

/// 3x2 pixels: the red channel counts, the others tell where.
fn picture() -> RgbImage {
    let pixels = (0..6_u8).flat_map(|i| [i, 100 + i / 3, 200 + i % 3]);
    RgbImage {
        width: 3,
        height: 2,
        pixels: pixels.collect(),
    }
}

fn reds(image: &RgbImage) -> Vec<u8> {
    image.pixels.iter().step_by(3).copied().collect()
}

#[test]
fn hflip_by_hand() {
    let (picture, id) = (picture(), Digest::of(b"picture"));
    assert_eq!(*View::Identity.apply(&picture, &id), picture);
    let mirrored = View::Hflip.apply(&picture, &id);
    assert_eq!(reds(&mirrored), [2, 1, 0, 5, 4, 3]);
    assert_eq!(mirrored.pixels[..3], [2, 100, 202]);
    assert_eq!(*View::Hflip.apply(&mirrored, &id), picture);
}

#[test]
fn a_section_by_hand() {
    let section = Section {
        x: 1,
        y: 0,
        width: 2,
        height: 2,
        mirrored: false,
    };
    assert_eq!(reds(&cut(&picture(), section)), [1, 2, 4, 5]);
    let mirrored = Section {
        mirrored: true,
        y: 1,
        height: 1,
        ..section
    };
    assert_eq!(reds(&cut(&picture(), mirrored)), [5, 4]);
}

/// What the names mean: made by a separate implementation (`scripts/view_boxes.py`) and never to
/// be changed.
#[test]
fn golden_boxes() {
    for (text, n, width, height, expected) in GOLDEN {
        let section = section(&Digest::of(text.as_bytes()), n, width, height);
        let Section {
            x,
            y,
            width,
            height,
            mirrored,
        } = section;
        assert_eq!((x, y, width, height, mirrored), expected, "{text} {n}");
    }
}
type Boxed = (usize, usize, usize, usize, bool);
const GOLDEN: [(&str, u16, usize, usize, Boxed); 10] = [
    ("a", 1, 500, 375, (84, 0, 405, 374, true)),
    ("a", 2, 500, 375, (4, 70, 347, 263, false)),
    ("a", 1000, 500, 375, (10, 20, 389, 279, false)),
    ("b", 1, 500, 375, (71, 1, 403, 369, false)),
    ("b", 1, 375, 500, (54, 2, 302, 493, false)),
    ("b", 7, 1, 1, (0, 0, 1, 1, false)),
    ("c", 3, 100000000, 1, (2846990, 0, 96843059, 1, true)),
    ("c", 4, 2, 3, (0, 1, 1, 2, false)),
    ("d", 5, 10000, 10000, (889, 1721, 8702, 7443, false)),
    ("e", 6, 100, 100, (10, 1, 70, 84, false)),
];

#[test]
fn boxes_are_spread_evenly() {
    let id = Digest::of(b"spread");
    let sections: Vec<Section> = (1..=1000).map(|n| section(&id, n, 500, 375)).collect();
    let share = |test: &dyn Fn(&Section) -> bool| {
        sections.iter().filter(|s| test(s)).count() as f64 / 1000.0
    };
    // Five standard deviations of a binomial(1000, 1/2) are 8 %.
    let near_half = |share: f64| (share - 0.5).abs() < 0.08;
    assert!(near_half(share(&|s| s.mirrored)));
    assert!(near_half(share(&|s| s.width * 375 < s.height * 500)));
    assert!(near_half(share(&|s| 2 * s.x + s.width < 500)));
    assert!(near_half(share(&|s| 2 * s.y + s.height < 375)));
    let areas = sections.iter().map(|s| (s.width * s.height) as f64);
    let mean = areas.sum::<f64>() / 1000.0 / (500.0 * 375.0);
    assert!((mean - 0.6).abs() < 0.04, "{mean}");
}

proptest! {
    #[test]
    fn boxes_lie_in_the_image(bytes: [u8; 32], n in 1..=MAX_CROPS, width in 1_usize..20_000, height in 1_usize..20_000) {
        let (id, area) = (Digest(bytes), (width * height) as f64);
        let section = section(&id, n, width, height);
        prop_assert!(section.x + section.width <= width && section.width > 0);
        prop_assert!(section.y + section.height <= height && section.height > 0);
        // Sides are rounded down.
        let most = ((section.width + 1) * (section.height + 1)) as f64;
        prop_assert!(most >= 0.2 * area, "{section:?} of {width}x{height}");
        let stretch = |side: f64, other: f64| side * height as f64 / (other * width as f64);
        let (w, h) = (section.width as f64, section.height as f64);
        prop_assert!(stretch(w, h + 1.0) < 4.001 / 3.0, "{section:?} of {width}x{height}");
        prop_assert!(stretch(w + 1.0, h) > 2.999 / 4.0, "{section:?} of {width}x{height}");
        prop_assert_eq!(section, super::section(&id, n, width, height));
    }

    #[test]
    fn names_are_read_back(n in 1..=MAX_CROPS) {
        for view in [View::Identity, View::Hflip, View::Crop(n)] {
            prop_assert_eq!(view.to_string().parse(), Ok(view));
        }
    }
}

#[test]
fn the_largest_images_and_the_smallest() {
    let id = Digest::of(b"extremes");
    for (width, height) in [(100_000_000, 1), (1, 100_000_000), (1, 1), (2, 1)] {
        for n in 1..50 {
            let section = section(&id, n, width, height);
            assert!(section.x + section.width <= width && section.width > 0);
            assert!(section.y + section.height <= height && section.height > 0);
        }
    }
}

#[test]
fn lists_are_read() {
    let parse = |text: &str| text.parse::<Views>().map(|v| v.to_string());
    assert_eq!(parse("identity").unwrap(), "identity");
    assert_eq!(
        parse("crop:3,hflip,identity").unwrap(),
        "identity, hflip, crop-1 to crop-3"
    );
    assert_eq!(parse("crop:1").unwrap(), "crop-1");
    let views: Views = "hflip,crop:2".parse().unwrap();
    assert_eq!(
        views.with_identity()[..],
        [View::Identity, View::Hflip, View::Crop(1), View::Crop(2)]
    );
    let some = [View::Crop(9), View::Crop(2), View::Crop(3)];
    assert_eq!(
        Views::from_iter(some).to_string(),
        "crop-2 to crop-3, crop-9"
    );
    for (text, error) in [
        ("", "`` is no view"),
        ("identity,", "`` is no view"),
        ("Identity", "`Identity` is no view"),
        ("vflip", "`vflip` is no view (hint: a list such as"),
        ("hflip:2", "`hflip:2` is no view"),
        ("crop", "`crop` does not say how many crops, 1 to 1000"),
        ("crop:", "`crop:` does not say"),
        ("crop:0", "`crop:0` does not say"),
        ("crop:1001", "`crop:1001` does not say"),
        ("crop:+4", "`crop:+4` does not say"),
        ("crop:4x", "`crop:4x` does not say"),
        ("crop:2,crop:4", "`crop` is there twice"),
        ("hflip,identity,hflip", "`hflip` is there twice"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.starts_with(error), "{text}: {message}");
    }
}

#[test]
fn other_names_are_refused() {
    for name in [
        "",
        "Identity",
        "crop",
        "crop-",
        "crop-0",
        "crop-01",
        "crop-+1",
        "crop-1001",
        "crop-99999999999",
    ] {
        assert!(name.parse::<View>().is_err(), "{name}");
    }
}
