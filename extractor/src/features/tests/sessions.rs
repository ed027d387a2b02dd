//! One session and several: the same rows in the same order, whatever fails.

use super::*;

/// Rows as they lie in the store, in order.
fn order(store: &Store) -> Vec<ImageId> {
    store.iter().map(|(id, ..)| id).collect()
}

#[test]
fn several_sessions_store_the_same_rows_in_the_same_order() {
    let levels: Vec<u8> = (0..200).collect(); // 50 batches
    let alone = Bench::new(&levels);
    let (result, expected, _) = alone.run(Dtype::F32, 0.0, None);
    assert_eq!(result.unwrap().rows, 200);
    let bench = Bench::new(&levels);
    let opened = AtomicUsize::new(0);
    let open = |threads: usize| {
        assert_eq!(threads, 2, "six threads for three sessions");
        let mut engine = Fake::new(0.0, None);
        // Out of step with each other.
        engine.takes = Duration::from_millis(1 + opened.fetch_add(1, Ordering::Relaxed) as u64);
        Ok(fake_backbone(engine))
    };
    let mut sessions = Sessions::fixed(3, 6, &open).unwrap();
    let folder = Folder::new(bench.images.path());
    let (result, store, _) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    assert_eq!(result.unwrap().rows, 200);
    assert_eq!(order(&store), order(&expected));
    assert_eq!(contents(&store), contents(&expected));
}

#[test]
fn one_session_that_fails_ends_all_and_keeps_what_was_complete() {
    let levels: Vec<u8> = (0..200).collect();
    let bench = Bench::new(&levels);
    let opened = AtomicUsize::new(0);
    let open = |_: usize| {
        let first = opened.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(fake_backbone(Fake::new(0.0, first.then_some(3))))
    };
    let mut sessions = Sessions::fixed(2, 2, &open).unwrap();
    let folder = Folder::new(bench.images.path());
    let (result, store, _) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    assert!(matches!(result, Err(FeaturesError::Backbone(_))));
    // Two batches of the session that failed at least; none after the one that is missing.
    assert!(
        store.len() >= 2 * BATCH && store.len() < 200,
        "{}",
        store.len()
    );
    let ids: Vec<ImageId> = bench.index().iter().map(|entry| entry.id).collect();
    let stored: Vec<ImageId> = order(&store);
    assert!(ids.iter().take(stored.len()).all(|id| stored.contains(id)));
}

#[test]
fn a_trial_takes_the_faster_arrangement_and_loses_no_row() {
    let levels: Vec<u8> = (0..240).collect(); // 60 batches
    // What a batch takes with four threads, with two, with one: in milliseconds.
    let cases = [
        (
            [20, 20, 60],
            Arrangement {
                sessions: 2,
                threads_each: 2,
            },
        ),
        (
            [5, 40, 40],
            Arrangement {
                sessions: 1,
                threads_each: 4,
            },
        ),
    ];
    for (takes, expected) in cases {
        let bench = Bench::new(&levels);
        let open = |threads: usize| {
            let mut engine = Fake::new(0.0, None);
            let which = match threads {
                4 => 0,
                2 => 1,
                _ => 2,
            };
            engine.takes = Duration::from_millis(takes[which]);
            Ok(fake_backbone(engine))
        };
        let sessions = Sessions::fixed(1, 4, &open).unwrap();
        let mut sessions = sessions.or_more(4, &open);
        let folder = Folder::new(bench.images.path());
        let (result, store, _) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
        assert_eq!((result.unwrap().rows, store.len()), (240, 240));
        assert_eq!(sessions.arrangement(), expected);
    }
}

#[test]
fn a_short_extraction_tries_nothing() {
    let bench = Bench::new(&(0..20).collect::<Vec<u8>>());
    let open = |threads: usize| {
        assert_eq!(threads, 4, "no other session is opened");
        Ok(fake_backbone(Fake::new(0.0, None)))
    };
    let mut sessions = Sessions::fixed(1, 4, &open).unwrap().or_more(4, &open);
    let folder = Folder::new(bench.images.path());
    let (result, ..) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    assert_eq!(result.unwrap().rows, 20);
    assert_eq!(sessions.arrangement().sessions, 1);
}

