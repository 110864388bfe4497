//! Calibration data of models that read text: sentences to batches of all that the model takes.
//!
//! Sentences of one length in tokens make a batch, so that nothing is padded: padding is no text, and statistics of activations would count it.
//! Must not know: what the data is for.

use slidec::ir::{Graph, ValueRef};
use slidec::verify::NamedTensors;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::collections::BTreeMap;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use crate::embed::Error;

/// What an input of [batch, tokens] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
}

/// The names that exporters give them.
const ROLES: [(&str, Role); 4] = [
    ("input_ids", Role::Ids),
    ("attention_mask", Role::Mask),
    ("token_type_ids", Role::Types),
    ("position_ids", Role::Positions),
];

/// The inputs of a model that reads text.
#[derive(Debug)]
pub struct TextInputs {
    inputs: Vec<(String, Role, DType)>,
    /// Where the model leaves no choice.
    batch: Option<usize>,
    /// Likewise.
    tokens: Option<usize>,
}

impl TextInputs {
    /// Those of a graph.
    ///
    /// # Errors
    /// An input that is none of token ids, mask, types and positions by its name, or not i64 or i32 [batch, tokens].
    pub fn of(graph: &Graph) -> Result<Self, Error> {
        let mut out = TextInputs { inputs: Vec::new(), batch: None, tokens: None };
        for node in graph.inputs() {
            let name = &graph.node(*node).name;
            let ty = graph.ty(ValueRef { node: *node, slot: 0 });
            let Some((_, role)) = ROLES.iter().find(|(known, _)| known == name) else {
                let known = ROLES.map(|(name, _)| name).join(", ");
                return Err(format!("the model's input '{name}' cannot be made of text: only {known} can").into());
            };
            let (DType::I64 | DType::I32, [batch, tokens]) = (ty.dtype, ty.shape.as_slice()) else {
                return Err(format!("the model's input '{name}' is {ty}, where i64 or i32 [batch, tokens] was expected").into());
            };
            out.batch = out.batch.or(batch.as_usize());
            out.tokens = out.tokens.or(tokens.as_usize());
            out.inputs.push((name.clone(), *role, ty.dtype));
        }
        Ok(out)
    }

    /// How many tokens every sentence is padded to, because the model takes no other number.
    pub fn padded_to(&self) -> Option<usize> {
        self.tokens
    }

