//! Recipes: for each matrix product by its node's name, which pattern and precision its weight takes and how it is pruned. They are
//! files that people edit, in TOML:
//!
//! ```toml
//! [default]                       # for what no entry says
//! pattern = "dense"
//! precision = "int8"
//!
//! [[product]]
//! node = "/encoder/layer.*/intermediate/*"
//! pattern = "6:8"                 # auto, dense, 2:4 … 14:16
//! prune = "magnitude"
//! ```
//!
//! `*` stands for any characters and `?` for one. Where several entries match a node, each says what those before it have not said, or
//! says it anew. What neither entries nor `[default]` say is left to the options beside the recipe.
//!
//! Must not know: graphs, passes, the command line.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::path::Path;
use std::str::FromStr;

use crate::options::{Precision, PruneMethod, SparsityRequest};
use sliderun::sparse::Pattern;

/// What a product is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The pattern that its weight takes.
    pub sparsity: SparsityRequest,
    /// The arithmetic.
    pub precision: Precision,
    /// How its weight is pruned.
    pub prune: PruneMethod,
}

/// What a recipe says of a product; what it leaves open is said elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The pattern.
    #[serde(default, rename = "pattern", deserialize_with = "word")]
    pub sparsity: Option<SparsityRequest>,
    /// The arithmetic.
    #[serde(default, deserialize_with = "word")]
    pub precision: Option<Precision>,
    /// How the weight is pruned.
    #[serde(default, deserialize_with = "word")]
    pub prune: Option<PruneMethod>,
}

impl Choice {
    /// What is asked where this comes after `before`.
    pub fn over(self, before: Asked) -> Asked {
        Asked {
            sparsity: self.sparsity.unwrap_or(before.sparsity),
            precision: self.precision.unwrap_or(before.precision),
            prune: self.prune.unwrap_or(before.prune),
        }
    }
}

impl From<Asked> for Choice {
    fn from(asked: Asked) -> Self {
        Choice { sparsity: Some(asked.sparsity), precision: Some(asked.precision), prune: Some(asked.prune) }
    }
}

/// What a recipe says of the products whose nodes' names match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    node: String,
    #[serde(default, deserialize_with = "word")]
    pattern: Option<SparsityRequest>,
    #[serde(default, deserialize_with = "word")]
    precision: Option<Precision>,
    #[serde(default, deserialize_with = "word")]
    prune: Option<PruneMethod>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: Choice,
    #[serde(default)]
    product: Vec<FileEntry>,
}

/// A recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// For what no entry says.
    pub default: Choice,
    /// Names of nodes, with `*` and `?`, and what is said of these.
    pub products: Vec<(String, Choice)>,
}

/// Why a recipe cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RecipeError {
    #[error("the recipe '{path}' cannot be read: {reason}")]
    Read { path: String, reason: String },
    #[error("the recipe '{path}' is not one: {reason}")]
    Syntax { path: String, reason: String },
    #[error("the recipe names '{entry}', but the model has no matrix product")]
    NoProducts { entry: String },
    #[error("the recipe names '{entry}', which is no matrix product of the model; the nearest is '{nearest}'")]
    UnknownNode { entry: String, nearest: String },
}

