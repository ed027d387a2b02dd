//! One synthetic picture: a patch of bands on a textured background, with things in front.
//!
//! The bands of `rings` curve around a point inside the patch, those of `stripes` around a point
//! far away, so that they are almost straight. The light differs too, with an overlap: warm for
//! most `rings`, cool for most `stripes`, as animals have their habitats. That is what an
//! untrained backbone sees best; the curvature is left for better ones. Everything else (place,
//! size, outline, contrast, background, occluders, noise) has one distribution for both classes.
//! A few pictures curve around a point at the patch's rim, where only the light can tell.
//!
//! Only arithmetic, square roots and `libm`: the same pixels on every machine.

use image::RgbImage;

use super::Class;
use crate::backbone::seed::random::Stream;

/// One in this many pictures is ambiguous.
const AMBIGUOUS_ONE_IN: f32 = 25.0;
/// Pictures' sides in pixels.
const SIDES: (f32, f32) = (90.0, 261.0);

/// Mean of a class's tint (added to red, taken from blue; the other class has the opposite), and
/// how far a picture's own tint may lie from it. The tint alone tells 93 % of pictures.
const LEAN: f32 = 0.1;
const SPREAD: f32 = 0.16;

type Colour = [f32; 3];

/// Draws the picture that `stream` holds for `class`.
pub fn draw(class: Class, stream: &mut Stream) -> RgbImage {
    let width = stream.between(SIDES.0, SIDES.1) as u32;
    // Aspect ratios between 3:5 and 5:3.
    let height = (width as f32 * stream.between(0.6, 1.67)).clamp(SIDES.0, SIDES.1 - 1.0) as u32;
    let unit = width.min(height) as f32;
    let lean = match class {
        Class::Rings => LEAN,
        Class::Stripes => -LEAN,
    };
    let tint = lean + SPREAD * (stream.uniform() - stream.uniform());
    let background = Background::random(stream, tint);
    let patch = Patch::random(
        class,
        stream,
        tint,
        width as f32 / unit,
        height as f32 / unit,
    );
    let occluders: Vec<Occluder> = (0..stream.between(0.0, 4.0) as usize)
        .map(|_| Occluder::random(stream, tint, width as f32 / unit, height as f32 / unit))
        .collect();
    let blur = 1.2 / unit;
    let grain = stream.between(0.0, 0.1);

    let mut pixels_hwc = Vec::with_capacity((width * height * 3) as usize);
    for row in 0..height {
        for column in 0..width {
            // Shorter side = 1, so that a thing's size does not depend on the picture's.
            let (x, y) = ((column as f32 + 0.5) / unit, (row as f32 + 0.5) / unit);
            let mut colour = background.at(x, y);
            patch.paint(x, y, blur, &mut colour);
            occluders
                .iter()
                .for_each(|occluder| occluder.paint(x, y, blur, &mut colour));
            let light = grain * (stream.uniform() - stream.uniform());
            pixels_hwc.extend(colour.map(|value| {
                let value = value + light + 0.3 * grain * (stream.uniform() - 0.5);
                (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8
            }));
        }
    }
    RgbImage::from_raw(width, height, pixels_hwc).expect("width x height x 3 bytes")
}

/// Two colours mixed by smooth noise of two scales.
struct Background {
    colours: [Colour; 2],
    coarse: Noise,
    fine: Noise,
    /// Share of the fine noise.
    texture: f32,
}

impl Background {
    fn random(stream: &mut Stream, tint: f32) -> Background {
        let first = random_colour(stream, tint);
        let shift = stream.between(0.1, 0.4);
        let second = first.map(|value| (value + shift * stream.between(-1.0, 1.0)).clamp(0.0, 1.0));
        let (coarse_scale, fine_scale) = (stream.between(2.0, 5.0), stream.between(12.0, 30.0));
        Background {
            colours: [first, second],
            coarse: Noise::random(stream, coarse_scale),
            fine: Noise::random(stream, fine_scale),
            texture: stream.between(0.1, 0.6),
        }
    }

    fn at(&self, x: f32, y: f32) -> Colour {
        let coarse = self.coarse.at(x, y);
        let mix = coarse + self.texture * (self.fine.at(x, y) - coarse);
        blend(self.colours[0], self.colours[1], mix)
    }
}

/// The bands and the outline that holds them.
struct Patch {
    centre: (f32, f32),
    radius: f32,
    /// 0: a disc, 1: a square.
    squareness: f32,
    rotation: Rotation,
    /// Ratio of the patch's sides.
    squash: f32,
    /// What the bands curve around, in the patch's own coordinates.
    focus: (f32, f32),
    /// Width of a light and a dark band together.
    period: f32,
    phase: f32,
    colours: [Colour; 2],
    opacity: f32,
}

impl Patch {
    fn random(class: Class, stream: &mut Stream, tint: f32, width: f32, height: f32) -> Patch {
        let radius = stream.between(0.28, 0.55);
        let ambiguous = stream.uniform() * AMBIGUOUS_ONE_IN < 1.0;
        let distance = match class {
            _ if ambiguous => stream.between(0.8, 1.6),
            Class::Rings => stream.between(0.0, 0.4),
            Class::Stripes => stream.between(4.0, 20.0),
        };
        let direction = Rotation::random(stream);
        let dark = random_colour(stream, tint);
        let contrast = stream.between(0.15, 0.8);
        let sign = if stream.uniform() < 0.5 { -1.0 } else { 1.0 };
        let light = dark.map(|value| {
            let wanted = value + sign * contrast;
            let other = value - sign * contrast;
            let value = if (0.0..=1.0).contains(&wanted) {
                wanted
            } else {
                other
            };
            (value + stream.between(-0.12, 0.12)).clamp(0.0, 1.0)
        });
        Patch {
            centre: (
                width * stream.between(0.3, 0.7),
                height * stream.between(0.3, 0.7),
            ),
            radius,
            squareness: if stream.uniform() < 0.5 { 0.0 } else { 1.0 },
            rotation: Rotation::random(stream),
            squash: stream.between(0.7, 1.0),
            focus: (
                direction.cos * distance * radius,
                direction.sin * distance * radius,
            ),
            period: radius * stream.between(0.22, 0.5),
            phase: stream.uniform(),
            colours: [dark, light],
            opacity: stream.between(0.5, 1.0),
        }
    }

    fn paint(&self, x: f32, y: f32, blur: f32, colour: &mut Colour) {
        let (u, v) = self.rotation.apply(x - self.centre.0, y - self.centre.1);
        let v = v / self.squash;
        let round = libm::sqrtf(u * u + v * v);
        let square = u.abs().max(v.abs()) * 1.13; // of the disc's area
        let edge = round + self.squareness * (square - round);
        let cover = coverage(self.radius - edge, blur);
        if cover == 0.0 {
            return;
        }
        let (du, dv) = (u - self.focus.0, v - self.focus.1);
        let turns = libm::sqrtf(du * du + dv * dv) / self.period + self.phase;
        // Distance to the border between the bands, on a triangle wave.
        let wave = (turns - libm::floorf(turns) - 0.5).abs() - 0.25;
        let band = coverage(wave * self.period, blur);
        let paint = blend(self.colours[0], self.colours[1], band);
        *colour = blend(*colour, paint, cover * self.opacity);
    }
}

/// A plain disc or bar in front of everything.
struct Occluder {
    centre: (f32, f32),
    rotation: Rotation,
    /// Half sides of the bar; a disc when they are equal.
    half: (f32, f32),
    colour: Colour,
}

impl Occluder {
    fn random(stream: &mut Stream, tint: f32, width: f32, height: f32) -> Occluder {
        let size = stream.between(0.03, 0.13);
        let disc = stream.uniform() < 0.5;
        Occluder {
            centre: (width * stream.uniform(), height * stream.uniform()),
            rotation: Rotation::random(stream),
            half: if disc {
                (size, size)
            } else {
                (size * 4.0, size * 0.5)
            },
            colour: random_colour(stream, tint),
        }
    }

    fn paint(&self, x: f32, y: f32, blur: f32, colour: &mut Colour) {
        let (u, v) = self.rotation.apply(x - self.centre.0, y - self.centre.1);
        let inside = if self.half.0 == self.half.1 {
            self.half.0 - libm::sqrtf(u * u + v * v)
        } else {
            (self.half.0 - u.abs()).min(self.half.1 - v.abs())
        };
        *colour = blend(*colour, self.colour, coverage(inside, blur));
    }
}

/// A rotation by a random angle.
struct Rotation {
    sin: f32,
    cos: f32,
}

impl Rotation {
    fn random(stream: &mut Stream) -> Rotation {
        let (sin, cos) = libm::sincosf(std::f32::consts::TAU * stream.uniform());
        Rotation { sin, cos }
    }

    fn apply(&self, x: f32, y: f32) -> (f32, f32) {
        (self.cos * x + self.sin * y, self.cos * y - self.sin * x)
    }
}

/// Smooth noise in 0..1: random values on a repeating grid, blended.
struct Noise {
    grid: [[f32; Noise::CELLS]; Noise::CELLS],
    /// Cells per unit of length.
    scale: f32,
}

impl Noise {
    const CELLS: usize = 32;

    fn random(stream: &mut Stream, scale: f32) -> Noise {
        Noise {
            grid: std::array::from_fn(|_| std::array::from_fn(|_| stream.uniform())),
            scale,
        }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let split = |position: f32| {
            let cell = libm::floorf(position);
            let t = position - cell;
            (cell as usize, t * t * (3.0 - 2.0 * t))
        };
        let ((column, tx), (row, ty)) = (split(x * self.scale), split(y * self.scale));
        let at =
            |dy: usize, dx: usize| self.grid[(row + dy) % Self::CELLS][(column + dx) % Self::CELLS];
        let top = at(0, 0) + tx * (at(0, 1) - at(0, 0));
        let bottom = at(1, 0) + tx * (at(1, 1) - at(1, 0));
        top + ty * (bottom - top)
    }
}

/// Share of a pixel that lies inside an edge `inside` away, softened over `blur`.
fn coverage(inside: f32, blur: f32) -> f32 {
    (0.5 + inside / blur).clamp(0.0, 1.0)
}

fn blend(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|channel| from[channel] + share * (to[channel] - from[channel]))
}