    /// Batches of at most `batch` sentences, shortest first; sentences are cut at `tokens`. What a model for batches of a fixed size
    /// cannot take, the last sentences of a length, is left out.
    ///
    /// # Errors
    /// A sentence that the tokenizer refuses; no batch at all.
    pub fn batches(
        &self,
        tokenizer: &mut Tokenizer,
        text: &[&str],
        batch: usize,
        tokens: usize,
    ) -> Result<Vec<NamedTensors>, Error> {
        let most = self.tokens.unwrap_or(tokens);
        let padding = tokenizer.get_padding().map_or(0, |p| p.pad_id);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(TruncationParams { max_length: most, ..Default::default() }))?;
        let mut by_length: BTreeMap<usize, Vec<Encoding>> = BTreeMap::new();
        for encoding in tokenizer.encode_batch(text.to_vec(), true)? {
            by_length.entry(self.tokens.unwrap_or(encoding.len())).or_default().push(encoding);
        }
        let size = self.batch.unwrap_or(batch);
        let full = |rows: &&[Encoding]| self.batch.is_none_or(|size| rows.len() == size);
        let batches: Vec<NamedTensors> = by_length
            .iter()
            .filter(|(length, _)| **length > 0)
            .flat_map(|(length, rows)| rows.chunks(size.max(1)).filter(full).map(|rows| self.batch_of(rows, *length, padding)))
            .collect::<Result<_, _>>()?;
        if batches.is_empty() {
            return Err(format!("{} lines of text do not fill one batch of {size}", text.len()).into());
        }
        Ok(batches)
    }

    fn batch_of(&self, rows: &[Encoding], length: usize, padding: u32) -> Result<NamedTensors, Error> {
        let tensor = |(name, role, dtype): &(String, Role, DType)| {
            let mut values = Vec::with_capacity(rows.len() * length);
            for row in rows {
                let given = row.len();
                match role {
                    Role::Ids => values.extend(row.get_ids().iter().copied().chain(std::iter::repeat_n(padding, length - given))),
                    Role::Mask => values.extend((0..length).map(|i| u32::from(i < given))),
                    Role::Types => {
                        values.extend(row.get_type_ids().iter().copied().chain(std::iter::repeat_n(0, length - given)))
                    }
                    Role::Positions => values.extend(0..u32::try_from(length)?),
                }
            }
            let shape = [rows.len(), length];
            let tensor = if *dtype == DType::I32 {
                Tensor::from_slice(&shape, &values.iter().map(|v| i32::try_from(*v)).collect::<Result<Vec<_>, _>>()?)?
            } else {
                Tensor::from_slice(&shape, &values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>())?
            };
            Ok((name.clone(), tensor))
        };
        self.inputs.iter().map(tensor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::dim::Dim;
    use sliderun::op::TensorType;

    /// Words become their numbers, between a 1 and a 2.
    fn tokenizer() -> Tokenizer {
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
            "post_processor": {"type": "BertProcessing", "sep": ["SEP", 2], "cls": ["CLS", 1]},
            "model": {"type": "WordLevel", "vocab": {"?": 0, "CLS": 1, "SEP": 2, "a": 3, "b": 4, "c": 5}, "unk_token": "?"}}"#;
        json.parse().unwrap()
    }

    fn graph(inputs: &[(&str, DType, [Dim; 2])]) -> Graph {
        let mut graph = Graph::new();
        for (name, dtype, shape) in inputs {
            graph.add_input(name, TensorType { dtype: *dtype, shape: shape.to_vec() });
        }
        graph
    }

    fn symbols() -> [Dim; 2] {
        [Dim::symbol("batch"), Dim::symbol("tokens")]
    }

    #[test]
    fn sentences_of_one_length_make_a_batch_without_padding() {
        let graph = graph(&[
            ("input_ids", DType::I64, symbols()),
            ("attention_mask", DType::I32, symbols()),
            ("position_ids", DType::I64, symbols()),
        ]);
        let inputs = TextInputs::of(&graph).unwrap();
        let text = ["a", "b c", "c", "b b", "b", "a b c a b c"];
        let batches = inputs.batches(&mut tokenizer(), &text, 2, 5).unwrap();
        let ids: Vec<(&[usize], &[i64])> =
            batches.iter().map(|b| (b["input_ids"].shape(), b["input_ids"].as_slice().unwrap())).collect();
        let expected: [(&[usize], &[i64]); 4] = [
            (&[2, 3], &[1, 3, 2, 1, 5, 2]),
            (&[1, 3], &[1, 4, 2]),
            (&[2, 4], &[1, 4, 5, 2, 1, 4, 4, 2]),
            (&[1, 5], &[1, 3, 4, 5, 2]),
        ];
        assert_eq!(ids, expected);
        for batch in &batches {
            assert!(batch["attention_mask"].as_slice::<i32>().unwrap().iter().all(|m| *m == 1));
        }
        assert_eq!(batches[2]["position_ids"].as_slice::<i64>().unwrap(), [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn a_model_of_fixed_extents_gets_full_padded_batches() {
        let fixed = || [Dim::from(2), Dim::from(4)];
        let graph = graph(&[("input_ids", DType::I64, fixed()), ("attention_mask", DType::I64, fixed())]);
        let inputs = TextInputs::of(&graph).unwrap();
        assert_eq!(inputs.padded_to(), Some(4));
        let batches = inputs.batches(&mut tokenizer(), &["a", "b c a", "c"], 32, 128).unwrap();
        assert_eq!(batches.len(), 1, "the third sentence fills no batch");
        assert_eq!(batches[0]["input_ids"].as_slice::<i64>().unwrap(), [1, 3, 2, 0, 1, 4, 5, 2]);
        assert_eq!(batches[0]["attention_mask"].as_slice::<i64>().unwrap(), [1, 1, 1, 0, 1, 1, 1, 1]);
        let error = inputs.batches(&mut tokenizer(), &["a"], 32, 128).unwrap_err().to_string();
        assert_eq!(error, "1 lines of text do not fill one batch of 2");
    }

    #[test]
    fn other_inputs_are_refused_by_name() {
        let cases = [
            (("pixel_values", DType::F32, symbols()), "'pixel_values' cannot be made of text"),
            (("input_ids", DType::F32, symbols()), "'input_ids' is f32[batch, tokens], where i64 or i32"),
        ];
        for (input, reason) in cases {
            let error = TextInputs::of(&graph(&[input])).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
