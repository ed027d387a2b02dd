//! How the rows of a shard were computed, as each shard says it.
//!
//! Must not know what a row holds.

/// How the rows of a shard were computed: recorded, never a reason to refuse.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Provenance {
    /// Engine and version, such as `onnxruntime 1.32.0`.
    pub engine: String,
    /// Execution provider that really ran.
    pub provider: String,
    /// Processor.
    pub processor: String,
    /// Version of this program.
    pub headstart: String,
    /// Images a run of the backbone.
    pub batch_size: usize,
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Provenance {
            engine,
            provider,
            processor,
            headstart,
            batch_size,
        } = self;
        write!(
            f,
            "{engine}, {provider}, {processor}, batch {batch_size}, headstart {headstart}"
        )
    }
}
