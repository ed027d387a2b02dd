//! Input batches: images are read and decoded, each once for all of its views, and every view
//! takes a slot.
//!
//! Must not know about engines or stores.

use std::sync::mpsc::Receiver;

use rayon::prelude::*;

use super::plan::Work;
use crate::decode::{self, Exif, RgbImage};
use crate::digest::Digest;
use crate::images::{ImageBytes, Images};
use crate::index::{Entry, Index};
use crate::preprocess::Preprocessor;
use crate::timings::{Clock, Stage};
use crate::transient::Unreadable;
use crate::view::View;

/// Why an image has no input.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// It cannot be decoded: that follows from its bytes.
    Broken(String),
    /// Its bytes could not be had; nothing is known about the id.
    Absent(Unreadable),
}

/// What one image has in a batch: some of its views, one slot each.
pub(super) struct Part<'a> {
    pub entry: Entry<'a>,
    pub views: &'a [View],
    /// Whether views of this image lie in the batch before.
    pub continues: bool,
    /// Whether these are the last ones.
    pub ends: bool,
    pub loaded: Result<(), Trouble>,
}

/// A full input batch on its way to the backbone.
pub(super) struct InputBatch<'a> {
    /// Its place in the order of the work, from 0.
    pub number: usize,
    /// The slots in order; those of images in trouble, and those left over, are zero.
    pub parts: Vec<Part<'a>>,
    pub input: Vec<f32>, // [batch_size, H, W, 3] or [batch_size, 3, H, W]
}

/// Cuts the work into batches and loads them.
pub(super) struct Loader<'a> {
    pub images: &'a dyn Images,
    pub index: &'a Index,
    pub exif: Exif,
    pub preprocessor: Preprocessor,
    pub batch_size: usize,
    pub clock: &'a Clock,
    /// Input buffers that are free again.
    pub spare: Receiver<Vec<f32>>,
}

impl<'a> Loader<'a> {
    /// Loads batch after batch and hands each to `send`, until that returns false.
    pub fn load(&self, work: &'a Work, mut send: impl FnMut(InputBatch<'a>) -> bool) {
        let mut parts = Vec::new();
        let mut free = self.batch_size;
        let mut held = None; // the image whose views reach into the next batch
        let mut number = 0;
        for (position, mut views) in work.iter() {
            let entry = self.index.entry(position as usize);
            let mut continues = false;
            while !views.is_empty() {
                let (now, later) = views.split_at(views.len().min(free));
                parts.push(Part {
                    entry,
                    views: now,
                    continues,
                    ends: later.is_empty(),
                    loaded: Ok(()),
                });
                (views, continues) = (later, true);
                free -= now.len();
                if free == 0 {
                    let batch = self.batch(number, std::mem::take(&mut parts), &mut held);
                    number += 1;
                    // What could not be read is no image's fault then.
                    if self.images.has_failed() || !send(batch) {
                        return;
                    }
                    free = self.batch_size;
                }
            }
        }
        if !parts.is_empty() {
            let batch = self.batch(number, parts, &mut held);
            if !self.images.has_failed() {
                send(batch);
            }
        }
    }

    /// Loads the parts' images in parallel. `held` is the image that the first part continues, and
    /// becomes the one that the last part leaves to be continued.
    fn batch(
        &self,
        number: usize,
        parts: Vec<Part<'a>>,
        held: &mut Option<Result<RgbImage, Trouble>>,
    ) -> InputBatch<'a> {
        let slot = self.preprocessor.len();
        let mut input = self.spare.try_recv().unwrap_or_default();
        input.resize(self.batch_size * slot, 0.0);
        let mut rest = &mut input[..];
        let mut jobs = Vec::with_capacity(parts.len());
        for part in parts {
            let (slots, others) = rest.split_at_mut(part.views.len() * slot);
            rest = others;
            let image = if part.continues { held.take() } else { None };
            jobs.push((part, slots, image));
        }
        rest.fill(0.0);
        let to_read = jobs.iter().filter(|(.., image)| image.is_none());
        let to_read: Vec<&[u8]> = to_read.map(|(part, ..)| part.entry.path).collect();
        self.images.read_ahead(&to_read);
        let (images, exif, clock) = (self.images, self.exif, self.clock);
        let preprocessor = self.preprocessor;
        let mut loaded: Vec<(Part, Option<_>)> = jobs
            .into_par_iter()
            .map(|(mut part, slots, image)| {
                let image = image.unwrap_or_else(|| image_of(images, exif, &part.entry, clock));
                match &image {
                    Ok(image) => clock.time(Stage::Resize, || {
                        for (view, slot) in part.views.iter().zip(slots.chunks_exact_mut(slot)) {
                            let view = view.apply(image, &part.entry.id);
                            preprocessor.apply(&view, slot);
                        }
                    }),
                    Err(trouble) => {
                        slots.fill(0.0);
                        part.loaded = Err(trouble.clone());
                    }
                }
                let needed_again = !part.ends;
                (part, needed_again.then_some(image))
            })
            .collect();
        *held = loaded.last_mut().and_then(|(_, image)| image.take());
        InputBatch {
            number,
            parts: loaded.into_iter().map(|(part, _)| part).collect(),
            input,
        }
    }
}

/// Reads an image of the index, which must be what was indexed, and decodes it.
pub(crate) fn image_of(
    images: &dyn Images,
    exif: Exif,
    entry: &Entry,
    clock: &Clock,
) -> Result<RgbImage, Trouble> {
    let bytes: ImageBytes = clock.time(Stage::Read, || {
        let bytes = images.read(entry.path).map_err(Trouble::Absent)?;
        match Digest::of(&bytes) == entry.id {
            true => Ok(bytes),
            false => Err(Trouble::Absent("changed since it was indexed".into())),
        }
    })?;
    clock.time(Stage::Decode, || {
        decode::decode_oriented(&bytes, exif).map_err(|e| Trouble::Broken(e.to_string()))
    })
}
