//! Which labels are probably wrong, by confident learning: C. Northcutt, L. Jiang, I. Chuang,
//! "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021.
//!
//! What a head says of an image that it never saw is compared with what it says of the other
//! images of each class. The threshold of a class is the mean probability that its own images have
//! of it. An image counts in the confident joint as given i, suggested j, where j is the most
//! probable of the classes whose threshold it reaches; what is off the diagonal is probably
//! mislabelled. With its rows scaled to the classes' sizes, that matrix estimates how many labels
//! of each kind are wrong. Which ones they are is said by the margin, in the joint or not.
//! This file knows numbers of images and probabilities only.

use serde::Serialize;

/// Held-out probabilities and the labels that were given.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Numbers of the images that are judged.
    pub images: &'a [u32],
    /// Probabilities of all images, `[N, K]`, by heads that did not see them.
    pub probabilities_nk: &'a [f32],
    /// Labels of all images, `[N]`.
    pub labels_n: &'a [u32],
    /// Number of classes, K.
    pub classes: usize,
}

/// What an image's label is suspected of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// Number of the image.
    pub image: u32,
    /// The class that it has.
    pub given: u32,
    /// The class that it has in the confident joint, if that is another one, and else the most
    /// probable other class.
    pub suggested: u32,
    /// Probability of the given class.
    pub given_probability: f32,
    /// Probability of the suggested class.
    pub suggested_probability: f32,
    /// The margin: the probability of the given class less that of the most probable other one;
    /// -1 is the surest error, 1 the surest label.
    pub score: f32,
    /// Whether it is off the diagonal of the confident joint.
    pub confident: bool,
}

impl Suspect {
    /// Whether anything speaks against the label: the confident joint, or a class more probable.
    pub fn is_doubtful(&self) -> bool {
        self.confident || self.score < 0.0
    }
}

/// The labels' audit.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelErrors {
    /// Mean probability that a class's images have of it, `[K]`; none without images.
    pub thresholds_k: Vec<Option<f64>>,
    /// Images by given (row) and confidently suggested (column) class, `[K, K]`.
    pub confident_joint_kk: Vec<u64>,
    /// The same scaled to the classes' sizes: how many images of each given class (row) are of
    /// each class (column), `[K, K]`.
    pub estimated_kk: Vec<f64>,
    /// All judged images, the most doubtful label first; of equal ones the lower number.
    pub ranked: Vec<Suspect>,
}

impl LabelErrors {
    /// Audits the labels of the judged images.
    ///
    /// # Panics
    /// When an image or a label is out of range, or there are fewer than two classes.
    pub fn find(judged: Judged<'_>) -> LabelErrors {
        let classes = judged.classes;
        assert!(classes >= 2, "two classes or more");
        let images_k = judged.count();
        let thresholds_k = judged.thresholds(&images_k);
        let mut confident_joint_kk = vec![0; classes * classes];
        let mut ranked: Vec<Suspect> = Vec::with_capacity(judged.images.len());
        for &image in judged.images {
            let confident = judged.confident_class(image, &thresholds_k);
            let given = judged.label(image);
            if let Some(class) = confident {
                confident_joint_kk[given as usize * classes + class as usize] += 1;
            }
            ranked.push(judged.suspect(image, confident.filter(|class| *class != given)));
        }
        ranked.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.image.cmp(&b.image)));
        LabelErrors {
            estimated_kk: estimated(&confident_joint_kk, &images_k),
            thresholds_k,
            confident_joint_kk,
            ranked,
        }
    }

    /// How many labels are wrong, by the confident joint.
    pub fn estimated_errors(&self) -> f64 {
        let classes = self.thresholds_k.len();
        let off_diagonal = |(at, _): &(usize, &f64)| at / classes != at % classes;
        let cells = self.estimated_kk.iter().enumerate().filter(off_diagonal);
        cells.map(|(_, images)| images).sum()
    }

    /// The images that something speaks against, the most doubtful first.
    pub fn doubtful(&self) -> impl Iterator<Item = &Suspect> {
        self.ranked.iter().filter(|suspect| suspect.is_doubtful())
    }
}

