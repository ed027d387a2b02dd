//! Where the feature stores of a verb lie: in a folder, or in an object store, from which the ones that
//! are meant are brought in.
//!
//! Must not know what is in a store.

use std::path::{Path, PathBuf};

use extractor::cli::common::OutputArgs;
use extractor::digest::Digest;
use extractor::remote::{Location, Remote, RemoteStore};

use crate::dataset::{Candidate, StoreFilter, choose, find_store, find_stores, fitting};

/// The store at `place`, or at the usual one, that `filter` fits.
pub(super) fn find_one(
    place: Option<&Path>,
    filter: &StoreFilter,
    output: &OutputArgs,
) -> anyhow::Result<PathBuf> {
    let remote = match open(place, output)? {
        Ok(remote) => remote,
        Err(root) => return Ok(find_store(&root, filter)?),
    };
    let stores = listed(&remote)?;
    let candidates = stores.iter().map(|(_, candidate)| candidate.clone());
    let chosen = choose(&remote.url().to_path(), candidates.collect(), filter)?;
    bring_in(&remote, &stores, &chosen, output)
}

/// All stores at `place`, or at the usual one, that `filter` fits.
pub(super) fn find_all(
    place: Option<&Path>,
    filter: &StoreFilter,
    output: &OutputArgs,
) -> anyhow::Result<Vec<PathBuf>> {
    let remote = match open(place, output)? {
        Ok(remote) => remote,
        Err(root) => return Ok(find_stores(&root, filter)?),
    };
    let stores = listed(&remote)?;
    let candidates = stores.iter().map(|(_, candidate)| candidate.clone());
    let all = fitting(&remote.url().to_path(), candidates.collect(), filter)?;
    let bring = |one: &Candidate| bring_in(&remote, &stores, one, output);
    all.iter().map(bring).collect()
}

/// A place that holds a run's store, as a local one: of an object store the run's own store, by its
/// `key`, or the only one there.
pub(super) fn local(place: &Path, key: Digest, output: &OutputArgs) -> anyhow::Result<PathBuf> {
    let remote = match open(Some(place), output)? {
        Ok(remote) => remote,
        Err(root) => return Ok(root),
    };
    let stores = listed(&remote)?;
    let is_own = |(_, candidate): &&(RemoteStore, Candidate)| candidate.key().digest() == key;
    let own = stores.iter().find(is_own);
    let only = Some(&stores[..]).filter(|all| all.len() == 1);
    let Some((_, chosen)) = own.or(only.and_then(|all| all.first())) else {
        anyhow::bail!(
            "none of the stores in {} has the run's key {} (hint: say with --store where it lies)",
            remote.url(),
            key.short()
        );
    };
    bring_in(&remote, &stores, chosen, output)
}

/// The object store at `place`, or else the folder.
fn open(place: Option<&Path>, output: &OutputArgs) -> anyhow::Result<Result<Remote, PathBuf>> {
    let usual = output.data_dir.join("features");
    Ok(match Location::parse(place.unwrap_or(&usual))? {
        Location::Local(root) => Err(root),
        Location::Remote(url) => Ok(Remote::open(&url, &output.data_dir)?),
    })
}

/// The stores there, without their shards.
fn listed(remote: &Remote) -> anyhow::Result<Vec<(RemoteStore, Candidate)>> {
    let mut stores = Vec::new();
    for store in remote.stores()? {
        let folder = remote.begin(&store)?;
        match Candidate::read(folder, &store.url.to_string(), store.has_rows()) {
            Ok(candidate) => stores.push((store, candidate)),
            // One bad store must not keep the others from being used.
            Err(e) if store.url != *remote.url() => {
                tracing::warn!("passed over {}: {e}", store.url)
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(stores)
}

fn bring_in(
    remote: &Remote,
    stores: &[(RemoteStore, Candidate)],
    chosen: &Candidate,
    output: &OutputArgs,
) -> anyhow::Result<PathBuf> {
    let chosen = stores.iter().find(|(_, one)| one.folder == chosen.folder);
    let (store, _) = chosen.expect("one of the candidates");
    Ok(remote.bring_in(store, output.quiet)?)
}
