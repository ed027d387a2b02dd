//! The backbone at work: one session of many threads or several of fewer, whichever is measured to be
//! faster.
//!
//! Several sessions of one thread each need not wait for each other after every operator; one session
//! of all threads takes less memory. Which is faster differs by machine and by model, so a long
//! extraction tries it on its first batches, whose rows count like all others: no row depends on the
//! session that computed it. What it finds out is there for those who keep it. Must not know about images or stores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::input::InputBatch;
use super::pace::{Arrangement, Pace, WORTH_IT};
use crate::backbone::{Backbone, BackboneError, MapShape};
use crate::causes::chain;
use crate::engine::{Cause, EngineInfo};
use crate::timings::{Clock, Stage};

/// Batches of each session that are measured, after one that is not.
const MEASURED: usize = 3;

/// Opening sessions must be at most one part of so many of the time that is left, as what they gain is a
/// small part, too.
const OPENING_SHARE: f64 = 10.0;

/// What is measured while sessions wait for more than this share of their time is not their own pace.
const MOST_WAITING: f64 = 0.2;

/// Opens a session with this many threads.
pub type Open<'a> = &'a (dyn Fn(usize) -> Result<Backbone, Cause> + Sync);

/// The sessions of one backbone.
pub struct Sessions<'a> {
    backbones: Vec<Backbone>, // at least one, until rearranging them fails
    info: EngineInfo,
    threads_each: usize,
    opening: Duration, // what opening took
    trial: Option<Trial<'a>>,
    pace: Option<Pace>,
}

/// Whether more sessions are faster is to be found out.
struct Trial<'a> {
    most: usize,
    open: Open<'a>,
}

