//! Where the elements of a list were in an earlier one: `None` for those that were not there.

/// The places of an earlier list, of this length, that nothing of the new one was at.
pub fn removed(before: usize, olds: &[Option<usize>]) -> Vec<usize> {
    if olds.iter().flatten().count() == before {
        return Vec::new();
    }
    let mut there = vec![false; before];
    for old in olds.iter().flatten() {
        there[*old] = true;
    }
    (0..before).filter(|old| !there[*old]).collect()
}

/// Which of the records that were there keep their order: as many as possible, a longest increasing
/// subsequence. The others have moved.
pub fn stay_in_order(olds: &[Option<usize>]) -> Vec<bool> {
    let known: Vec<(usize, usize)> = olds
        .iter()
        .enumerate()
        .filter_map(|(new, old)| Some((new, (*old)?)))
        .collect();
    if known.windows(2).all(|pair| pair[0].1 < pair[1].1) {
        return vec![true; olds.len()];
    }
    // For each length the sequence that ends lowest, by the index of its end.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous = vec![None; known.len()];
    for (at, (_, old)) in known.iter().enumerate() {
        let length = ends.partition_point(|end| known[*end].1 < *old);
        previous[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stays = vec![false; olds.len()];
    let mut at = ends.last().copied();
    while let Some(end) = at {
        stays[known[end].0] = true;
        at = previous[end];
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sequence_stays() {
        let olds = [Some(3), None, Some(0), Some(1), Some(4), Some(2)];
        let stays = stay_in_order(&olds);
        assert_eq!(stays, [false, false, true, true, false, true]);
        assert_eq!(stay_in_order(&[None, Some(2), Some(7)]), [true; 3]);
        assert_eq!(stay_in_order(&[]), [false; 0]);
    }

    #[test]
    fn what_is_not_found_again_was_removed() {
        assert_eq!(removed(4, &[Some(3), None, Some(1)]), [0, 2]);
        assert_eq!(removed(2, &[Some(1), None, Some(0)]), [0; 0]);
    }
}