/// Views that lie in several batches, rejections, and buffers that others have used: all as with one
/// session.
#[test]
fn several_sessions_reject_what_one_rejects() {
    let levels: Vec<u8> = (200..=255).collect();
    let alone = Bench::new(&levels);
    let (result, expected, _) = alone.run_views(VIEWS, Dtype::F16, 1e6, None);
    assert_eq!(result.unwrap().rejected.len(), 1);
    let bench = Bench::new(&levels);
    add_a_broken_image(&bench);
    let open = |_: usize| Ok(fake_backbone(Fake::new(1e6, None)));
    let mut sessions = Sessions::fixed(3, 3, &open).unwrap();
    let folder = Folder::new(bench.images.path());
    let (result, store, _) = bench.run_in(&mut sessions, &folder, VIEWS, Dtype::F16);
    assert_eq!(result.unwrap().rejected.len(), 2, "the broken one, too");
    assert_eq!(contents(&store).0, contents(&expected).0);
}

/// Adds an image that cannot be decoded.
fn add_a_broken_image(bench: &Bench) {
    let path = bench.images.path().join("Grey/100.png");
    std::fs::write(path, b"\x89PNG\r\n\x1a\nbroken").unwrap();
}

#[test]
fn a_session_that_panics_is_an_error_and_not_the_end_of_all_waiting() {
    let bench = Bench::new(&(0..200).collect::<Vec<u8>>());
    let opened = AtomicUsize::new(0);
    let open = |_: usize| {
        let mut engine = Fake::new(0.0, Some(2));
        engine.panics = opened.fetch_add(1, Ordering::Relaxed) == 0;
        if !engine.panics {
            engine.fails_at = None;
        }
        Ok(fake_backbone(engine))
    };
    let mut sessions = Sessions::fixed(2, 2, &open).unwrap();
    let folder = Folder::new(bench.images.path());
    let (result, store, _) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    assert!(matches!(result, Err(FeaturesError::Backbone(_))));
    assert!(store.len() >= BATCH && store.len() < 200);
}

#[test]
fn a_backbone_that_cannot_be_opened_again_ends_the_run_and_loses_no_row() {
    let bench = Bench::new(&(0..240).collect::<Vec<u8>>());
    let opened = AtomicUsize::new(0);
    let open = |_: usize| match opened.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let mut engine = Fake::new(0.0, None);
            engine.takes = Duration::from_millis(2);
            Ok(fake_backbone(engine))
        }
        _ => Err(Cause::from("gone")),
    };
    let mut sessions = Sessions::fixed(1, 2, &open).unwrap().or_more(2, &open);
    let folder = Folder::new(bench.images.path());
    let (result, store, _) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    let error = result.unwrap_err();
    assert!(matches!(error, FeaturesError::Sessions(_)), "{error}");
    assert!(store.len() >= 4 * BATCH, "what was computed before is kept");
    assert_eq!(sessions.info().engine, "a fake");
}

#[test]
fn a_writer_that_fails_ends_a_trial() {
    let bench = Bench::new(&(0..240).collect::<Vec<u8>>());
    let open = |_: usize| {
        let mut engine = Fake::new(1e6, None);
        engine.takes = Duration::from_millis(1);
        Ok(fake_backbone(engine))
    };
    add_a_broken_image(&bench);
    let mut sessions = Sessions::fixed(1, 4, &open).unwrap().or_more(4, &open);
    let folder = Folder::new(bench.images.path());
    let (result, ..) = bench.run_strictly(&mut sessions, &folder);
    assert!(matches!(result, Err(FeaturesError::Strict { .. })));
}

/// Batches wait in queues that are as long as there may be sessions.
#[test]
fn threads_bound_the_sessions_whatever_memory_would_do() {
    let open = |_: usize| Ok(fake_backbone(Fake::new(0.0, None)));
    for (most, expected) in [(100, 2), (2, 2), (1, 1)] {
        let sessions = Sessions::fixed(1, 2, &open).unwrap().or_more(most, &open);
        assert_eq!(sessions.most(), expected);
    }
}