impl<'a> Sessions<'a> {
    /// One session.
    pub fn one(backbone: Backbone, threads: usize) -> Sessions<'a> {
        Sessions {
            info: backbone.engine().info().clone(),
            backbones: vec![backbone],
            threads_each: threads.max(1),
            opening: Duration::ZERO,
            trial: None,
            pace: None,
        }
    }

    /// This many sessions, which share `threads` threads.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn fixed(sessions: usize, threads: usize, open: Open<'a>) -> Result<Sessions<'a>, Cause> {
        let threads_each = (threads / sessions.max(1)).max(1);
        let start = Instant::now();
        let backbones = open_all(sessions.max(1), threads_each, open)?;
        Ok(Sessions {
            opening: start.elapsed(),
            info: backbones[0].engine().info().clone(),
            backbones,
            threads_each,
            trial: None,
            pace: None,
        })
    }

    /// The same, or at most `most` sessions that share its threads, if the first batches show that these
    /// are faster.
    pub fn or_more(mut self, most: usize, open: Open<'a>) -> Sessions<'a> {
        // A session has a thread at least; what is queued grows with the sessions.
        let most = most.min(self.threads_each);
        self.trial = Some(Trial { most, open });
        self
    }

    /// What runs them.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// One of them: all are the same but for the threads.
    ///
    /// # Panics
    /// When an extraction ended with [`super::FeaturesError::Sessions`]: there is none any more.
    pub fn backbone(&self) -> &Backbone {
        &self.backbones[0]
    }

    /// How the threads are shared out now.
    pub fn arrangement(&self) -> Arrangement {
        Arrangement {
            sessions: self.backbones.len(),
            threads_each: self.threads_each,
        }
    }

    /// What a trial measured, if there was one, it came to its end, and the sessions had enough to do.
    pub fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// Sessions at most, as a trial may end.
    pub(super) fn most(&self) -> usize {
        let trial = self.trial.as_ref().map_or(1, |trial| trial.most);
        trial.max(self.backbones.len())
    }

    /// Runs batch after batch until there are no more (about `expected` of them).
    ///
    /// # Errors
    /// When a trial is over and no session can be opened any more.
    pub(super) fn run(&mut self, feed: &Feed, expected: usize) -> Result<(), Cause> {
        let trial = self.trial.take();
        let over = match trial {
            Some(trial) => self.try_out(&trial, feed, expected)?,
            None => false,
        };
        if !over {
            phase(&mut self.backbones, self.threads_each, feed, None);
        }
        Ok(())
    }

    /// Doubles the number of sessions as long as that pays and there is work enough to find out, and goes on
    /// with what is best for the rest. Old sessions are closed before new ones are opened, as both would
    /// take memory. Returns whether there is nothing more to do.
    fn try_out(&mut self, trial: &Trial, feed: &Feed, expected: usize) -> Result<bool, Cause> {
        let threads = self.threads_each;
        let batches = |sessions: usize| sessions * (MEASURED + 1);
        // At first the loader fills the queues, too, which slows the sessions down.
        let start = trial.most + 1;
        let mut tried = start + batches(1);
        let fits = |tried: usize, sessions: usize| tried + batches(sessions) <= expected;
        if trial.most < 2 || !fits(tried, 2) {
            return Ok(false);
        }
        let started = phase(&mut self.backbones, threads, feed, Some(start));
        let waiting = Waiting::since(feed);
        let Some(mut best) = started.and_then(|_| self.measure(feed, batches(1))) else {
            return Ok(true);
        };
        let batch_size = self.backbone().batch_size;
        let images_left = (expected - tried) * batch_size;
        if images_left as f64 / best < OPENING_SHARE * self.opening.as_secs_f64() {
            return Ok(false);
        }
        let mut pace = Pace::new(batch_size, self.opening.as_secs_f64());
        pace.add(self.arrangement(), best);
        let mut sessions = 2;
        while sessions <= trial.most && fits(tried, sessions) {
            let before = self.arrangement();
            let now = Arrangement {
                sessions,
                threads_each: threads / sessions,
            };
            if let Err(e) = self.rearrange(now, trial.open) {
                tracing::debug!("no {now}: {}", chain(&*e));
                self.rearrange(before, trial.open)?;
                return Ok(false);
            }
            let Some(rate) = self.measure(feed, batches(sessions)) else {
                return Ok(true);
            };
            tried += batches(sessions);
            pace.add(now, rate);
            let better = rate >= best * WORTH_IT;
            let over = !better || 2 * sessions > trial.most;
            if over && waiting.share(feed) < MOST_WAITING {
                self.pace = Some(pace.clone());
            }
            if !better {
                break;
            }
            best = rate;
            sessions *= 2;
        }
        self.go_on_with_the_best(&pace, expected - tried, trial.open)?;
        Ok(false)
    }

    /// Rearranges the sessions for this many batches, if that gains more time than it takes.
    fn go_on_with_the_best(&mut self, pace: &Pace, left: usize, open: Open) -> Result<(), Cause> {
        match pace.better_than(self.arrangement(), left) {
            Some(better) => self.rearrange(better, open),
            None => Ok(()),
        }
    }

    /// Images a second over the next batches; none if there is nothing more to do.
    fn measure(&mut self, feed: &Feed, batches: usize) -> Option<f64> {
        let rate = phase(&mut self.backbones, self.threads_each, feed, Some(batches))?;
        tracing::debug!("{}: {rate:.1} images/s", self.arrangement());
        Some(rate)
    }

    fn rearrange(&mut self, to: Arrangement, open: Open) -> Result<(), Cause> {
        self.backbones.clear();
        self.backbones = open_all(to.sessions, to.threads_each, open)?;
        self.threads_each = to.threads_each;
        Ok(())
    }
}

/// How long sessions wait for images or for the writer, beside the time that they compute.
struct Waiting {
    waited: f64,
    computed: f64,
}

impl Waiting {
    fn since(feed: &Feed) -> Waiting {
        let secs = |stage| feed.clock.secs(stage);
        Waiting {
            waited: secs(Stage::Starved) + secs(Stage::Blocked),
            computed: secs(Stage::Engine),
        }
    }

    /// As a share of both since then.
    fn share(&self, feed: &Feed) -> f64 {
        let now = Waiting::since(feed);
        let (waited, computed) = (now.waited - self.waited, now.computed - self.computed);
        waited / (waited + computed)
    }
}

