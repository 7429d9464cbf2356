//! Runs one function on many items with a bounded number of threads.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread;

/// Applies `work` to every item, on `jobs` threads. Returns the results in the order of the items.
///
/// # Errors
///
/// The error of an item. Its thread takes no further item, the other threads finish the queue.
pub(crate) fn map<T: Send, R: Send>(
    items: Vec<T>,
    jobs: usize,
    work: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let worker = || {
        let mut results = Vec::new();
        while let Some((index, item)) = next() {
            results.push((index, work(item)?));
        }
        Ok(results)
    };
    let results: anyhow::Result<Vec<Vec<(usize, R)>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut results: Vec<_> = results?.into_iter().flatten().collect();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        for jobs in [1, 3, 100] {
            let doubled = map((0..10).collect(), jobs, |item: u64| {
                thread::sleep(Duration::from_millis(10 - item));
                Ok(2 * item)
            });
            assert_eq!(doubled.unwrap(), (0..10).map(|item| 2 * item).collect::<Vec<_>>(), "{jobs} jobs");
        }
        let failed = map(vec![1, 2, 3], 2, |item| if item == 2 { bail!("no") } else { Ok(item) });
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
