//! Images of an index as a backbone's input: read, decoded, resized and normalised as an extraction does it,
//! until there are as many as wanted.
//!
//! Must not know of models.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::decode::Exif;
use crate::features::input::{Trouble, image_of};
use crate::images::Images;
use crate::index::Index;
use crate::preprocess::Preprocessor;
use crate::timings::Clock;

/// Where images come from and what becomes of them.
pub struct Loader<'a> {
    /// Their bytes.
    pub images: &'a dyn Images,
    /// What they are.
    pub index: &'a Index,
    /// What to do with the orientation noted in them.
    pub exif: Exif,
    /// What the backbone's input wants.
    pub preprocessor: Preprocessor,
}

/// Some images' input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// Positions in the index.
    pub positions: Vec<u32>,
    /// One image after the other, [images, H, W, 3] or [images, 3, H, W].
    pub input: Vec<f32>,
}

/// Images that are read at once.
const CHUNK: usize = 64;

impl Loader<'_> {
    /// Loads the first `wanted` images of `order` that can be decoded, `group` at a time: `take` has the next
    /// group, the last one may be smaller, and `skipped` what could not be decoded (path, reason). Returns how
    /// many there were; fewer where the order ends, `stop` became true or
    /// no image can be read any more.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn load<E>(
        &self,
        order: &[u32],
        (wanted, group): (usize, usize),
        stop: &AtomicBool,
        skipped: &mut dyn FnMut(&[u8], &str),
        take: &mut dyn FnMut(&Loaded) -> Result<(), E>,
    ) -> Result<usize, E> {
        let slot = self.preprocessor.len();
        let mut count = 0;
        let mut loaded = Loaded::default();
        for chunk in order.chunks(CHUNK) {
            if count == wanted || stop.load(Ordering::Relaxed) {
                break;
            }
            let paths: Vec<&[u8]> = chunk.iter().map(|i| self.path(*i)).collect();
            self.images.read_ahead(&paths);
            let inputs: Vec<_> = chunk.par_iter().map(|i| self.image(*i)).collect();
            // What could not be read is no image's fault then.
            if self.images.has_failed() {
                break;
            }
            for (position, input) in chunk.iter().zip(inputs) {
                if count == wanted {
                    break;
                }
                match input {
                    Ok(input) => {
                        loaded.positions.push(*position);
                        loaded.input.extend_from_slice(&input);
                        count += 1;
                    }
                    Err(reason) => skipped(self.path(*position), &reason),
                }
                if loaded.positions.len() == group {
                    take(&loaded)?;
                    loaded.positions.clear();
                    loaded.input.clear();
                }
            }
        }
        debug_assert_eq!(loaded.input.len(), loaded.positions.len() * slot);
        if !loaded.positions.is_empty() {
            take(&loaded)?;
        }
        Ok(count)
    }

    fn path(&self, position: u32) -> &[u8] {
        self.index.entry(position as usize).path
    }

    fn image(&self, position: u32) -> Result<Vec<f32>, String> {
        let entry = self.index.entry(position as usize);
        let image = image_of(self.images, self.exif, &entry, &Clock::default());
        let image = image.map_err(|trouble| match trouble {
            Trouble::Broken(reason) => reason,
            Trouble::Absent(why) => why.reason,
        })?;
        let mut input = vec![0.0; self.preprocessor.len()];
        self.preprocessor.apply(&image, &mut input);
        Ok(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::images::ImageBytes;
    use crate::index::Entry;
    use crate::preprocess::{Layout, Preset};
    use crate::transient::Unreadable;
    use std::sync::atomic::AtomicUsize;

    /// Images of one pixel, that are gone after so many reads.
    struct Failing(AtomicUsize);

    fn pixel() -> Vec<u8> {
        let mut png = std::io::Cursor::new(Vec::new());
        let image = image::RgbImage::new(1, 1);
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        png.into_inner()
    }

    impl Images for Failing {
        fn read(&self, _: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
            let left = self
                .0
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            match left {
                Ok(_) => Ok(pixel().into()),
                Err(_) => Err("gone".into()),
            }
        }

        fn has_failed(&self) -> bool {
            self.0.load(Ordering::SeqCst) == 0
        }
    }

    #[test]
    fn it_ends_where_no_image_can_be_read_any_more() {
        let mut index = Index::new(Vec::new());
        let (id, label) = (Digest::of(&pixel()), None);
        for n in 0..4 * CHUNK {
            let path = n.to_string();
            let path = path.as_bytes();
            index.push(Entry { id, path, label });
        }
        let loader = Loader {
            images: &Failing(AtomicUsize::new(CHUNK + 10)),
            index: &index,
            exif: Exif::Ignore,
            preprocessor: Preprocessor {
                preset: Preset::Raw,
                height: 1,
                width: 1,
                layout: Layout::Nhwc,
            },
        };
        let order: Vec<u32> = (0..index.len() as u32).collect();
        let mut taken = Vec::new();
        let count = loader.load(
            &order,
            (order.len(), 7),
            &AtomicBool::new(false),
            &mut |path, reason| panic!("{path:?} is skipped: {reason}"),
            &mut |loaded| {
                taken.extend_from_slice(&loaded.positions);
                Ok::<(), ()>(())
            },
        );
        assert_eq!(count, Ok(CHUNK));
        assert_eq!(taken, order[..CHUNK]);
    }
}
