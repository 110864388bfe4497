//! Pruned weights that recipes are made of, by group and pattern: in memory up to a limit, in files of a folder of their own beyond.
//!
//! Must not know: how weights are pruned.

use sliderun::dtype::DType;
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use tempfile::TempDir;

use crate::ir::Constant;

/// Bytes of weights in memory.
const LIMIT: usize = 2 << 30;

enum Kept {
    Memory(Constant),
    File { path: PathBuf, dtype: DType, shape: Vec<usize> },
}

/// The weights of a group's products, for each pattern that they were pruned to.
pub struct Store {
    weights: BTreeMap<(usize, Pattern), Vec<Kept>>,
    /// Bytes that may still be kept in memory.
    left: usize,
    folder: Option<TempDir>,
    files: usize,
}

impl Default for Store {
    fn default() -> Self {
        Store::with_limit(LIMIT)
    }
}

impl Store {
    fn with_limit(left: usize) -> Self {
        Store { weights: BTreeMap::new(), left, folder: None, files: 0 }
    }

    /// Keeps the weights of a group.
    ///
    /// # Errors
    /// A folder for temporary files that cannot be written or is full.
    pub fn put(&mut self, group: usize, pattern: Pattern, weights: Vec<Constant>) -> io::Result<()> {
        let kept = weights.into_iter().map(|weight| self.keep(weight)).collect::<io::Result<_>>()?;
        self.weights.insert((group, pattern), kept);
        Ok(())
    }

    fn keep(&mut self, weight: Constant) -> io::Result<Kept> {
        if let Some(left) = self.left.checked_sub(weight.data.len()) {
            self.left = left;
            return Ok(Kept::Memory(weight));
        }
        let folder = match &mut self.folder {
            Some(folder) => folder,
            none => none.insert(TempDir::with_prefix("slidec-")?),
        };
        let path = folder.path().join(self.files.to_string());
        self.files += 1;
        std::fs::write(&path, &weight.data)?;
        Ok(Kept::File { path, dtype: weight.dtype, shape: weight.shape })
    }

    /// The weights of a group; none that were not kept.
    ///
    /// # Errors
    /// A file that cannot be read again.
    pub fn get(&self, group: usize, pattern: Pattern) -> io::Result<Vec<Constant>> {
        let read = |kept: &Kept| match kept {
            Kept::Memory(weight) => Ok(weight.clone()),
            Kept::File { path, dtype, shape } => {
                Ok(Constant { dtype: *dtype, shape: shape.clone(), data: std::fs::read(path)?.into() })
            }
        };
        self.weights.get(&(group, pattern)).into_iter().flatten().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_from_memory_and_files() {
        let weight = |byte: u8| Constant { dtype: DType::I8, shape: vec![4], data: vec![byte; 4].into() };
        let mut store = Store::with_limit(9);
        let [a, b] = [0, 1].map(|i| Pattern::ALL[i]);
        store.put(0, a, vec![weight(1), weight(2), weight(3)]).unwrap();
        store.put(1, b, vec![weight(4)]).unwrap();
        assert_eq!(store.get(0, a).unwrap(), [weight(1), weight(2), weight(3)]);
        assert_eq!(store.get(1, b).unwrap(), [weight(4)]);
        assert!(store.get(1, a).unwrap().is_empty() && store.files == 2);
    }
}
