//! The class-activation map of one row of a store: where in the picture a head finds what it goes
//! by.
//!
//! B. Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, equation 2:
//! a head after global average pooling is linear in the feature map, so its logit is the mean over
//! the map's positions of
//!
//! ```text
//! map[y, x] = Σ weights[c] * features[y, x, c]
//! ```
//!
//! plus the bias. No gradient and no backbone are needed, only the cached features. A standardisation
//! is in the head's weights and bias already. Must not know of images, files or colours.

use extractor::backbone::MapShape;
use extractor::store::Features;

use crate::head::Linear;

/// The class-activation map of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMap {
    /// Number of the class.
    pub class: u32,
    /// Number of classes, K.
    pub classes: usize,
    /// Rows, h.
    pub height: usize,
    /// Columns, w.
    pub width: usize,
    /// `[h, w]`, flat, without the bias.
    pub values_hw: Vec<f32>,
    /// The class's bias.
    pub bias: f32,
}

impl ClassMap {
    /// The map of class `class` for the feature map `[h, w, C]`.
    ///
    /// Of a head of one output, the class 1 has its weights and bias, and class 0 those with the
    /// other sign: its logit is minus the other's. Sums are in f64, so that the map is more exact
    /// than the head's own logit.
    ///
    /// # Panics
    /// When the features are not of `shape`, the head has another number of channels, or there is
    /// no such class.
    pub fn of(head: &Linear, class: u32, features_hwc: Features<'_>, shape: MapShape) -> ClassMap {
        let MapShape {
            height,
            width,
            channels,
        } = shape;
        assert_eq!(head.channels(), channels, "head and features must agree");
        let outputs = head.outputs();
        let (output, sign) = match outputs {
            1 => (0, if class == 1 { 1.0 } else { -1.0 }),
            _ => (class as usize, 1.0),
        };
        let classes = outputs.max(2);
        assert!((class as usize) < classes, "a class of the head");
        let (weights_c, bias) = head.units().nth(output).expect("an output a class");
        let values_hw: Vec<f32> = match features_hwc {
            Features::F32(map) => sums(weights_c, map, |value| f64::from(*value)),
            Features::F16(map) => sums(weights_c, map, |value| value.to_f64()),
            Features::U8(map) => sums(weights_c, map, |value| f64::from(*value)),
        };
        assert_eq!(values_hw.len(), height * width, "a whole map");
        ClassMap {
            class,
            classes,
            height,
            width,
            values_hw: values_hw.into_iter().map(|value| sign * value).collect(),
            bias: sign * bias,
        }
    }

    /// Mean over all positions.
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.values_hw.iter().map(|value| f64::from(*value)).sum();
        sum / self.values_hw.len() as f64
    }

    /// The class's raw logit: the mean plus the bias. The head's own, from the pooled features, is
    /// the same but for the rounding of f32.
    pub fn logit(&self) -> f64 {
        self.mean() + f64::from(self.bias)
    }

    /// The logit that the head would give if all the picture were like one position, `[h, w]`,
    /// flat: the map plus the bias. Their mean is the logit.
    pub fn logits_hw(&self) -> Vec<f32> {
        let values = self.values_hw.iter();
        values.map(|value| value + self.bias).collect()
    }
}

