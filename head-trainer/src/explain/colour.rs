//! Colours for the values of a class-activation map.
//!
//! Two classes have a diverging scale around zero: blue ([`FIRST`]) where the picture speaks for
//! the first class, orange ([`SECOND`]) where it speaks for the second, whichever class the map is
//! of, and nothing where it speaks for neither. The two are told apart by people who cannot tell
//! red from green, and about as dark.
//!
//! More classes have a sequential one, from the least value of the map to the greatest: viridis (S.
//! van der Walt and N. Smith for matplotlib, 2015, CC0), nine of its colours with straight lines
//! between. A map of one of them has no zero that means anything, as the softmax stays what it is
//! when the same is added to the logits of all classes.
//!
//! Must not know of pictures.

use super::cam::ClassMap;

/// The colour of the first of two classes: blue.
pub const FIRST: [u8; 3] = [33, 102, 172];
/// The colour of the second of two classes: orange.
pub const SECOND: [u8; 3] = [230, 97, 1];

/// Share of the colour over a picture, at the ends of a diverging scale; less towards zero.
const DIVERGING: f32 = 0.65;
/// Share of the colour over a picture, all along a sequential scale.
const SEQUENTIAL: f32 = 0.5;

const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 45, 123],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [40, 174, 128],
    [94, 201, 98],
    [173, 220, 48],
    [253, 231, 37],
];

/// A colour, and the share of it where it lies over a picture (the rest is the picture's).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tint {
    /// Red, green and blue, 0 to 255.
    pub rgb: [f32; 3],
    /// Share over a picture, 0 to 1.
    pub over_picture: f32,
    /// Share over a plain ground, 0 to 1.
    pub over_plain: f32,
}

/// What colour a value has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Two classes: from minus `limit` to `limit`.
    Diverging {
        /// The greatest absolute value.
        limit: f32,
        /// Whether positive values speak for the second class.
        for_second: bool,
    },
    /// More classes.
    Sequential {
        /// The least value.
        low: f32,
        /// The greatest value.
        high: f32,
    },
}

impl Scale {
    /// The scale that the logits of a map ([`ClassMap::logits_hw`]) fill.
    pub fn of(map: &ClassMap) -> Scale {
        let values = map.logits_hw();
        let most = |start, pick: fn(f32, f32) -> f32| values.iter().copied().fold(start, pick);
        match map.classes {
            2 => Scale::Diverging {
                limit: most(0.0, |limit, value| limit.max(value.abs())),
                for_second: map.class == 1,
            },
            _ => Scale::Sequential {
                low: most(f32::INFINITY, f32::min),
                high: most(f32::NEG_INFINITY, f32::max),
            },
        }
    }

    /// The values that it begins and ends with.
    pub fn ends(&self) -> [f32; 2] {
        match *self {
            Scale::Diverging { limit, .. } => [-limit, limit],
            Scale::Sequential { low, high } => [low, high],
        }
    }

    /// The colour of a value. One beyond an end has the end's; a scale of no width has one colour.
    pub fn tint(&self, value: f32) -> Tint {
        let share = |part: f32, whole: f32| match whole > 0.0 {
            true => (part / whole).clamp(0.0, 1.0),
            false => 0.0,
        };
        match *self {
            Scale::Diverging { limit, for_second } => {
                let strength = share(value.abs(), limit);
                let second = (value > 0.0) == for_second;
                Tint {
                    rgb: if second { SECOND } else { FIRST }.map(f32::from),
                    over_picture: DIVERGING * strength,
                    over_plain: strength,
                }
            }
            Scale::Sequential { low, high } => Tint {
                rgb: viridis(share(value - low, high - low)),
                over_picture: SEQUENTIAL,
                over_plain: 1.0,
            },
        }
    }
}

/// Viridis at `at`, 0 to 1.
fn viridis(at: f32) -> [f32; 3] {
    let last = VIRIDIS.len() - 1;
    let at = at * last as f32;
    let below = (at as usize).min(last - 1);
    let weight = at - below as f32;
    let [low, high] = [VIRIDIS[below], VIRIDIS[below + 1]].map(|rgb| rgb.map(f32::from));
    std::array::from_fn(|c| low[c] + (high[c] - low[c]) * weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance of sRGB (IEC 61966-2-1), 0 to 1.
    fn luminance(rgb: [f32; 3]) -> f32 {
        let linear = rgb.map(|value| match value / 255.0 {
            x if x <= 0.04045 => x / 12.92,
            x => ((x + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }

    fn over(tint: Tint, ground: f32) -> [f32; 3] {
        tint.rgb
            .map(|value| ground + (value - ground) * tint.over_plain)
    }

    #[test]
    fn sequential_colours_grow_lighter_all_along() {
        let scale = Scale::Sequential {
            low: -1.0,
            high: 3.0,
        };
        let steps: Vec<f32> = (0..=400).map(|i| -1.0 + i as f32 / 100.0).collect();
        let lights: Vec<f32> = steps
            .iter()
            .map(|v| luminance(scale.tint(*v).rgb))
            .collect();
        assert!(lights.is_sorted_by(|a, b| a < b), "{lights:?}");
        assert_eq!(scale.tint(-9.0), scale.tint(-1.0));
        assert_eq!(scale.tint(9.0), scale.tint(3.0));
        assert_eq!(scale.tint(-1.0).rgb, VIRIDIS[0].map(f32::from));
        assert_eq!(scale.tint(3.0).rgb, VIRIDIS[8].map(f32::from));
    }

    #[test]
    fn diverging_colours_grow_darker_from_the_middle_to_both_ends() {
        for for_second in [true, false] {
            let scale = Scale::Diverging {
                limit: 2.0,
                for_second,
            };
            for sign in [1.0, -1.0] {
                let at = |i| scale.tint(sign * i as f32 / 100.0);
                let lights: Vec<f32> = (0..=200).map(|i| luminance(over(at(i), 245.0))).collect();
                assert!(lights.is_sorted_by(|a, b| a > b), "{lights:?}");
                let alphas: Vec<f32> = (0..=200).map(|i| at(i).over_picture).collect();
                assert!(alphas.is_sorted_by(|a, b| a < b) && alphas[0] == 0.0);
                let second = (sign > 0.0) == for_second;
                let expected = if second { SECOND } else { FIRST };
                assert_eq!(at(200).rgb, expected.map(f32::from));
            }
        }
    }

    #[test]
    fn a_map_fills_its_scale() {
        let map = |classes, class, values: [f32; 2]| ClassMap {
            class,
            classes,
            height: 1,
            width: 2,
            values_hw: values.to_vec(),
            bias: 1.0,
        };
        let scale = Scale::of(&map(2, 0, [-4.0, 1.0]));
        assert_eq!(scale.ends(), [-3.0, 3.0]);
        assert_eq!(scale.tint(-3.0).rgb, SECOND.map(f32::from));
        assert_eq!(Scale::of(&map(3, 0, [-4.0, 1.0])).ends(), [-3.0, 2.0]);
        // All alike: a colour, and no number that is none.
        for classes in [2, 3] {
            let flat = Scale::of(&map(classes, 0, [-1.0, -1.0]));
            let tint = flat.tint(0.0);
            assert!(tint.rgb.iter().all(|v| v.is_finite()) && tint.over_picture.is_finite());
        }
    }
}