impl Judged<'_> {
    fn label(&self, image: u32) -> u32 {
        self.labels_n[image as usize]
    }

    /// Probabilities of an image, `[K]`.
    fn probabilities(&self, image: u32) -> &[f32] {
        let start = image as usize * self.classes;
        &self.probabilities_nk[start..start + self.classes]
    }

    /// Judged images of each class, `[K]`.
    fn count(&self) -> Vec<u64> {
        let mut images_k = vec![0; self.classes];
        for &image in self.images {
            images_k[self.label(image) as usize] += 1;
        }
        images_k
    }

    /// Mean probability of its class over the images of each class, `[K]`.
    fn thresholds(&self, images_k: &[u64]) -> Vec<Option<f64>> {
        let mut sums_k = vec![0.0; self.classes];
        for &image in self.images {
            let given = self.label(image) as usize;
            sums_k[given] += f64::from(self.probabilities(image)[given]);
        }
        let mean = |(sum, count): (f64, &u64)| (*count > 0).then(|| sum / *count as f64);
        sums_k.into_iter().zip(images_k).map(mean).collect()
    }

    /// The most probable of the classes whose threshold the image reaches, the first of equals.
    fn confident_class(&self, image: u32, thresholds_k: &[Option<f64>]) -> Option<u32> {
        let probabilities_k = self.probabilities(image).iter().zip(thresholds_k);
        let mut best: Option<(u32, f32)> = None;
        for (class, (&probability, threshold)) in probabilities_k.enumerate() {
            let reached = threshold.is_some_and(|t| f64::from(probability) >= t);
            if reached && best.is_none_or(|(_, most)| probability > most) {
                best = Some((class as u32, probability));
            }
        }
        best.map(|(class, _)| class)
    }

    /// `confident`: the other class that the image has in the confident joint.
    fn suspect(&self, image: u32, confident: Option<u32>) -> Suspect {
        let (given, probabilities_k) = (self.label(image), self.probabilities(image));
        let mut others = (0..self.classes as u32).filter(|class| *class != given);
        let first = others.next().expect("two classes or more");
        let likelier = |best: u32, class: u32| {
            let more = probabilities_k[class as usize] > probabilities_k[best as usize];
            if more { class } else { best }
        };
        let other = others.fold(first, likelier);
        let suggested = confident.unwrap_or(other);
        let given_probability = probabilities_k[given as usize];
        Suspect {
            image,
            given,
            suggested,
            given_probability,
            suggested_probability: probabilities_k[suggested as usize],
            score: given_probability - probabilities_k[other as usize],
            confident: confident.is_some(),
        }
    }
}

