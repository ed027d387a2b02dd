//! Tests of the event files; `scripts/test_events.py` has the `tensorboard` package read them.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The events of a file whose every checksum is right.
fn read(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(crc(8), masked_crc(&bytes[..8]));
        let payload = &bytes[12..12 + length];
        assert_eq!(crc(12 + length), masked_crc(payload));
        events.push(Event::decode(payload).unwrap());
        bytes = &bytes[16 + length..];
    }
    events
}

/// Tag, step and value of the scalars, in order.
fn scalars(events: &[Event]) -> Vec<(String, i64, f32)> {
    let scalar = |event: &Event| {
        let [value] = &event.summary.as_ref()?.value[..] else {
            panic!("one value an event");
        };
        let content = &value.tensor.as_ref().unwrap().tensor_content;
        let number = f32::from_le_bytes(content[..].try_into().unwrap());
        Some((value.tag.clone(), event.step, number))
    };
    events.iter().filter_map(scalar).collect()
}

fn epoch(epoch: u32, validation: Option<f64>) -> Epoch {
    Epoch {
        epoch,
        train_loss: 0.5,
        train_accuracy: 0.75,
        validation_loss: validation,
        validation_accuracy: validation.map(|loss| 1.0 - loss),
        secs: 2.0,
    }
}

fn step(step: u64, epoch: u32) -> Step {
    Step {
        step,
        epoch,
        loss: 9.0,
        running_loss: 0.25 * step as f64,
        running_accuracy: 0.125 * step as f64,
    }
}

#[test]
fn checksums_are_the_published_ones() {
    // RFC 3720, appendix B.4: 32 zeros, 32 ones, ascending; and the usual check string.
    let ascending: Vec<u8> = (0..32).collect();
    for (bytes, crc) in [
        (&[0; 32][..], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (b"123456789", 0xe306_9283),
        (b"", 0),
    ] {
        assert_eq!(crc32c::crc32c(bytes), crc);
    }
    // What every TFRecord of eight bytes begins with.
    assert_eq!(masked_crc(b""), 0xa282_ead8);
}

#[test]
fn a_record_is_tensorflows_byte_for_byte() {
    // The two first records that keras 3.15.1 with tensorflow 2.21.0 wrote in some training.
    let event = Event::scalar(1_795_547_585.608_645, 1, "batch_accuracy", 0.625);
    let mut file = Vec::new();
    push_record(&mut file, &event.encode_to_vec());
    assert_eq!(
        hex(&file),
        "3800000000000000a3797d57090af4667078c1da4110012a2b0a290a0e62617463685f616363757261637942\
         0a0801120022040000203f4a0b0a090a077363616c617273bb34ebe9"
    );
    let mut event = Event::version(1_795_547_584.0);
    event.source_metadata.as_mut().unwrap().writer =
        "tensorflow.core.util.events_writer".to_owned();
    file.clear();
    push_record(&mut file, &event.encode_to_vec());
    assert_eq!(
        hex(&file),
        "3e00000000000000d9d240e7090000007078c1da411a0d627261696e2e4576656e743a3252240a2274656e73\
         6f72666c6f772e636f72652e7574696c2e6576656e74735f777269746572776e1ad5"
    );
}

#[test]
fn tags_steps_and_times_are_as_keras_has_them() {
    let logged = Logged {
        history: &[epoch(1, Some(0.5)), epoch(2, Some(0.25))],
        steps: &[step(1, 1), step(2, 1), step(3, 2), step(4, 2)],
        learning_rates: &[0.001, 0.0005],
        end: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
    };
    let (train, validation) = files(&logged);
    let train = read(&train);
    assert_eq!(train[0].file_version.as_deref(), Some(FILE_VERSION));
    let rows = |rows: &[(&str, i64, f32)]| -> Vec<(String, i64, f32)> {
        let owned = |&(tag, step, value): &(&str, i64, f32)| (tag.to_owned(), step, value);
        rows.iter().map(owned).collect()
    };
    assert_eq!(
        scalars(&train),
        rows(&[
            ("batch_accuracy", 1, 0.125),
            ("batch_loss", 1, 0.25),
            ("batch_accuracy", 2, 0.25),
            ("batch_loss", 2, 0.5),
            ("epoch_accuracy", 0, 0.75),
            ("epoch_loss", 0, 0.5),
            ("epoch_learning_rate", 0, 0.001),
            ("batch_accuracy", 3, 0.375),
            ("batch_loss", 3, 0.75),
            ("batch_accuracy", 4, 0.5),
            ("batch_loss", 4, 1.0),
            ("epoch_accuracy", 1, 0.75),
            ("epoch_loss", 1, 0.5),
            ("epoch_learning_rate", 1, 0.0005),
        ])
    );
    let validation = read(&validation.unwrap());
    assert_eq!(
        scalars(&validation),
        rows(&[
            ("evaluation_accuracy_vs_iterations", 2, 0.5),
            ("evaluation_loss_vs_iterations", 2, 0.5),
            ("epoch_accuracy", 0, 0.5),
            ("epoch_loss", 0, 0.5),
            ("evaluation_accuracy_vs_iterations", 4, 0.75),
            ("evaluation_loss_vs_iterations", 4, 0.25),
            ("epoch_accuracy", 1, 0.75),
            ("epoch_loss", 1, 0.25),
        ])
    );
    // Two epochs of two seconds, the last one ending at the end.
    let times = |events: &[Event]| -> Vec<f64> {
        let time = |event: &Event| event.wall_time - 1_800_000_000.0;
        events.iter().map(time).collect()
    };
    assert_eq!(times(&train)[..6], [-4.0, -3.0, -3.0, -2.0, -2.0, -2.0]);
    assert_eq!(times(&train)[12..], [0.0, 0.0, 0.0]);
    assert_eq!(times(&validation)[4..6], [-2.0, 0.0]);
}

#[test]
fn a_solver_without_steps_writes_its_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut logged = Logged {
        history: &[epoch(1, Some(0.5))],
        steps: &[],
        learning_rates: &[],
        end: UNIX_EPOCH + Duration::from_secs(7),
    };
    let tags = |bytes: &[u8]| -> Vec<String> {
        let scalars = scalars(&read(bytes)).into_iter();
        scalars.map(|(tag, ..)| tag).collect()
    };
    let expected = ["epoch_accuracy", "epoch_loss"];
    write(folder.path(), &logged).unwrap();
    for side in ["train", "validation"] {
        let path = folder.path().join(side);
        let file = path.join("events.out.tfevents.0000000007.headstart.v2");
        assert_eq!(tags(&fs::read(file).unwrap()), expected);
        fs::remove_dir_all(path).unwrap();
    }
    let history = [epoch(1, None)];
    logged.history = &history;
    write(folder.path(), &logged).unwrap();
    assert!(folder.path().join("train").is_dir());
    assert!(!folder.path().join("validation").exists());
}
