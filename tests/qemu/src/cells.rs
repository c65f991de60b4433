//! Few cells out of a large table, such that every combination of any few columns occurs.

use std::collections::HashSet;

/// Random numbers that are the same on every run (xorshift64*).
#[derive(Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The seed must not be zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Which values some columns have: pairs of column and value, in order of columns.
type Combination = Vec<(usize, usize)>;

/// Rows of values such that every combination of values of any `strength` columns is in some row. Column `i` has the
/// values `0..sizes[i]`.
#[must_use]
pub fn covering(sizes: &[usize], strength: usize, random: &mut Seeded) -> Vec<Vec<usize>> {
    const CANDIDATES: usize = 20;
    let columns = choose(sizes.len(), strength);
    let mut missing: Vec<Combination> = columns.iter().flat_map(|columns| values(columns, sizes)).collect();
    let mut rows = Vec::new();
    let mut covered: HashSet<Combination> = HashSet::new();
    while let Some(seed) = missing.pop() {
        if covered.contains(&seed) {
            continue;
        }
        let candidate = |random: &mut Seeded| {
            let mut row: Vec<usize> = sizes.iter().map(|size| random.below(*size)).collect();
            seed.iter().for_each(|(column, value)| row[*column] = *value);
            row
        };
        let of = |row: &[usize]| -> Vec<Combination> {
            columns.iter().map(|columns| columns.iter().map(|c| (*c, row[*c])).collect()).collect()
        };
        let new = |row: &Vec<usize>| of(row).iter().filter(|c| !covered.contains(*c)).count();
        let rows_tried: Vec<Vec<usize>> = (0..CANDIDATES).map(|_| candidate(random)).collect();
        if let Some(best) = rows_tried.into_iter().max_by_key(new) {
            covered.extend(of(&best));
            rows.push(best);
        }
    }
    rows
}

/// All choices of `count` columns out of `columns`.
fn choose(columns: usize, count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let with_last = |last: usize| choose(last, count - 1).into_iter().map(move |c| [c, vec![last]].concat());
    (0..columns).flat_map(with_last).collect()
}

/// All values that these columns can have together.
fn values(columns: &[usize], sizes: &[usize]) -> Vec<Combination> {
    let mut all = vec![vec![]];
    for column in columns {
        all = all
            .iter()
            .flat_map(|c: &Combination| (0..sizes[*column]).map(move |value| [&c[..], &[(*column, value)]].concat()))
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_the_columns_is_in_some_row() {
        let sizes = [2, 3, 4, 2, 3];
        let rows = covering(&sizes, 3, &mut Seeded::new(1));
        for columns in choose(sizes.len(), 3) {
            for combination in values(&columns, &sizes) {
                let holds = |row: &&Vec<usize>| combination.iter().all(|(column, value)| row[*column] == *value);
                assert!(rows.iter().any(|row| holds(&row)), "{combination:?} is in no row");
            }
        }
        assert!(rows.len() < sizes.iter().product::<usize>() / 2, "{} rows", rows.len());
    }
}
