//! The pictures of a run's mistakes: the image, and of a head where it found what it went by.
//!
//! Pictures are an extra: where store or images are gone, the report goes without them and says so.

use std::collections::BTreeMap;

use extractor::digest::ImageId;
use extractor::images::Columns;
use extractor::store::{Store, key};

use crate::explain::{Explainer, Ground, Pictures, thumbnail};
use crate::report::{Mistake, RunData};
use crate::run::{self, Input, Inputs, RunRecord};

/// The longer side of a picture, in pixels: twice what the page shows, for dense screens.
const SIDE: usize = 224;

/// Adds pictures to `mistakes` as far as they can be had; `paths` are the images' in the index.
pub(super) fn add(
    run: &RunData,
    mistakes: &mut [Mistake],
    paths: &BTreeMap<ImageId, Vec<Vec<u8>>>,
) {
    let mut troubles: Vec<String> = Vec::new();
    let mut note = |error: anyhow::Error| troubles.push(format!("{error:#}"));
    let of_run = || -> anyhow::Result<(RunRecord, Inputs)> {
        let record = RunRecord::read(&run.folder)?;
        let inputs = Inputs::recorded(&record).checked(&record, &[Input::Store])?;
        Ok((record, inputs))
    };
    let (record, inputs) = match of_run() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("{}: its mistakes have no pictures: {error:#}", run.name);
            return;
        }
    };
    let explainer = record.key.config.head().map(|_| -> anyhow::Result<_> {
        let head = run::head(&run.folder)?;
        Ok(Explainer::new(head, Store::open(&inputs.store)?)?)
    });
    let explainer = explainer.and_then(|explainer| explainer.map_err(&mut note).ok());
    let pictures = key::read(&inputs.store)
        .map_err(anyhow::Error::from)
        .and_then(|json| {
            let columns = Columns::default();
            Ok(Pictures::open(
                &inputs.index,
                None,
                &columns,
                json.key.exif,
                None,
            )?)
        })
        .map_err(&mut note)
        .ok();
    for mistake in mistakes {
        let of_image = paths.get(&mistake.id).into_iter().flatten();
        let picture = pictures.as_ref().and_then(|pictures| {
            let picture = pictures.picture(&mistake.id, of_image.map(Vec::as_slice));
            picture.map_err(|error| note(error.into())).ok()
        });
        if let Some(picture) = &picture {
            let drawn = thumbnail(Ground::Picture(picture), None, SIDE);
            mistake.thumbnail = drawn.map_err(|error| note(error.into())).ok();
        }
        if let Some(explainer) = &explainer {
            let ground = match &picture {
                Some(picture) => Ground::Picture(picture),
                None => explainer.plain(),
            };
            let drawn = explainer
                .explain(&mistake.id, None)
                .map_err(anyhow::Error::from)
                .and_then(|found| Ok(thumbnail(ground, Some(&found.map), SIDE)?));
            mistake.overlay = drawn.map_err(&mut note).ok();
        }
    }
    if let Some(first) = troubles.first() {
        let more = match troubles.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        tracing::warn!("{}: pictures are missing: {first}{more}", run.name);
    }
}
