//! Globs as lock names: two meet exactly if there is a path that both match, held against trying all paths of a small world.

use amphi_protocol::overlap::{is_glob, overlaps, problem};

/// A matcher of its own: by trying, character by character and segment by segment.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    segments(&pattern, &path)
}

fn segments(pattern: &[&str], path: &[&str]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|skipped| segments(rest, &path[skipped..])),
        [first, rest @ ..] => !path.is_empty() && characters(first.as_bytes(), path[0].as_bytes()) && segments(rest, &path[1..]),
    }
}

fn characters(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skipped| characters(rest, &text[skipped..])),
        [b'?', rest @ ..] => !text.is_empty() && characters(rest, &text[1..]),
        [b'[', b'!', c, b']', rest @ ..] => !text.is_empty() && text[0] != *c && characters(rest, &text[1..]),
        [b'[', a, b']', rest @ ..] => text.first() == Some(a) && characters(rest, &text[1..]),
        [b'[', a, b, b']', rest @ ..] => text.first().is_some_and(|c| c == a || c == b) && characters(rest, &text[1..]),
        [c, rest @ ..] => text.first() == Some(c) && characters(rest, &text[1..]),
    }
}

/// All texts of one or two letters, and one of three.
fn words() -> Vec<String> {
    let letters = ["a", "b", "c"];
    let mut words: Vec<String> = letters.iter().map(|one| (*one).to_owned()).collect();
    words.extend(letters.iter().flat_map(|one| letters.iter().map(move |two| format!("{one}{two}"))));
    words
}

fn paths() -> Vec<String> {
    let words = words();
    let one: Vec<String> = words.iter().map(|word| format!("file/{word}")).collect();
    let two: Vec<String> = one.iter().flat_map(|start| words.iter().map(move |word| format!("{start}/{word}"))).collect();
    let three: Vec<String> = two.iter().flat_map(|start| words.iter().map(move |word| format!("{start}/{word}"))).collect();
    [one, two, three].concat()
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound) as usize
    }

    fn pattern(&mut self) -> String {
        let atoms = ["a", "b", "?", "*", "[ab]", "[!a]", "[!b]", "[c]"];
        let segment = |chance: &mut Self| match chance.below(5) {
            0 => "**".to_owned(),
            _ => (0..=chance.below(2)).map(|_| atoms[chance.below(atoms.len() as u64)]).collect(),
        };
        let segments: Vec<String> = (0..=self.below(2)).map(|_| segment(self)).collect();
        format!("file/{}", segments.join("/"))
    }
}

#[test]
fn two_globs_meet_exactly_if_a_path_fits_both() {
    let (paths, mut chance, mut met) = (paths(), Chance(1), 0);
    for _ in 0..1_500 {
        let (one, other) = (chance.pattern(), chance.pattern());
        let expected = one == other || paths.iter().any(|path| matches(&one, path) && matches(&other, path));
        assert_eq!(overlaps(&one, &other), expected, "{one} and {other}");
        assert_eq!(overlaps(&other, &one), expected, "{other} and {one}");
        met += u32::from(expected);
    }
    assert!((300..1_200).contains(&met), "both answers were tried: {met}");
}

#[test]
fn a_glob_meets_the_names_that_it_matches() {
    let paths = paths();
    let mut chance = Chance(2);
    for _ in 0..100 {
        let pattern = chance.pattern();
        for path in paths.iter().step_by(7) {
            assert_eq!(overlaps(&pattern, path), matches(&pattern, path) || pattern == *path, "{pattern} and {path}");
        }
    }
}

#[test]
fn what_is_no_path_is_no_glob() {
    assert!(!is_glob("db") && !is_glob("file/a.rs") && is_glob("file/*.rs"));
    assert!(!overlaps("file/**", "db"));
    assert!(overlaps("file/src/**", "file/src/a/b.rs") && overlaps("file/src/**", "file/src") && !overlaps("file/src/**", "file/srcs/a"));
    assert!(overlaps("file/a[0-9].rs", "file/a5.rs") && !overlaps("file/a[0-9].rs", "file/ax.rs") && overlaps("file/[^x]y", "file/zy"));
    assert!(overlaps("file/[9-0]", "file/5"), "the bounds of a range may come in either order");
    assert!(!overlaps("file/[a-c]", "file/[!a-c]") && overlaps("file/é*", "file/?"));
}

#[test]
fn what_cannot_be_read_is_said_in_words() {
    for wrong in ["db/*", "file/[", "file/[]", "file/[!]", "file/[a/b]"] {
        assert!(problem(wrong).is_some(), "{wrong}");
    }
    for right in ["file/*", "file/[!a]", "file/[a-]", "file/**/x", "file/[[]"] {
        assert!(problem(right).is_none(), "{right}");
    }
}