impl Recipe {
    /// Reads a recipe from a file.
    ///
    /// # Errors
    /// A file that cannot be read; text that is no recipe, with its line.
    pub fn read(path: &Path) -> Result<Recipe, RecipeError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| RecipeError::Read { path: shown(), reason: e.to_string() })?;
        text.parse().map_err(|reason| RecipeError::Syntax { path: shown(), reason })
    }

    /// One that says everything of every product: `default` of those that the list lacks.
    pub fn complete(default: Asked, products: &BTreeMap<String, Asked>) -> Recipe {
        let products = products.iter().map(|(node, asked)| (node.clone(), Choice::from(*asked))).collect();
        Recipe { default: default.into(), products }
    }

    /// The same, with no weight pruned: what it asks for must hold already.
    pub fn without_pruning(mut self) -> Recipe {
        let choices = self.products.iter_mut().map(|(_, choice)| choice).chain([&mut self.default]);
        choices.for_each(|choice| choice.prune = Some(PruneMethod::None));
        self
    }

    /// What a node's product is asked to be, where `general` is asked of all.
    pub fn asked(&self, node: &str, general: Asked) -> Asked {
        let entries = self.products.iter().filter(|(entry, _)| matches(entry, node));
        entries.fold(general, |asked, (_, choice)| choice.over(asked))
    }

    /// Whether something is asked for that products alone can be.
    pub fn asks_for_products(&self) -> bool {
        let narrow = |p: Precision| !matches!(p, Precision::Auto | Precision::F32);
        let choices = self.products.iter().map(|(_, choice)| choice);
        choices.into_iter().any(|c| matches!(c.sparsity, Some(SparsityRequest::Pattern(_))) || c.precision.is_some_and(narrow))
    }

    /// Checks that each entry names at least one of a model's products.
    ///
    /// # Errors
    /// The first that does not, and the product whose name is most like it.
    pub fn check<'n>(&self, nodes: impl IntoIterator<Item = &'n str>) -> Result<(), RecipeError> {
        let nodes: Vec<&str> = nodes.into_iter().collect();
        let Some((entry, _)) = self.products.iter().find(|(entry, _)| !nodes.iter().any(|node| matches(entry, node))) else {
            return Ok(());
        };
        let entry = entry.clone();
        Err(match nearest(&entry, nodes) {
            None => RecipeError::NoProducts { entry },
            Some(nearest) => RecipeError::UnknownNode { nearest: nearest.to_owned(), entry },
        })
    }

    /// BLAKE3 of what is said, in hexadecimal: comments and spelling aside, so that files that say the same have the same.
    pub fn digest(&self) -> String {
        blake3::hash(self.to_toml(|_| None).as_bytes()).to_hex().to_string()
    }

    /// The file, with a comment before the entries that have one.
    pub fn to_toml(&self, comment: impl Fn(&str) -> Option<String>) -> String {
        let mut out = String::from(HEAD);
        let entries = self.products.iter().map(|(node, choice)| (Some(node.as_str()), choice));
        for (node, choice) in [(None, &self.default)].into_iter().chain(entries) {
            // Writing to a string cannot fail.
            let _ = write_entry(&mut out, node, choice, node.and_then(&comment));
        }
        out
    }
}

const HEAD: &str = "\
# What the matrix products of a model are to be: edit it, and give it to `slidec compile --recipe`.
# pattern: auto, dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16; precision and prune: as --precision and --prune.
# `node` may have * for any characters and ? for one; of entries that match one node, the last says it.
";

fn write_entry(out: &mut String, node: Option<&str>, choice: &Choice, comment: Option<String>) -> fmt::Result {
    writeln!(out)?;
    for line in comment.iter().flat_map(|c| c.lines()) {
        // What TOML does not take in comments could come from a model's names.
        writeln!(out, "# {}", line.replace(|c: char| c.is_control() && c != '\t', " "))?;
    }
    match node {
        None => writeln!(out, "[default]")?,
        Some(node) => writeln!(out, "[[product]]\nnode = {}", toml::Value::String(node.to_owned()))?,
    }
    let Choice { sparsity, precision, prune } = choice;
    let words = [
        ("pattern", sparsity.map(|s| s.to_string())),
        ("precision", precision.map(|p| p.to_string())),
        ("prune", prune.map(|p| p.to_string())),
    ];
    words
        .iter()
        .filter_map(|(key, word)| Some((key, word.as_ref()?)))
        .try_for_each(|(key, word)| writeln!(out, "{key} = \"{word}\""))
}

impl FromStr for Recipe {
    type Err = String;

    /// Reads the text of a file; errors have the line.
    fn from_str(text: &str) -> Result<Self, String> {
        let File { default, product } = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        let entry = |FileEntry { node, pattern, precision, prune }| (node, Choice { sparsity: pattern, precision, prune });
        Ok(Recipe { default, products: product.into_iter().map(entry).collect() })
    }
}

/// Whether a name matches a glob, `*` for any characters and `?` for one. A name matches itself, whatever characters it has.
fn matches(glob: &str, name: &str) -> bool {
    if glob == name {
        return true;
    }
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    // Where the last `*` is, and up to where of the name it reaches.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (g, n) = (g + 1, n + 1),
            _ => {
                let Some((at, reach)) = star else { return false };
                star = Some((at, reach + 1));
                (g, n) = (at + 1, reach + 1);
            }
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// What is most like a text.
fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    candidates.into_iter().min_by_key(|c| strsim::damerau_levenshtein(text, c))
}

/// A value of which there is a short list.
trait Word: Display + Copy {
    /// What it is.
    const WHAT: &'static str;

    /// The list.
    fn all() -> Vec<Self>;
}

impl Word for SparsityRequest {
    const WHAT: &'static str = "pattern";

