//! The assignment problem: rows to columns, one to one, at the least cost together.
//!
//! Source: Kuhn 1955 and Munkres 1957, with potentials and shortest augmenting paths (Jonker and Volgenant 1987), O(n³).

/// For each row of a square matrix the column that it is assigned. Costs are finite.
pub fn cheapest(costs: &[Vec<f64>]) -> Vec<usize> {
    let n = costs.len();
    // Columns are counted from 1; column 0 is where the row that is looked at begins.
    let (mut of_row, mut of_column) = (vec![0.0; n], vec![0.0; n + 1]);
    let mut row_at: Vec<Option<usize>> = vec![None; n + 1];
    for row in 0..n {
        row_at[0] = Some(row);
        let (mut column, mut came_from) = (0, vec![0; n + 1]);
        let (mut slack, mut seen) = (vec![f64::INFINITY; n + 1], vec![false; n + 1]);
        // The shortest path to a column that no row has.
        while let Some(at) = row_at[column] {
            seen[column] = true;
            let (mut least, mut next) = (f64::INFINITY, 0);
            for j in (1..=n).filter(|j| !seen[*j]) {
                let reduced = costs[at][j - 1] - of_row[at] - of_column[j];
                if reduced < slack[j] {
                    (slack[j], came_from[j]) = (reduced, column);
                }
                if slack[j] < least {
                    (least, next) = (slack[j], j);
                }
            }
            for j in 0..=n {
                match row_at[j] {
                    Some(at) if seen[j] => {
                        of_row[at] += least;
                        of_column[j] -= least;
                    }
                    _ => slack[j] -= least,
                }
            }
            column = next;
        }
        while column != 0 {
            row_at[column] = row_at[came_from[column]];
            column = came_from[column];
        }
    }
    let mut columns = vec![0; n];
    for (column, row) in row_at[1..].iter().enumerate() {
        if let Some(row) = row {
            columns[*row] = column;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least cost of assigning rows from `row` on to columns that are not taken.
    fn least(costs: &[Vec<f64>], row: usize, taken: u32) -> f64 {
        if row == costs.len() {
            return 0.0;
        }
        let free = (0..costs.len()).filter(|column| taken >> column & 1 == 0);
        free.map(|column| costs[row][column] + least(costs, row + 1, taken | 1 << column)).fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn no_assignment_is_cheaper(n in 0usize..7, numbers in prop::collection::vec(-50i32..50, 49)) {
            let costs: Vec<Vec<f64>> = (0..n).map(|i| numbers[i * 7..i * 7 + n].iter().map(|v| f64::from(*v)).collect()).collect();
            let columns = cheapest(&costs);
            let mut sorted = columns.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            let cost: f64 = columns.iter().enumerate().map(|(row, column)| costs[row][*column]).sum();
            prop_assert_eq!(cost, least(&costs, 0, 0));
        }
    }
}
