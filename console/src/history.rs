//! [`History`]: the last ten minutes of a registry, in a bounded ring.

use std::collections::VecDeque;

use crate::json;

/// Samples that are kept: one a second.
pub(crate) const SECONDS: usize = 600;

/// What is kept of a second. 40 bytes: a registry has at most 24 KB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) workers: f32,
    pub(crate) queued: f32,
    pub(crate) starts: f32,
    pub(crate) restarts: f32,
    pub(crate) exits: f32,
    pub(crate) crashes: f32,
    pub(crate) hits: f32,
    pub(crate) misses: f32,
    pub(crate) handled: f32,
    pub(crate) undelivered: f32,
}

impl Sample {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "seven digits are enough for a line"
    )]
    pub(crate) fn of(registry: &json::Registry) -> Self {
        let json::Rates { starts, restarts, exits, crashes, hits, misses, handled, undelivered } = registry.rates;
        Self {
            workers: registry.workers.total() as f32,
            queued: registry.queued as f32,
            starts: starts as f32,
            restarts: restarts as f32,
            exits: exits as f32,
            crashes: crashes as f32,
            hits: hits as f32,
            misses: misses as f32,
            handled: handled as f32,
            undelivered: undelivered as f32,
        }
    }
}

/// The samples of a registry, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Sample>);

impl History {
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.0.len() == SECONDS {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// At most this many points of equal length. The newest point is whole; what is left over is cut from the oldest.
    pub(crate) fn read(&self, points: usize) -> json::History {
        let seconds = SECONDS.div_ceil(points);
        let samples: Vec<_> = self.0.iter().copied().collect();
        let whole = samples.len() % seconds;
        let chunks: Vec<_> = samples[whole..].chunks(seconds).collect();
        let series = |of: fn(&Sample) -> f32| chunks.iter().map(|chunk| mean(chunk, of)).collect::<Vec<_>>();
        json::History {
            seconds,
            workers: series(|sample| sample.workers),
            queued: series(|sample| sample.queued),
            starts: series(|sample| sample.starts),
            restarts: series(|sample| sample.restarts),
            exits: series(|sample| sample.exits),
            crashes: series(|sample| sample.crashes),
            hits: series(|sample| sample.hits),
            misses: series(|sample| sample.misses),
            handled: series(|sample| sample.handled),
            undelivered: series(|sample| sample.undelivered),
        }
    }
}

/// To a hundredth, so that the JSON stays short.
fn mean(chunk: &[Sample], of: fn(&Sample) -> f32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a chunk has at most 600 samples")]
    let mean = chunk.iter().map(|sample| f64::from(of(sample))).sum::<f64>() / chunk.len() as f64;
    round(mean)
}

/// To a hundredth.
pub(crate) fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(seconds: usize) -> History {
        let mut history = History::default();
        for second in 0..seconds {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            history.push(Sample { workers: second as f32, ..Sample::default() });
        }
        history
    }

    #[test]
    fn history_keeps_ten_minutes() {
        let read = history(SECONDS + 50).read(SECONDS);
        assert_eq!((read.seconds, read.workers.len()), (1, SECONDS));
        assert_eq!((read.workers[0], read.workers[SECONDS - 1]), (50.0, 649.0));
    }

    #[test]
    fn points_are_means_and_the_newest_is_whole() {
        let read = history(10).read(150);
        assert_eq!(read.seconds, 4);
        // 0 and 1 are cut: the points are 2 to 5 and 6 to 9.
        assert_eq!(read.workers, [3.5, 7.5]);
    }
}
