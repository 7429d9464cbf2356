//! Work that is done some at once.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread;

/// Does something with each of the things, some of them at once; what came of it, in their order.
pub(crate) fn in_turn<T: Send, R: Send>(
    things: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let queue = Mutex::new(things.into_iter().enumerate());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let worker = || {
        let mut done = Vec::new();
        while let Some((place, thing)) = next() {
            done.push((place, work(thing)?));
        }
        Ok(done)
    };
    let done: anyhow::Result<Vec<Vec<(usize, R)>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let ends = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ends.collect()
    });
    let mut done: Vec<_> = done?.into_iter().flatten().collect();
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::*;

    #[test]
    fn what_is_done_at_once_comes_in_order() {
        for at_once in [1, 3, 100] {
            let done = in_turn((0..10).collect(), at_once, |thing: u64| {
                thread::sleep(Duration::from_millis(10 - thing));
                Ok(2 * thing)
            });
            assert_eq!(done.unwrap(), (0..10).map(|thing| 2 * thing).collect::<Vec<_>>(), "{at_once} at once");
        }
        let failed = in_turn(vec![1, 2, 3], 2, |thing| if thing == 2 { bail!("no") } else { Ok(thing) });
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