/// The confident joint with its rows scaled to the classes' sizes. A class of which no image is
/// confidently anything is taken to be right.
fn estimated(confident_joint_kk: &[u64], images_k: &[u64]) -> Vec<f64> {
    let classes = images_k.len();
    let mut estimated_kk = vec![0.0; classes * classes];
    for (given, &images) in images_k.iter().enumerate() {
        let row = given * classes..(given + 1) * classes;
        let counts = &confident_joint_kk[row.clone()];
        let sum: u64 = counts.iter().sum();
        let to = &mut estimated_kk[row];
        if sum == 0 {
            to[given] = images as f64;
            continue;
        }
        for (to, &count) in to.iter_mut().zip(counts) {
            *to = count as f64 / sum as f64 * images as f64;
        }
    }
    estimated_kk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(probabilities_nk: &[f32], labels_n: &[u32], classes: usize) -> LabelErrors {
        let images: Vec<u32> = (0..labels_n.len() as u32).collect();
        LabelErrors::find(Judged {
            images: &images,
            probabilities_nk,
            labels_n,
            classes,
        })
    }

    fn order(found: &LabelErrors) -> Vec<u32> {
        found.ranked.iter().map(|s| s.image).collect()
    }

    /// Probabilities are multiples of 1/8, so that every sum is exact.
    #[test]
    fn two_classes_by_hand() {
        #[rustfmt::skip]
        let probabilities = [
            0.875, 0.125, // 0: of class 0, sure
            0.75, 0.25,   // 1: of class 0
            0.125, 0.875, // 2: of class 0, says 1
            0.625, 0.375, // 3: of class 0, reaches the threshold of 0 (not of 1)
            0.25, 0.75,   // 4: of class 1
            0.5, 0.5,     // 5: of class 1, undecided, reaches neither
            0.75, 0.25,   // 6: of class 1, says 0
            0.0, 1.0,     // 7: of class 1, sure
        ];
        let found = find(&probabilities, &[0, 0, 0, 0, 1, 1, 1, 1], 2);
        // (7 + 6 + 1 + 5) / 8 / 4 and (6 + 4 + 2 + 8) / 8 / 4.
        assert_eq!(found.thresholds_k, [Some(0.59375), Some(0.625)]);
        // Given 0: 0, 1, 3 say 0 and 2 says 1. Given 1: 4, 7 say 1 and 6 says 0; 5 says nothing.
        assert_eq!(found.confident_joint_kk, [3, 1, 1, 2]);
        let expected = [3.0, 1.0, 4.0 / 3.0, 8.0 / 3.0];
        for (found, expected) in found.estimated_kk.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert!((found.estimated_errors() - 7.0 / 3.0).abs() < 1e-12);
        // Margins: -0.75 (2), -0.5 (6), 0 (5), 0.25 (3), 0.5 (1, 4), 0.75 (0), 1 (7).
        assert_eq!(order(&found), [2, 6, 5, 3, 1, 4, 0, 7]);
        let doubtful: Vec<u32> = found.doubtful().map(|s| s.image).collect();
        assert_eq!(doubtful, [2, 6]);
        let first = Suspect {
            image: 2,
            given: 0,
            suggested: 1,
            given_probability: 0.125,
            suggested_probability: 0.875,
            score: -0.75,
            confident: true,
        };
        assert_eq!(found.ranked[0], first);
    }

    /// A class that heads are never sure of has a low threshold; reaching it counts, although the
    /// given class is more probable.
    #[test]
    fn a_weak_class_is_suggested_by_its_own_standard() {
        #[rustfmt::skip]
        let probabilities = [
            1.0, 0.0,     // 0: of class 0
            0.625, 0.375, // 1: of class 0, as much of class 1 as those of class 1 are
            0.75, 0.25,   // 2: of class 1, less of class 0 than those of class 0 are
            0.5, 0.5,     // 3: of class 1
        ];
        let found = find(&probabilities, &[0, 0, 1, 1], 2);
        assert_eq!(found.thresholds_k, [Some(0.8125), Some(0.375)]);
        assert_eq!(found.confident_joint_kk, [1, 1, 0, 1]);
        let confident = found.ranked.iter().filter(|s| s.confident);
        assert_eq!(confident.map(|s| s.image).collect::<Vec<_>>(), [1]);
        assert_eq!(order(&found), [2, 3, 1, 0]);
        let doubtful: Vec<u32> = found.doubtful().map(|s| s.image).collect();
        assert_eq!(doubtful, [2, 1]);
    }

    #[test]
    fn three_classes_by_hand() {
        #[rustfmt::skip]
        let probabilities = [
            0.5, 0.25, 0.25,  // 0: of class 0
            0.125, 0.25, 0.625, // 1: of class 0, says 2
            0.25, 0.625, 0.125, // 2: of class 1
            0.25, 0.375, 0.375, // 3: of class 1, undecided
            0.125, 0.25, 0.625, // 4: of class 2
            0.0, 0.0, 1.0,      // 5: not judged
        ];
        let judged = Judged {
            images: &[0, 1, 2, 3, 4],
            probabilities_nk: &probabilities,
            labels_n: &[0, 0, 1, 1, 2, 2],
            classes: 3,
        };
        let found = LabelErrors::find(judged);
        assert_eq!(found.thresholds_k, [Some(0.3125), Some(0.5), Some(0.625)]);
        assert_eq!(found.confident_joint_kk, [1, 0, 1, 0, 1, 0, 0, 0, 1]);
        // Of two images of class 0 one is wrong; of class 1 the one that is confident is right.
        assert_eq!(
            found.estimated_kk,
            [1.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0]
        );
        assert_eq!(found.estimated_errors(), 1.0);
        assert_eq!(order(&found), [1, 3, 0, 2, 4]);
        assert_eq!(
            (found.ranked[0].suggested, found.ranked[0].score),
            (2, -0.5)
        );
        // Of equally probable others the first one.
        assert_eq!(
            (found.ranked[2].suggested, found.ranked[2].score),
            (1, 0.25)
        );
    }

    #[test]
    fn a_class_without_images_or_without_confidence_is_no_error() {
        // Class 2 has no image; of class 1 the only image reaches its own threshold, always.
        let found = find(&[0.5, 0.25, 0.25, 0.25, 0.5, 0.25], &[0, 1], 3);
        assert_eq!(found.thresholds_k, [Some(0.5), Some(0.5), None]);
        assert_eq!(found.estimated_errors(), 0.0);
        assert_eq!(estimated(&[0, 0, 1, 2], &[4, 3]), [4.0, 0.0, 1.0, 2.0]);
    }
}
