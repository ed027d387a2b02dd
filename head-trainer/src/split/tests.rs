//! Tests of how images are given their sides.

use extractor::digest::Digest;
use proptest::prelude::*;

use super::*;

fn id(number: u64) -> ImageId {
    Digest::of(&number.to_le_bytes())
}

/// `counts[label]` images of each label, interleaved.
fn images(counts: &[usize]) -> Vec<(ImageId, u32)> {
    let mut images = Vec::new();
    for (label, count) in counts.iter().enumerate() {
        for i in 0..*count {
            images.push((id((label * 1_000_000 + i) as u64), label as u32));
        }
    }
    images.sort_unstable();
    images
}

fn plan(mode: SplitMode, seed: u64) -> SplitPlan {
    SplitPlan {
        mode,
        seed,
        fractions: Fractions::default(),
    }
}

fn sizes(plan: &SplitPlan, count: usize) -> [u64; 3] {
    let images = images(&[count]);
    let sides = plan.assign(&images).unwrap();
    let counts = super::count(sides.into_iter().map(|side| (side, 0)));
    Side::ALL.map(|side| counts.get(&(side, 0)).copied().unwrap_or(0))
}

/// Computed by another SHA-256 over the bytes that the header names: the split is the same on every
/// machine and in every version.
#[test]
fn golden_hash() {
    let plan = plan(SplitMode::Rank, 42);
    assert_eq!(plan.hash(Digest([7; 32])), GOLDEN);
}
const GOLDEN: u64 = 0x9083_ba1a_e478_7206;

#[test]
fn small_classes_by_hand() {
    let plan = plan(SplitMode::Rank, 0);
    for (count, expected) in [
        (0, [0, 0, 0]),
        (1, [1, 0, 0]),
        (2, [2, 0, 0]),
        (3, [2, 1, 0]),
        (5, [4, 1, 0]),
        (8, [6, 1, 1]),
        (10, [8, 1, 1]),
        (23_262, [18_610, 2326, 2326]),
    ] {
        assert_eq!(sizes(&plan, count), expected, "{count}");
    }
    assert!((8..500).all(|count| sizes(&plan, count).iter().all(|n| *n > 0)));
}

#[test]
fn threshold_cuts_are_exact() {
    let plan = plan(SplitMode::Threshold, 0);
    let cut = (u128::from(u64::MAX) + 1) * 8 / 10; // 0.8 * 2^64 is no whole number: rounds down
    let cut = u64::try_from(cut).unwrap();
    assert_eq!(plan.threshold_side(0), Side::Train);
    assert_eq!(plan.threshold_side(cut), Side::Train);
    assert_eq!(plan.threshold_side(cut + 1), Side::Validation);
    assert_eq!(plan.threshold_side(u64::MAX), Side::Test);
    let halves = SplitPlan {
        fractions: Fractions::new(1, 1, 0).unwrap(),
        ..plan
    };
    assert_eq!(halves.threshold_side((1 << 63) - 1), Side::Train);
    assert_eq!(halves.threshold_side(1 << 63), Side::Validation);
    assert_eq!(halves.threshold_side(u64::MAX), Side::Validation);
}

#[test]
fn duplicates_are_refused() {
    let images = [(id(1), 0), (id(2), 0), (id(1), 1)];
    for mode in [SplitMode::Rank, SplitMode::Threshold] {
        assert_eq!(plan(mode, 0).assign(&images), Err(DuplicateImage(id(1))));
    }
}

#[test]
fn plans_are_read_and_refused() {
    assert_eq!("80/10/10".parse(), Ok(Fractions::default()));
    assert_eq!("7 / 2 / 1".parse(), Fractions::new(7, 2, 1));
    assert_eq!(Fractions::default().to_string(), "80/10/10");
    for text in [
        "",
        "80/20",
        "0/50/50",
        "a/b/c",
        "-8/1/1",
        "0.8/0.1/0.1",
        "2000000/1/1",
    ] {
        assert!(text.parse::<Fractions>().is_err(), "{text}");
    }
    assert_eq!("threshold".parse(), Ok(SplitMode::Threshold));
    assert!("hash".parse::<SplitMode>().is_err());
}

proptest! {
    /// Every image has one side whatever the order of the listing, and seeds decide.
    #[test]
    fn sides_depend_on_the_image_alone(
        counts in prop::collection::vec(0_usize..60, 1..4),
        seed in any::<u64>(),
        threshold in any::<bool>(),
    ) {
        let mode = if threshold { SplitMode::Threshold } else { SplitMode::Rank };
        let plan = plan(mode, seed);
        let images = images(&counts);
        let sides = plan.assign(&images).unwrap();
        prop_assert_eq!(sides.len(), images.len());
        let reversed: Vec<_> = images.iter().copied().rev().collect();
        let mut again = plan.assign(&reversed).unwrap();
        again.reverse();
        prop_assert_eq!(&sides, &again);
        if images.len() >= 100 {
            let other = SplitPlan { seed: seed ^ 1, ..plan }.assign(&images).unwrap();
            prop_assert_ne!(sides, other);
        }
    }

    /// Rank: each side of each class is within one image of its exact share.
    #[test]
    fn rank_is_exact_to_one_image(
        counts in prop::collection::vec(2_usize..200, 1..4),
        seed in any::<u64>(),
        parts in (1_u32..100, 0_u32..100, 0_u32..100),
    ) {
        let fractions = Fractions::new(parts.0, parts.1, parts.2).unwrap();
        let plan = SplitPlan { mode: SplitMode::Rank, seed, fractions };
        let images = images(&counts);
        let sides = plan.assign(&images).unwrap();
        let found = count(sides.iter().zip(&images).map(|(side, (_, label))| (*side, *label)));
        let whole = f64::from(parts.0 + parts.1 + parts.2);
        for (label, n) in counts.iter().enumerate() {
            for (side, part) in Side::ALL.into_iter().zip([parts.0, parts.1, parts.2]) {
                let exact = *n as f64 * f64::from(part) / whole;
                let found = found.get(&(side, label as u32)).copied().unwrap_or(0) as f64;
                prop_assert!((found - exact).abs() <= 1.0, "{side}: {found} of {exact}");
            }
        }
    }

    /// Threshold: an image keeps its side when others join, and when its label changes.
    #[test]
    fn threshold_never_moves_an_image(
        before in 1_usize..100,
        more in 0_usize..100,
        seed in any::<u64>(),
    ) {
        let plan = plan(SplitMode::Threshold, seed);
        let all: Vec<_> = (0..before + more).map(|i| (id(i as u64), (i % 3) as u32)).collect();
        let relabelled: Vec<_> = all[..before].iter().map(|(id, _)| (*id, 9)).collect();
        let after = plan.assign(&all).unwrap();
        prop_assert_eq!(&plan.assign(&all[..before]).unwrap(), &after[..before]);
        prop_assert_eq!(&plan.assign(&relabelled).unwrap(), &after[..before]);
    }
}
