//! A parallel pipeline with ordered results and bounded memory.
//!
//! One thread produces jobs, several threads work on them, and the calling thread takes the results in the order of the
//! jobs. Every queue is bounded, so the slowest of the three sets the pace. This module does not know about files.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::ops::ControlFlow;

/// Upper limit of workers on any machine. It keeps the buffers of an archive below 64 MiB, and ten cores compress
/// faster than any disk reads.
const WORKERS_MAX: usize = 10;

/// Results of one job that may wait. More would only waste memory, because the consumer is behind anyway.
const RESULTS_WAITING_MAX: usize = 2;

/// The other end of the pipeline has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disconnected;

/// Where the producer puts jobs.
pub(super) struct Inlet<J, R> {
    jobs: Sender<(J, Outlet<R>)>,
    order: Sender<Receiver<R>>,
}

/// Where a worker puts the results of one job.
pub(super) struct Outlet<R>(Sender<R>);

impl<J, R> Inlet<J, R> {
    /// Submits a job. Blocks while enough jobs are in progress.
    pub(super) fn put(&self, job: J) -> Result<(), Disconnected> {
        let (results, waiting) = bounded(RESULTS_WAITING_MAX);
        self.order.send(waiting).map_err(|_| Disconnected)?;
        self.jobs.send((job, Outlet(results))).map_err(|_| Disconnected)
    }
}

impl<R> Outlet<R> {
    /// Delivers a result. Blocks while the consumer is behind.
    pub(super) fn put(&self, result: R) -> Result<(), Disconnected> {
        self.0.send(result).map_err(|_| Disconnected)
    }
}

/// One worker per core, and one more that works while another waits for the disk.
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1).min(WORKERS_MAX)
}

/// Runs until `make` is done and every result is taken, or until `take` breaks. When it returns, every thread has
/// ended.
///
/// # Panics
/// If `make` or a worker panicked.
pub(super) fn run<J: Send, R: Send, M, W>(
    workers: usize,
    make: M,
    worker: impl Fn() -> W,
    mut take: impl FnMut(R) -> ControlFlow<()>,
) where
    M: FnOnce(&Inlet<J, R>) -> Result<(), Disconnected> + Send,
    W: FnMut(J, &Outlet<R>) + Send,
{
    std::thread::scope(|scope| {
        let (jobs, queue) = bounded::<(J, Outlet<R>)>(workers);
        let (order, results) = bounded(workers.saturating_mul(2));
        for _ in 0..workers.max(1) {
            let queue = queue.clone();
            let mut work = worker();
            scope.spawn(move || {
                for (job, outlet) in queue {
                    work(job, &outlet);
                }
            });
        }
        drop(queue);
        scope.spawn(move || make(&Inlet { jobs, order }));
        for waiting in results {
            for result in waiting {
                if take(result).is_break() {
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_the_order_of_the_jobs_even_if_some_take_longer() {
        let mut taken = Vec::new();
        run(
            4,
            |inlet| (0..200_u64).try_for_each(|n| inlet.put(n)),
            || {
                |n: u64, outlet: &Outlet<u64>| {
                    std::thread::sleep(std::time::Duration::from_micros((n * 7_919) % 500));
                    for part in 0..n % 5 {
                        outlet.put(n * 10 + part).unwrap();
                    }
                }
            },
            |result| {
                taken.push(result);
                ControlFlow::Continue(())
            },
        );
        let expected: Vec<u64> = (0..200).flat_map(|n| (0..n % 5).map(move |part| n * 10 + part)).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_consumer_that_breaks_stops_the_producer_and_the_workers() {
        let made = AtomicUsize::new(0);
        let mut taken = 0;
        run(
            3,
            |inlet| loop {
                inlet.put(())?;
                made.fetch_add(1, Ordering::Relaxed);
            },
            || {
                |(), outlet: &Outlet<u8>| {
                    while outlet.put(0).is_ok() {}
                }
            },
            |_| {
                taken += 1;
                if taken == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(taken, 5);
        assert!(made.into_inner() <= 3 * 4);
    }

    #[test]
    fn no_job_gives_no_result() {
        run(2, |_: &Inlet<(), ()>| Ok(()), || |(), _: &Outlet<()>| {}, |()| panic!("there is no job"));
    }
}
