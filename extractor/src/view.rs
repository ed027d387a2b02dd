//! Views of an image: the same picture seen a little differently, for a head to be trained on.
//!
//! Must not know about stores, batches or training.
//!
//! # What a view's name means
//!
//! A view is a function of the image's id and its decoded pixels (`W` x `H`, after the EXIF mode)
//! alone: not of the data set, of other views, of threads or of the machine. It comes before the
//! resize. A definition MUST NOT change: another one needs another name.
//!
//! - `identity`: the pixels as they are.
//! - `hflip`: mirrored left to right: pixel (x, y) is the image's (W - 1 - x, y).
//! - `crop-N`, N = 1 to 1000 in decimal digits without leading zeros: a box of the image,
//!   mirrored left to right with probability 1/2. The numbers come from ChaCha8 with the 32 bytes
//!   of the id as the key, the nonce (64 bits) N and the block counter 0, as 32-bit words in
//!   order. `below(b)` is an integer in 0..b: with the next word r, p = r b; if p mod 2^32 < 2^32
//!   mod b, another word is taken; else the integer is floor(p / 2^32) (Lemire 2019). All else is
//!   exact integer arithmetic; `isqrt` is the integer part of the square root:
//!
//!   1. the share of the area, s = 13108 + below(52429), in units of 2^-16: from 20 % to all;
//!   2. the stretch, q = a + below(65537 - a), a = max(49152, s), in units of 2^-16: from 3/4 to 1,
//!      and not so small that the box would not fit;
//!   3. if below(2) is 0, the box is narrow: w = isqrt(W² s q / 2^32), h = isqrt(H² s / q); else it
//!      is wide: w = isqrt(W² s / q), h = isqrt(H² s q / 2^32). The divisions round down; a side
//!      of zero is one;
//!   4. its left edge, below(W - w + 1), then its upper one, below(H - h + 1);
//!   5. it is mirrored if below(2) is 1.
//!
//! This is the random resized crop of C. Szegedy et al., "Going deeper with convolutions", 2015,
//! section 6 (8 % to 100 % of the area, aspect ratio 3/4 to 4/3; torchvision's
//! `RandomResizedCrop`) with two differences. The smallest share is 20 %, as in MoCo (K. He et al.,
//! 2020; `main_moco.py`): backbones here see few pixels and are frozen. And the aspect ratio is relative
//! to the image's own, so that a crop is squeezed into the input about as much as the whole image
//! is; it then always fits, and nothing is drawn twice.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::decode::RgbImage;
use crate::digest::ImageId;

/// Crops of an image at most.
pub const MAX_CROPS: u16 = 1000;

const ONE: u32 = 1 << 16; // 1 in units of 2^-16
const MIN_AREA: u32 = 13_108; // 20 %
const MIN_STRETCH: u32 = 49_152; // 3/4

/// A view of an image; in order, `identity` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// The image as it is.
    Identity,
    /// Mirrored left to right.
    Hflip,
    /// The random resized crop of this number, from 1.
    Crop(u16),
}

/// The rectangle of an image that a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Section {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    mirrored: bool,
}

impl View {
    /// What the view of the image `id` shows.
    pub fn apply<'a>(self, image: &'a RgbImage, id: &ImageId) -> Cow<'a, RgbImage> {
        let whole = Section {
            x: 0,
            y: 0,
            width: image.width,
            height: image.height,
            mirrored: true,
        };
        match self {
            View::Identity => Cow::Borrowed(image),
            View::Hflip => Cow::Owned(cut(image, whole)),
            View::Crop(n) => Cow::Owned(cut(image, section(id, n, image.width, image.height))),
        }
    }
}

fn section(id: &ImageId, n: u16, width: usize, height: usize) -> Section {
    let mut rng = ChaCha8Rng::from_seed(id.0);
    rng.set_stream(n.into());
    let mut below = |bound: u32| below(&mut rng, bound);
    let area = MIN_AREA + below(ONE - MIN_AREA + 1);
    let least = MIN_STRETCH.max(area);
    let stretch = least + below(ONE - least + 1);
    let narrow = below(2) == 0;

    let (area, stretch) = (u128::from(area), u128::from(stretch));
    let shorter = |side: usize| (((side as u128).pow(2) * area * stretch) >> 32).isqrt();
    let longer = |side: usize| ((side as u128).pow(2) * area / stretch).isqrt();
    let (width_of_box, height_of_box) = match narrow {
        true => (shorter(width), longer(height)),
        false => (longer(width), shorter(height)),
    };
    let (w, h) = (width_of_box.max(1) as usize, height_of_box.max(1) as usize);
    let mut edge = |room: usize| {
        let places = u32::try_from(room + 1).expect("an image has fewer than 2^32 columns");
        below(places) as usize
    };
    Section {
        x: edge(width - w),
        y: edge(height - h),
        width: w,
        height: h,
        mirrored: below(2) == 1,
    }
}