/// A brightness with a tint and a little of its own: seldom a pure colour.
fn random_colour(stream: &mut Stream, tint: f32) -> Colour {
    let brightness = stream.between(0.1, 0.9);
    [1.0, 0.0, -1.0]
        .map(|lean| (brightness + lean * tint + stream.between(-0.12, 0.12)).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_vary_in_size_and_shape() {
        let sizes: Vec<(u32, u32)> = (0..40)
            .map(|n| draw(Class::Rings, &mut Stream::new(1, n)).dimensions())
            .collect();
        assert!(
            sizes
                .iter()
                .all(|&(w, h)| (90..=260).contains(&w) && (90..=260).contains(&h))
        );
        let distinct: std::collections::BTreeSet<_> = sizes.iter().collect();
        assert!(distinct.len() > 30, "{distinct:?}");
        assert!(sizes.iter().any(|(w, h)| w > h) && sizes.iter().any(|(w, h)| w < h));
    }

    #[test]
    fn bands_follow_their_focus() {
        let patch = |focus| Patch {
            centre: (0.5, 0.5),
            radius: 0.5,
            squareness: 0.0,
            rotation: Rotation { sin: 0.0, cos: 1.0 },
            squash: 1.0,
            focus,
            period: 0.2,
            phase: 0.0,
            colours: [[0.0; 3], [1.0; 3]],
            opacity: 1.0,
        };
        let at = |patch: &Patch, x, y| {
            let mut colour = [0.5; 3];
            patch.paint(x, y, 0.001, &mut colour);
            colour[0]
        };
        // Rings around the centre: light within a quarter period, dark around half of one.
        let rings = patch((0.0, 0.0));
        assert_eq!(
            [
                at(&rings, 0.5, 0.5),
                at(&rings, 0.6, 0.5),
                at(&rings, 0.5, 0.4)
            ],
            [1.0, 0.0, 0.0]
        );
        assert_eq!(at(&rings, 0.7, 0.5), 1.0);
        // Stripes: the focus lies far to the left, so colours do not change upwards.
        let stripes = patch((-200.0, 0.0));
        assert_eq!(at(&stripes, 0.5, 0.5), at(&stripes, 0.5, 0.6));
        // Outside the disc nothing is painted.
        assert_eq!(at(&rings, 0.05, 0.05), 0.5);
    }
}