/// The next extraction starts with what the trial of one before showed to be best, for as much work as it
/// has, on the same engine.
#[test]
fn what_a_trial_found_out_is_kept_for_the_next_extraction() {
    let bench = Bench::new(&(0..240).collect::<Vec<u8>>()); // 60 batches
    let place = bench.stores.path().join("sessions/some.json");
    let opened = AtomicUsize::new(0);
    let most = |info: &EngineInfo| {
        assert!(info.engine.ends_with("fake"));
        2
    };
    let arranging = |batches: usize, open| Arranging {
        place: place.clone(),
        threads: 2,
        batches,
        most: &most,
        open,
    };
    let name = std::sync::Mutex::new("a fake");
    let open = |threads: usize| {
        opened.fetch_add(1, Ordering::Relaxed);
        let mut fake = Fake::new(0.0, None);
        fake.info.engine = name.lock().unwrap().to_string();
        fake.takes = Duration::from_millis([0, 20, 20][threads]); // two at a time for one
        Ok(fake_backbone(fake))
    };
    let opened_for = |batches: usize| {
        let before = opened.load(Ordering::Relaxed);
        let sessions = arranging(batches, &open).sessions().unwrap();
        let opened = opened.load(Ordering::Relaxed) - before;
        (sessions.arrangement().sessions, sessions.most(), opened)
    };
    assert_eq!(opened_for(60), (1, 2, 1), "nothing is known: a trial");

    let folder = Folder::new(bench.images.path());
    let arranged = arranging(60, &open);
    let mut sessions = arranged.sessions().unwrap();
    let (result, ..) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
    assert_eq!(result.unwrap().rows, 240);
    arranged.keep(&sessions).unwrap();

    assert_eq!(opened_for(60), (2, 2, 2), "no trial any more");
    assert_eq!(opened_for(1), (1, 1, 1), "one batch is for one session");
    *name.lock().unwrap() = "another fake";
    assert_eq!(opened_for(60), (1, 2, 3), "another engine: a trial");
    *name.lock().unwrap() = "a fake";
    let month = Duration::from_secs(31 * 24 * 60 * 60);
    let file = std::fs::File::options().append(true).open(&place).unwrap();
    file.set_modified(std::time::SystemTime::now() - month)
        .unwrap();
    assert_eq!(opened_for(60), (1, 2, 1), "measured too long ago");
    file.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(opened_for(60), (2, 2, 2));
    let kept = std::fs::read_to_string(&place).unwrap();
    for damaged in [
        "{".to_owned(),
        kept.replace("\"sessions\": 2", "\"sessions\": 18446744073709551615"),
        kept.replace("\"images_per_sec\": ", "\"images_per_sec\": -"),
    ] {
        assert_ne!(damaged, kept);
        std::fs::write(&place, damaged).unwrap();
        assert_eq!(opened_for(60), (1, 2, 1), "what cannot be used");
    }
    std::fs::write(&place, kept).unwrap();
    // Where several cannot be opened, as in a smaller job, there is one.
    let left = AtomicUsize::new(1);
    let open = |threads: usize| match left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
    {
        Ok(_) => open(threads),
        Err(_) => {
            left.store(1, Ordering::Relaxed);
            Err(Cause::from("no memory"))
        }
    };
    let sessions = arranging(60, &open).sessions().unwrap();
    assert_eq!(sessions.arrangement().sessions, 1);
}

/// In the end a session may wait for another: the last batch is not for two of them.
#[test]
fn after_a_trial_the_rest_is_done_as_is_best_for_it() {
    for (images, expected) in [(16 * 4, 1), (40 * 4, 2)] {
        let bench = Bench::new(&(0..images).collect::<Vec<u8>>());
        let open = |threads: usize| {
            let mut fake = Fake::new(0.0, None);
            fake.takes = Duration::from_millis([0, 150, 100][threads]);
            Ok(fake_backbone(fake))
        };
        let mut sessions = Sessions::fixed(1, 2, &open).unwrap().or_more(2, &open);
        let folder = Folder::new(bench.images.path());
        let (result, ..) = bench.run_in(&mut sessions, &folder, "identity", Dtype::F32);
        assert_eq!(result.unwrap().rows, images as usize);
        assert!(sessions.pace().is_some());
        assert_eq!(sessions.arrangement().sessions, expected);
    }
}
