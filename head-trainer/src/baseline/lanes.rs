//! A fixed number of channels at a time, for loops over `[.., F]` that shall use vectors. Knows
//! nothing of what the loops do.

/// Filters that are worked on at once: as many as a vector register holds.
pub(super) const LANES: usize = 16;

/// Runs the body for all filters, `LANES` of them at a time and then each of the rest alone; `f`
/// is the first one and `N` their number. A fixed number is what lets a compiler use vectors.
macro_rules! by_lanes {
    ($filters:expr, |$f:ident, $lanes:ident| $body:block) => {{
        let filters: usize = $filters;
        let whole = filters - filters % $crate::baseline::lanes::LANES;
        {
            const $lanes: usize = $crate::baseline::lanes::LANES;
            for $f in (0..whole).step_by($crate::baseline::lanes::LANES) $body
        }
        {
            const $lanes: usize = 1;
            for $f in whole..filters $body
        }
    }};
}

/// `N` numbers from `start` on.
#[inline(always)]
pub(super) fn lanes<const N: usize, T>(numbers: &[T], start: usize) -> &[T; N] {
    numbers[start..start + N].try_into().expect("N numbers")
}

/// The same, to be written.
#[inline(always)]
pub(super) fn lanes_mut<const N: usize, T>(numbers: &mut [T], start: usize) -> &mut [T; N] {
    (&mut numbers[start..start + N])
        .try_into()
        .expect("N numbers")
}

pub(super) use by_lanes;
