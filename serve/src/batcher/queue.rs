//! The requests that wait for a model, in groups that can run together.
//!
//! A group is due when it has rows for a whole batch or when its oldest request has waited for the longest delay. Groups do not wait for each other: of those
//! that are due, the one goes first whose oldest request came first. Time is what the caller says it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What bounds a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rows of a batch. A request of more runs alone.
    pub max_rows: usize,
    /// How long a request may wait for others to share its batch.
    pub max_delay: Duration,
    /// Most requests that wait.
    pub capacity: usize,
}

/// What tells requests apart that cannot run together: the extents of their inputs.
pub type Key = Vec<Vec<usize>>;

/// Something that waits, whose client may have gone.
pub trait Waiting {
    /// Whether nobody waits for the answer any more.
    fn is_cancelled(&self) -> bool;
}

/// A request in the queue.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its group.
    pub key: Key,
    /// Its rows.
    pub rows: usize,
    /// When it came.
    pub enqueued: Instant,
    /// When it is of no use any more.
    pub deadline: Option<Instant>,
    /// The request.
    pub item: T,
}

impl<T> Entry<T> {
    /// Until when it waits for others. One with little time left for its answer does not spend all of that here.
    fn due(&self, max_delay: Duration) -> Instant {
        let patience = self.deadline.map_or(max_delay, |d| d.saturating_duration_since(self.enqueued) / 2);
        self.enqueued + max_delay.min(patience)
    }
}

/// Why a request was not put into the queue; it comes back.
#[derive(Debug)]
pub enum Refused<T> {
    /// As many wait as may.
    Full(Box<Entry<T>>),
    /// The queue takes no more.
    Closed(Box<Entry<T>>),
}

/// What there is to do.
#[derive(Debug)]
pub enum Next<T> {
    /// Run these together.
    Batch(Vec<Entry<T>>),
    /// Nothing is due; look again at that time, or when something has come.
    Wait(Option<Instant>),
    /// Nothing will come any more.
    End,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    groups: BTreeMap<Key, VecDeque<Entry<T>>>,
    len: usize,
    closed: bool,
}

impl<T: Waiting> Queue<T> {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Queue { limits, groups: BTreeMap::new(), len: 0, closed: false }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a request would be refused for want of room.
    pub fn is_full(&self) -> bool {
        self.len >= self.limits.capacity
    }

    /// Takes no more requests; those that wait are due at once.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Puts a request behind the others of its group.
    ///
    /// # Errors
    /// A queue that is full or closed.
    pub fn push(&mut self, entry: Entry<T>) -> Result<(), Refused<T>> {
        match () {
            () if self.closed => Err(Refused::Closed(entry.into())),
            () if self.is_full() => Err(Refused::Full(entry.into())),
            () => {
                self.groups.entry(entry.key.clone()).or_default().push_back(entry);
                self.len += 1;
                Ok(())
            }
        }
    }

    /// Puts a request that was taken before its group's others, whatever the limits.
    pub fn put_back(&mut self, entry: Entry<T>) {
        self.groups.entry(entry.key.clone()).or_default().push_front(entry);
        self.len += 1;
    }

    /// Takes out all requests that nobody waits for or whose deadline has passed.
    pub fn discard(&mut self, now: Instant) -> Vec<Entry<T>> {
        let of_no_use = |e: &Entry<T>| e.item.is_cancelled() || e.deadline.is_some_and(|d| d <= now);
        let mut discarded = Vec::new();
        for group in self.groups.values_mut() {
            if group.iter().any(of_no_use) {
                let (out, kept): (VecDeque<_>, VecDeque<_>) = group.drain(..).partition(of_no_use);
                *group = kept;
                discarded.extend(out);
            }
        }
        self.groups.retain(|_, group| !group.is_empty());
        self.len -= discarded.len();
        discarded
    }

    /// Takes out all requests.
    pub fn drain(&mut self) -> Vec<Entry<T>> {
        self.len = 0;
        std::mem::take(&mut self.groups).into_values().flatten().collect()
    }