/// Opens sessions side by side.
fn open_all(sessions: usize, threads_each: usize, open: Open) -> Result<Vec<Backbone>, Cause> {
    if sessions == 1 {
        return Ok(vec![open(threads_each)?]);
    }
    std::thread::scope(|scope| {
        let opening: Vec<_> = (0..sessions)
            .map(|_| scope.spawn(|| open(threads_each)))
            .collect();
        let opened = opening.into_iter().map(|one| match one.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect()
    })
}

/// Where batches come from and go to.
pub(super) struct Feed<'a, 'i> {
    pub batches: Mutex<Receiver<InputBatch<'i>>>,
    pub results: SyncSender<Computed<'i>>,
    /// Feature buffers that are free. A batch is taken by who has one, so their number bounds what waits
    /// for its turn to be written.
    pub spare: Mutex<Receiver<Vec<f32>>>,
    /// Input buffers that are free again.
    pub used: Sender<Vec<f32>>,
    pub stop: &'a AtomicBool,
    pub clock: &'a Clock,
}

/// A batch that went through the backbone.
pub(super) struct Computed<'i> {
    pub batch: InputBatch<'i>,
    /// Shape of a map; none if no image of the batch could be read.
    pub shape: Result<Option<MapShape>, BackboneError>,
    pub features: Vec<f32>, // [batch_size, h, w, c]
}

/// Lets every session run until there is nothing left, the writer has gone, or `quota` batches are
/// taken. Returns the images a second of all sessions together, without the first batch of each, and
/// nothing if not for the quota they ended.
fn phase(
    backbones: &mut [Backbone],
    threads: usize,
    feed: &Feed,
    quota: Option<usize>,
) -> Option<f64> {
    let taken = AtomicUsize::new(0);
    let may_take = || quota.is_none_or(|quota| taken.fetch_add(1, Ordering::Relaxed) < quota);
    std::thread::scope(|scope| {
        let running: Vec<_> = backbones
            .iter_mut()
            .map(|backbone| scope.spawn(move || session(backbone, threads, feed, &may_take)))
            .collect();
        let rates = running.into_iter().map(|one| match one.join() {
            Ok(rate) => rate,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        rates.sum()
    })
}

/// Runs one session. Returns its images a second, without the first batch; nothing if there was nothing
/// more to do.
fn session(
    backbone: &mut Backbone,
    threads: usize,
    feed: &Feed,
    may_take: &dyn Fn() -> bool,
) -> Option<f64> {
    let mut warm: Option<Instant> = None;
    let mut rate = 0.0;
    let mut measured = 0;
    while may_take() {
        if !run_one(backbone, threads, feed) {
            return None;
        }
        match warm {
            None => warm = Some(Instant::now()),
            Some(start) => {
                measured += backbone.batch_size;
                rate = measured as f64 / start.elapsed().as_secs_f64();
            }
        }
    }
    Some(rate)
}

/// Takes a batch, runs it and hands it on. False when there is nothing more to do.
fn run_one(backbone: &mut Backbone, threads: usize, feed: &Feed) -> bool {
    let clock = feed.clock;
    let buffer = || {
        let spare = feed.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.recv().ok()
    };
    let Some(mut features) = clock.time_on(Stage::Blocked, threads, buffer) else {
        return false;
    };
    let next = || {
        let batches = feed.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = || !feed.stop.load(Ordering::Relaxed);
        // A batch that came too late is let go of before another session can take the one after it.
        let next = goes_on().then(|| batches.recv().ok()).flatten();
        next.filter(|_| goes_on())
    };
    let Some(mut batch) = clock.time_on(Stage::Starved, threads, next) else {
        return false;
    };
    let any = batch.parts.iter().any(|part| part.loaded.is_ok());
    let shape = match any {
        true => clock
            .time_on(Stage::Engine, threads, || {
                // The writer waits for this batch, whatever becomes of it.
                let run = AssertUnwindSafe(|| backbone.run(&batch.input, &mut features));
                catch_unwind(run).unwrap_or_else(|_| Err(backbone.panicked()))
            })
            .map(Some),
        false => Ok(None),
    };
    clock.batch_done();
    // Nobody minds if the loader has ended.
    let _ = feed.used.send(std::mem::take(&mut batch.input));
    let failed = shape.is_err();
    let computed = Computed {
        batch,
        shape,
        features,
    };
    let sent = clock.time_on(Stage::Blocked, threads, || {
        feed.results.send(computed).is_ok()
    });
    sent && !failed
}
