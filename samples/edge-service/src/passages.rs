//! The passages of a folder's files, and which of them are nearest to a vector.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::embedder::Embedder;

/// Texts in one run of the plan.
const BATCH: usize = 16;

/// A piece of a file that is found by itself: a paragraph, or a line of a file that has no paragraphs.
pub struct Passage {
    /// The file, below the folder.
    pub file: String,
    /// Its text.
    pub text: String,
    vector: Vec<f32>,
}

/// All passages of a folder.
pub struct Passages {
    passages: Vec<Passage>,
    files: usize,
}

impl Passages {
    /// Reads and embeds all `.txt` and `.md` files of a folder and of those in it.
    ///
    /// # Errors
    /// Folders and files that cannot be read, files that are not UTF-8, no text at all.
    pub fn read(folder: &Path, embedder: &Embedder) -> Result<Self, Error> {
        let mut files = Vec::new();
        find(folder, &mut files)?;
        files.sort();
        let mut texts: Vec<(String, String)> = Vec::new();
        for path in &files {
            let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let file = path.strip_prefix(folder).unwrap_or(path).display().to_string();
            texts.extend(split(&text).map(|text| (file.clone(), text)));
        }
        if texts.is_empty() {
            return Err(format!("{} has no text in .txt or .md files", folder.display()).into());
        }
        // Texts of like length share a run, so that little is padded.
        texts.sort_by_key(|(_, text)| text.len());
        let mut passages = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let (vectors, _) = embedder.embed(&batch.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>())?;
            let batch = batch.iter().cloned().zip(vectors);
            passages.extend(batch.map(|((file, text), vector)| Passage { file, text, vector }));
        }
        Ok(Passages { passages, files: files.len() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.passages.len()
    }

    /// Files that were read.
    pub fn files(&self) -> usize {
        self.files
    }

    /// The nearest passages to a vector of length 1 and their cosines, nearest first.
    pub fn nearest(&self, vector: &[f32], count: usize) -> Vec<(&Passage, f32)> {
        let cosine = |p: &Passage| p.vector.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut all: Vec<(&Passage, f32)> = self.passages.iter().map(|p| (p, cosine(p))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(count);
        all
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        // Links are not followed: they may lead round in a circle.
        if path.is_dir() && !path.is_symlink() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "txt" || e == "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// Paragraphs, which blank lines part; lines, where there are no blank ones.
fn split(text: &str) -> impl Iterator<Item = String> {
    let paragraphs: Vec<String> =
        text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|p| !p.is_empty()).collect();
    match paragraphs.len() {
        0 | 1 => text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect(),
        _ => paragraphs,
    }
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_into_paragraphs_or_lines() {
        for (text, expected) in
            [("", &[][..]), ("one\ntwo \n", &["one", "two"]), ("one\ntwo\n\nthree\n\n\n", &["one two", "three"])]
        {
            assert_eq!(split(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_nearest_come_first() {
        let passage = |text: &str, vector: [f32; 2]| Passage { file: "f".into(), text: text.into(), vector: vector.into() };
        let all = [passage("up", [0.0, 1.0]), passage("right", [1.0, 0.0]), passage("between", [0.8, 0.6])];
        let passages = Passages { passages: all.into(), files: 1 };
        let found: Vec<(&str, f32)> = passages.nearest(&[1.0, 0.0], 2).iter().map(|(p, c)| (p.text.as_str(), *c)).collect();
        assert_eq!(found, [("right", 1.0), ("between", 0.8)]);
    }
}