    /// Takes the batch that is to run now.
    pub fn next(&mut self, now: Instant) -> Next<T> {
        if self.is_empty() {
            return if self.closed { Next::End } else { Next::Wait(None) };
        }
        let Limits { max_rows, max_delay, .. } = self.limits;
        let closed = self.closed;
        // A later request with a close deadline makes its whole group due.
        let due = |group: &VecDeque<Entry<T>>| group.iter().map(|e| e.due(max_delay)).min();
        let is_due = |group: &VecDeque<Entry<T>>| {
            closed || group.iter().map(|e| e.rows).sum::<usize>() >= max_rows || due(group).is_some_and(|at| at <= now)
        };
        let first = self
            .groups
            .iter()
            .filter(|(_, group)| is_due(group))
            .min_by_key(|(_, group)| group.front().map(|e| e.enqueued))
            .map(|(key, _)| key.clone());
        let Some(key) = first else { return Next::Wait(self.groups.values().filter_map(due).min()) };
        let Some(group) = self.groups.get_mut(&key) else { return Next::Wait(None) };
        let (mut batch, mut rows) = (Vec::new(), 0);
        while let Some(entry) = group.front() {
            if !batch.is_empty() && rows + entry.rows > max_rows {
                break;
            }
            rows += entry.rows;
            batch.extend(group.pop_front());
        }
        if group.is_empty() {
            self.groups.remove(&key);
        }
        self.len -= batch.len();
        Next::Batch(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    struct Item(&'static str, Rc<Cell<bool>>);

    impl Waiting for Item {
        fn is_cancelled(&self) -> bool {
            self.1.get()
        }
    }

    /// A queue, and a clock in milliseconds.
    struct Case {
        queue: Queue<Item>,
        start: Instant,
    }

    impl Case {
        fn new(max_rows: usize, delay: u64, capacity: usize) -> Case {
            let limits = Limits { max_rows, max_delay: Duration::from_millis(delay), capacity };
            Case { queue: Queue::new(limits), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn entry(&self, name: &'static str, ms: u64, seq: usize, rows: usize) -> Entry<Item> {
            Entry { key: vec![vec![seq]], rows, enqueued: self.at(ms), deadline: None, item: Item(name, Rc::default()) }
        }

        fn push(&mut self, name: &'static str, ms: u64, seq: usize, rows: usize) {
            let entry = self.entry(name, ms, seq, rows);
            self.queue.push(entry).unwrap();
        }

        /// What is to do at a time: names of a batch, or when to look again.
        fn next(&mut self, ms: u64) -> String {
            match self.queue.next(self.at(ms)) {
                Next::Batch(batch) => batch.iter().map(|e| e.item.0).collect::<Vec<_>>().join(" "),
                Next::Wait(None) => "nothing".to_owned(),
                Next::Wait(Some(at)) => format!("at {}", (at - self.start).as_millis()),
                Next::End => "end".to_owned(),
            }
        }
    }

    #[test]
    fn a_batch_runs_when_it_is_full_or_has_waited() {
        let mut case = Case::new(4, 10, 100);
        assert_eq!(case.next(0), "nothing");
        case.push("a", 0, 8, 2);
        assert_eq!(case.next(1), "at 10");
        case.push("b", 2, 8, 1);
        assert_eq!(case.next(2), "at 10");
        case.push("c", 3, 8, 1);
        assert_eq!(case.next(3), "a b c");
        case.push("d", 4, 8, 1);
        assert_eq!(case.next(13), "at 14");
        assert_eq!(case.next(14), "d");
        assert_eq!(case.queue.len(), 0);
    }

    #[test]
    fn rows_are_not_torn_apart() {
        let mut case = Case::new(4, 10, 100);
        case.push("a", 0, 8, 3);
        case.push("b", 1, 8, 2);
        case.push("wide", 2, 8, 9);
        // b does not fit beside a, though they are due together; a request of more rows than a batch has runs alone.
        assert_eq!([case.next(2), case.next(2), case.next(2)], ["a", "b", "wide"]);
    }

    #[test]
    fn groups_do_not_wait_for_each_other() {
        let mut case = Case::new(2, 10, 100);
        case.push("a", 0, 8, 1);
        case.push("x", 1, 16, 1);
        case.push("y", 2, 16, 1);
        assert_eq!(case.next(2), "x y");
        case.push("z", 3, 32, 1);
        case.push("b", 4, 8, 1);
        // Both are due: the one whose oldest request came first.
        assert_eq!([case.next(13), case.next(13), case.next(13)], ["a b", "z", "nothing"]);
    }

    #[test]
    fn a_full_queue_refuses_and_gives_back() {
        let mut case = Case::new(8, 10, 2);
        case.push("a", 0, 8, 1);
        case.push("b", 0, 16, 1);
        assert!(case.queue.is_full());
        let third = case.entry("c", 1, 8, 1);
        assert!(matches!(case.queue.push(third), Err(Refused::Full(e)) if e.item.0 == "c"));
        assert_eq!(case.next(10), "a");
        let third = case.entry("c", 1, 8, 1);
        case.queue.push(third).unwrap();
        // What was taken and did not run goes first again, even into a full queue.
        let back = case.entry("a", 0, 8, 1);
        case.queue.put_back(back);
        assert_eq!([case.next(11), case.next(11)], ["a c", "b"]);
    }

    #[test]
    fn what_nobody_waits_for_is_discarded() {
        let mut case = Case::new(8, 10, 100);
        for (name, deadline) in [("gone", None), ("late", Some(5)), ("kept", Some(50)), ("last", None)] {
            let mut entry = case.entry(name, 0, 8, 1);
            entry.deadline = deadline.map(|ms| case.at(ms));
            if name == "gone" {
                entry.item.1.set(true);
            }
            case.queue.push(entry).unwrap();
        }
        let discarded: Vec<_> = case.queue.discard(case.at(5)).iter().map(|e| e.item.0).collect();
        assert_eq!(discarded, ["gone", "late"]);
        assert_eq!((case.queue.len(), case.next(10).as_str()), (2, "kept last"));
    }

    #[test]
    fn close_deadlines_shorten_the_wait() {
        let mut case = Case::new(8, 10, 100);
        case.push("a", 0, 8, 1);
        let entry = Entry { deadline: Some(case.at(7)), ..case.entry("b", 1, 8, 1) };
        case.queue.push(entry).unwrap();
        // Half of its 6 ms.
        assert_eq!([case.next(3), case.next(4)], ["at 4", "a b"]);
    }

    #[test]
    fn a_closed_queue_runs_empty() {
        let mut case = Case::new(8, 10, 100);
        case.push("a", 0, 8, 1);
        case.push("b", 0, 16, 1);
        case.queue.close();
        let late = case.entry("c", 1, 8, 1);
        assert!(matches!(case.queue.push(late), Err(Refused::Closed(_))));
        assert_eq!([case.next(1), case.next(1), case.next(1)], ["a", "b", "end"]);
    }
}