/// An integer below `bound`, each with the same probability.
fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    let threshold = bound.wrapping_neg() % bound; // 2^32 mod bound
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(bound);
        if product as u32 >= threshold {
            return (product >> 32) as u32;
        }
    }
}

fn cut(image: &RgbImage, section: Section) -> RgbImage {
    let mut pixels = Vec::with_capacity(section.width * section.height * 3);
    for y in section.y..section.y + section.height {
        let start = (y * image.width + section.x) * 3;
        let row = &image.pixels[start..start + section.width * 3];
        match section.mirrored {
            false => pixels.extend_from_slice(row),
            true => pixels.extend(row.as_chunks::<3>().0.iter().rev().flatten()),
        }
    }
    RgbImage {
        width: section.width,
        height: section.height,
        pixels,
    }
}

impl fmt::Display for View {
    /// The view's name in a store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Identity => f.write_str(crate::store::IDENTITY),
            View::Hflip => f.write_str("hflip"),
            View::Crop(n) => write!(f, "crop-{n}"),
        }
    }
}

/// Not a name that a view has in a store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no view (there are: identity, hflip, crop-1 to crop-{MAX_CROPS})")]
pub struct UnknownView(String);

impl FromStr for View {
    type Err = UnknownView;

    fn from_str(name: &str) -> Result<View, UnknownView> {
        let number = || name.strip_prefix("crop-")?.parse().ok();
        let view = match name {
            crate::store::IDENTITY => View::Identity,
            "hflip" => View::Hflip,
            _ => View::Crop(number().unwrap_or(0)),
        };
        let known = !matches!(view, View::Crop(n) if !(1..=MAX_CROPS).contains(&n));
        match known && view.to_string() == name {
            true => Ok(view),
            false => Err(UnknownView(name.to_owned())),
        }
    }
}

/// Some views, each once, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Views(Vec<View>);

impl Views {
    /// The image as it is, and nothing else.
    pub fn identity() -> Views {
        Views(vec![View::Identity])
    }

    /// These and `identity`.
    pub fn with_identity(self) -> Views {
        self.0.into_iter().chain([View::Identity]).collect()
    }

    /// Whether it is `identity` alone.
    pub fn is_identity(&self) -> bool {
        self.0 == [View::Identity]
    }
}

impl std::ops::Deref for Views {
    type Target = [View];

    fn deref(&self) -> &[View] {
        &self.0
    }
}

impl FromIterator<View> for Views {
    fn from_iter<T: IntoIterator<Item = View>>(views: T) -> Views {
        let views: std::collections::BTreeSet<View> = views.into_iter().collect();
        Views(views.into_iter().collect())
    }
}

impl fmt::Display for Views {
    /// For people: `identity, hflip, crop-1 to crop-8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| match (a, b) {
            (View::Crop(a), View::Crop(b)) => a + 1 == *b,
            _ => false,
        });
        for (i, run) in runs.enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match run {
                [one] => write!(f, "{one}")?,
                [first, .., last] => write!(f, "{first} to {last}")?,
                [] => unreachable!("a run has a view"),
            }
        }
        Ok(())
    }
}

/// The text names no views.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseViewsError {
    /// Nothing of that name.
    #[error("`{0}` is no view (hint: a list such as identity,hflip,crop:4)")]
    Unknown(String),
    /// Too few or too many crops.
    #[error("`{0}` does not say how many crops, 1 to {MAX_CROPS} (hint: crop:4)")]
    Crops(String),
    /// Named twice.
    #[error("`{0}` is there twice")]
    Twice(&'static str),
}

impl FromStr for Views {
    type Err = ParseViewsError;

    /// A flag's list: `identity`, `hflip` and `crop:K`, which stands for `crop-1` to `crop-K`.
    fn from_str(text: &str) -> Result<Views, ParseViewsError> {
        let (mut kinds, mut views) = (Vec::new(), Vec::new());
        for part in text.split(',') {
            let kind = match part.split_once(':') {
                None if part == "identity" => {
                    views.push(View::Identity);
                    "identity"
                }
                None if part == "hflip" => {
                    views.push(View::Hflip);
                    "hflip"
                }
                Some(("crop", count)) => {
                    let digits = count.bytes().all(|b| b.is_ascii_digit());
                    match count.parse() {
                        Ok(count) if digits && (1..=MAX_CROPS).contains(&count) => {
                            views.extend((1..=count).map(View::Crop));
                        }
                        _ => return Err(ParseViewsError::Crops(part.to_owned())),
                    }
                    "crop"
                }
                None if part == "crop" => return Err(ParseViewsError::Crops(part.to_owned())),
                _ => return Err(ParseViewsError::Unknown(part.to_owned())),
            };
            if kinds.contains(&kind) {
                return Err(ParseViewsError::Twice(kind));
            }
            kinds.push(kind);
        }
        Ok(views.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
