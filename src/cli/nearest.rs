//! Suggests the known word that was probably meant by an unknown one.

/// The known word that differs least, where a letter added, left out, changed or swapped with
/// its neighbour is one difference. None beyond two differences or a third of the word's length.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known
        .into_iter()
        .map(|known| (distance(word, known), known));
    let (distance, nearest) = known.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance * 3 <= nearest.len()).then_some(nearest)
}

/// The optimal string alignment distance of two words, byte by byte.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // Rows of the matrix: the last but one, the last, and the current one.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = last[j] + usize::from(x != y);
            let mut least = changed.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognized() {
        let known = ["--upstream-host", "--tls", "--tls-ca", "--quiet"];
        for (word, meant) in [
            ("--upsteam-host", Some("--upstream-host")),
            ("--upstream_host", Some("--upstream-host")),
            ("--tsl", Some("--tls")),
            ("--quite", Some("--quiet")),
            ("--nope", None),
            ("--host", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
