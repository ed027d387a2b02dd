//! Any file opens as a shard or is refused: no crash, and nothing read outside the file.

#![no_main]

use std::io::Write;

use extractor::store::shard::Shard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // Opening catches panics of the Arrow decoder; the fuzzer's own hook would come before it.
    init: {
        std::panic::set_hook(Box::new(|_| ()));
    },
    |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let Ok(shard) = Shard::open(file.path()) else {
            return;
        };
        let _ = shard.verify();
        for batch in 0..shard.batches() {
            for row in 0..shard.rows_in(batch) {
                let (id, view) = (shard.id(batch, row), shard.view(batch, row));
                std::hint::black_box((id, view, format!("{:?}", shard.features(batch, row))));
            }
        }
    }
);