    fn all() -> Vec<Self> {
        let patterns = Pattern::ALL.map(SparsityRequest::Pattern);
        [SparsityRequest::Auto, SparsityRequest::Dense].into_iter().chain(patterns).collect()
    }
}

impl Word for Precision {
    const WHAT: &'static str = "precision";

    fn all() -> Vec<Self> {
        Precision::ALL.to_vec()
    }
}

impl Word for PruneMethod {
    const WHAT: &'static str = "pruning method";

    fn all() -> Vec<Self> {
        PruneMethod::ALL.to_vec()
    }
}

/// Reads a word of the list; another is refused, with the nearest of the list.
fn word<'de, D: Deserializer<'de>, T: Word>(d: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(d)?;
    let known: Vec<(String, T)> = T::all().into_iter().map(|word| (word.to_string(), word)).collect();
    if let Some((_, word)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(Some(*word));
    }
    let nearest = nearest(&text, known.iter().map(|(name, _)| name.as_str())).unwrap_or_default();
    Err(serde::de::Error::custom(format!("'{text}' is no {}; the nearest is '{nearest}'", T::WHAT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERAL: Asked = Asked { sparsity: SparsityRequest::Auto, precision: Precision::Auto, prune: PruneMethod::None };

    #[test]
    fn globs() {
        for (glob, name, expected) in [
            ("a/b", "a/b", true),
            ("*", "", true),
            ("*", "a/b", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*.query*", "layer.0.query/MatMul", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a1b2b3c", true),
            ("", "a", false),
            // A name with a star is itself.
            ("a*[b]", "a*[b]", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn later_entries_say_it_and_the_rest_is_left_open() {
        let recipe: Recipe = "
            [default]
            precision = \"int8\"
            [[product]]
            node = \"layer.*\"
            pattern = \"6:8\"
            prune = \"magnitude\"
            [[product]]
            node = \"layer.1\"
            pattern = \"dense\"
        "
        .parse()
        .unwrap();
        let general = recipe.default.over(GENERAL);
        assert_eq!(general, Asked { precision: Precision::Int8, ..GENERAL });
        let pruned = Asked { sparsity: "6:8".parse().unwrap(), prune: PruneMethod::Magnitude, ..general };
        assert_eq!(recipe.asked("layer.0", general), pruned);
        assert_eq!(recipe.asked("layer.1", general), Asked { sparsity: SparsityRequest::Dense, ..pruned });
        assert_eq!(recipe.asked("head", general), general);
        assert!(recipe.asks_for_products() && !Recipe::default().asks_for_products());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let odd = "a \"quoted\"\\ node\n# [[product]]";
        let asked = Asked { sparsity: "4:6".parse().unwrap(), precision: Precision::Fp8, ..GENERAL };
        let recipe = Recipe::complete(GENERAL, &[(odd.to_owned(), asked), ("b".to_owned(), GENERAL)].into());
        let text = recipe.to_toml(|node| Some(format!("for {node}")));
        let again: Recipe = text.parse().unwrap();
        assert_eq!(again, recipe);
        assert_eq!((again.asked(odd, GENERAL), again.digest()), (asked, recipe.digest()));
        assert_ne!(Recipe::default().digest(), recipe.digest());
    }

    #[test]
    fn what_is_unknown_names_the_nearest() {
        for (text, said) in [
            ("[default]\npattern = \"6:9\"", "'6:9' is no pattern; the nearest is '6:8'"),
            ("[[product]]\nnode = \"a\"\nprecision = \"int\"", "'int' is no precision; the nearest is 'int8'"),
            ("[[product]]\nnode = \"a\"\nprune = \"magnitud\"", "the nearest is 'magnitude'"),
            ("[[product]]\npattern = \"6:8\"", "missing field `node`"),
            ("[[product]]\nnode = \"a\"\nsparsity = \"6:8\"", "unknown field `sparsity`"),
            ("[[product]]\nnode = 3", "line 2"),
        ] {
            let error = text.parse::<Recipe>().unwrap_err();
            assert!(error.contains(said) && error.contains("line"), "{error}");
        }
        let recipe: Recipe = "[[product]]\nnode = \"layer.0.qery\"".parse().unwrap();
        let error = recipe.check(["layer.1.value", "layer.0.query"]).unwrap_err();
        assert!(error.to_string().ends_with("the nearest is 'layer.0.query'"), "{error}");
        assert!(recipe.check([]).is_err() && recipe.check(["layer.0.qery"]).is_ok());
        assert!(Recipe::read(Path::new("/nowhere/recipe.toml")).unwrap_err().to_string().contains("/nowhere/recipe.toml"));
    }
}
