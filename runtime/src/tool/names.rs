//! Names of nodes and tensors, shortened for tables: exporters make paths of them that are longer than a line.

use std::collections::BTreeSet;

/// Characters that a name in a table should not be longer than.
const WIDTH: usize = 48;

/// The names, in order, each no longer than fits in a table where that still tells them apart: of a long one its end, after `…`, from
/// the beginning of a component of its path.
pub fn shortened<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let names: Vec<&str> = names.into_iter().collect();
    let different = names.iter().collect::<BTreeSet<_>>().len();
    let longest = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let mut width = WIDTH;
    loop {
        let short: Vec<String> = names.iter().map(|name| tail(name, width)).collect();
        if width >= longest || short.iter().collect::<BTreeSet<_>>().len() == different {
            return short;
        }
        width += WIDTH / 4;
    }
}

fn tail(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    // One character is the ellipsis.
    let skipped: usize = name.chars().take(length - width + 1).map(char::len_utf8).sum();
    let end = &name[skipped..];
    let component = match end.find('/') {
        Some(at) if at + 1 < end.len() => &end[at + 1..],
        _ => end,
    };
    format!("…{component}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_the_end_that_tells_them_apart() {
        let layer = |i: usize, what: &str| format!("/bert/encoder/layer.{i}/attention/self/{what}/MatMul");
        assert_eq!(shortened(["first", "second", "first"]), ["first", "second", "first"]);
        let names = [layer(0, "query"), layer(11, "value")];
        let ends = ["…encoder/layer.0/attention/self/query/MatMul", "…encoder/layer.11/attention/self/value/MatMul"];
        assert_eq!(shortened(names.iter().map(String::as_str)), ends);
        // Equal ends make them longer, until they differ.
        let common = "a/component/that/is/the/same/in/all/of/these/names/MatMul";
        let names = [format!("/layer.0/{common}"), format!("/layer.1/{common}")];
        assert_eq!(shortened(names.iter().map(String::as_str)), names);
        // No component to begin with, and characters of several bytes.
        assert_eq!(shortened(["é".repeat(60).as_str()]), [format!("…{}", "é".repeat(WIDTH - 1))]);
    }
}