/// The weighted sum over the channels of each position.
fn sums<T>(weights_c: &[f32], map_hwc: &[T], widen: impl Fn(&T) -> f64) -> Vec<f32> {
    let positions = map_hwc.chunks_exact(weights_c.len());
    let sum = |position_c: &[T]| -> f32 {
        let products = weights_c.iter().zip(position_c);
        products.map(|(w, x)| f64::from(*w) * widen(x)).sum::<f64>() as f32
    };
    positions.map(sum).collect()
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::pooled::average;

    const SHAPE: MapShape = MapShape {
        height: 2,
        width: 2,
        channels: 3,
    };

    /// (0, 0), (0, 1), (1, 0), (1, 1), three channels each.
    const FEATURES_HWC: [f32; 12] = [1.0, 0.0, 2.0, 0.0, 3.0, 0.5, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0];

    #[test]
    fn a_map_by_hand() {
        let head = Linear::binary(vec![2.0, -1.0, 4.0], 0.25);
        let features = Features::F32(&FEATURES_HWC);
        let map = ClassMap::of(&head, 1, features, SHAPE);
        assert_eq!(map.values_hw, [10.0, -1.0, 10.0, 0.0]);
        assert_eq!((map.mean(), map.logit(), map.bias), (4.75, 5.0, 0.25));
        assert_eq!(map.logits_hw(), [10.25, -0.75, 10.25, 0.25]);
        let other = ClassMap::of(&head, 0, features, SHAPE);
        assert_eq!(other.values_hw, [-10.0, 1.0, -10.0, 0.0]);
        assert_eq!((other.logit(), other.bias), (-5.0, -0.25));
        let halves = FEATURES_HWC.map(f16::from_f32);
        assert_eq!(ClassMap::of(&head, 1, Features::F16(&halves), SHAPE), map);
    }

    #[test]
    fn each_of_three_classes_has_its_own() {
        let head = Linear {
            weights_oc: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            bias_o: vec![0.0, 1.0, 2.0],
        };
        let map = |class| ClassMap::of(&head, class, Features::F32(&FEATURES_HWC), SHAPE);
        assert_eq!(map(0).values_hw, [1.0, 0.0, 2.0, 0.0]);
        assert_eq!(map(1).values_hw, [0.0, 3.0, 2.0, 0.0]);
        assert_eq!(map(2).values_hw, [2.0, 0.5, 2.0, 0.0]);
        assert_eq!([0, 1, 2].map(|k| map(k).logit()), [0.75, 2.25, 3.125]);
    }

    /// Shape, classes, features [h, w, C], weights [O, C] and biases [O].
    fn any_head() -> impl Strategy<Value = (MapShape, usize, Vec<f32>, Vec<f32>, Vec<f32>)> {
        (1..6_usize, 1..6_usize, 1..40_usize, 2..5_usize).prop_flat_map(|(h, w, c, k)| {
            let shape = MapShape {
                height: h,
                width: w,
                channels: c,
            };
            let outputs = crate::head::outputs_for(k);
            (
                Just(shape),
                Just(k),
                proptest::collection::vec(0.0..2.0_f32, h * w * c),
                proptest::collection::vec(-1.0..1.0_f32, outputs * c),
                proptest::collection::vec(-1.0..1.0_f32, outputs),
            )
        })
    }

    proptest! {
        #[test]
        fn the_mean_plus_the_bias_is_the_logit((shape, k, features, weights_oc, bias_o) in any_head()) {
            let head = Linear { weights_oc, bias_o };
            let halves: Vec<f16> = features.iter().map(|x| f16::from_f32(*x)).collect();
            for features_hwc in [Features::F32(&features), Features::F16(&halves)] {
                let mut pooled_c = vec![0.0; shape.channels];
                average(features_hwc, &mut pooled_c);
                let mut logits_o = vec![0.0; head.outputs()];
                head.logits_of(&pooled_c, &mut logits_o);
                for class in 0..k as u32 {
                    let logit = f64::from(match (logits_o.as_slice(), class) {
                        ([logit], 1) => *logit,
                        ([logit], _) => -logit,
                        (logits, class) => logits[class as usize],
                    });
                    let map = ClassMap::of(&head, class, features_hwc, shape);
                    let tolerance = 1e-5 * logit.abs().max(1.0);
                    prop_assert!((map.logit() - logit).abs() <= tolerance, "{} {logit}", map.logit());
                    let at: Vec<f64> = map.logits_hw().into_iter().map(f64::from).collect();
                    let mean = at.iter().sum::<f64>() / at.len() as f64;
                    prop_assert!((mean - logit).abs() <= tolerance, "{mean} {logit}");
                }
            }
        }
    }
}
