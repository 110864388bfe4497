//! How far a pruning is, for whoever waits for it.

/// Is told how far a long task is; `()` does not listen.
pub trait Progress: Sync {
    /// So much work lies ahead, in units of the task's own.
    fn begin(&self, _work: u64) {}

    /// What is being done now.
    fn say(&self, _what: &str) {}

    /// Part of the work is done.
    fn advance(&self, _work: u64) {}

    /// Nothing is left to do.
    fn end(&self) {}
}

impl Progress for () {}
