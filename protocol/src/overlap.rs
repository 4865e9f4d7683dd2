//! Lock names that are patterns: `file/src/*.rs` stands for every path that it matches, and meets whatever shares one with it.
//!
//! Below `file/` a name is a glob if it holds `*`, `?` or `[`. `*` is any text within a segment, `?` one character, `[a-z]` and `[!a-z]`
//! (or `[^a-z]`) one of a class, and a segment `**` any number of segments, none included. A leading dot is a character like any other.
//! Whether two globs meet is decided exactly: both are small automata, and a pair of places that can be reached at the end of both is a
//! path that both match. Pure; the core and the checker use the same definition.

/// Names below this are paths.
const PATHS: &str = "file/";
/// Characters of a resource: no control characters, no surrogates, and `/` only between segments.
const UNIVERSE: [(u32, u32); 4] = [(0x20, 0x2e), (0x30, 0x7e), (0xa0, 0xd7ff), (0xe000, 0x0010_ffff)];

/// Characters, as ranges.
type Class = Vec<(u32, u32)>;

/// A part of a pattern.
enum Token<T> {
    /// Any number of anything.
    Many,
    /// One that fits.
    One(T),
}

/// True if the name stands for all paths that it matches.
pub fn is_glob(name: &str) -> bool {
    name.starts_with(PATHS) && has_marks(name)
}

/// True if the text holds a character that means something in a glob.
pub fn has_marks(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The text before the first mark.
pub fn literal_text(name: &str) -> &str {
    &name[..name.find(['*', '?', '[']).unwrap_or(name.len())]
}

/// What every path that the name matches begins with.
pub fn literal_prefix(name: &str) -> &str {
    let literal = literal_text(name);
    // `a/**` matches `a` too.
    if name[literal.len()..].starts_with("**") { literal.strip_suffix('/').unwrap_or(literal) } else { literal }
}

/// What is wrong with a lock's name, in words; `None` if it can be used.
pub fn name_problem(name: &str) -> Option<&'static str> {
    if let Some(problem) = has_marks(name).then(|| problem(name)).flatten() {
        return Some(problem);
    }
    if name.trim() != name {
        return Some("it begins or ends with a space");
    }
    let is_strange = name.starts_with(PATHS) && name.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    is_strange.then_some("a path below `file/` has no empty, `.` or `..` parts")
}

/// What is wrong with a glob, in words; `None` if it can be used.
pub fn problem(name: &str) -> Option<&'static str> {
    if !name.starts_with(PATHS) {
        return Some("globs are for paths below `file/`");
    }
    name.split('/').find_map(|segment| {
        let mut rest = segment;
        while let Some(start) = rest.find('[') {
            match class(&rest[start..]) {
                Some((_, length)) => rest = &rest[start + length..],
                None => return Some("a class `[…]` needs a `]`, at least one character, and no `/`"),
            }
        }
        None
    })
}

/// True if one path fits both names. A name that is no glob fits itself.
pub fn overlaps(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let are_paths = one.starts_with(PATHS) && other.starts_with(PATHS);
    if !are_paths || !(has_marks(one) || has_marks(other)) {
        return false;
    }
    let (before, after) = (literal_prefix(one), literal_prefix(other));
    let whole = |name: &str, literal: &str| name.len() == literal.len();
    let may = match before.len() <= after.len() {
        true => after.starts_with(before) && !(whole(one, before) && before != after),
        false => before.starts_with(after) && !(whole(other, after) && before != after),
    };
    may && meet(&path(one), &path(other), &|one, other| meet(one, other, &share))
}

fn path(name: &str) -> Vec<Token<Vec<Token<Class>>>> {
    name.split('/').map(|part| if part == "**" { Token::Many } else { Token::One(segment(part)) }).collect()
}

fn segment(text: &str) -> Vec<Token<Class>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (token, length) = match c {
            '*' => (Token::Many, 1),
            '?' => (Token::One(UNIVERSE.to_vec()), 1),
            // A bracket that opens no class was refused with the document; here it is a character.
            '[' => class(rest).map_or((Token::One(vec![(u32::from(c), u32::from(c))]), 1), |(class, length)| (Token::One(class), length)),
            _ => (Token::One(vec![(u32::from(c), u32::from(c))]), c.len_utf8()),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
    tokens
}

/// The class at the start of the text, and how long it is. The bounds of a range may come in either order.
fn class(text: &str) -> Option<(Class, usize)> {
    let end = text.find(']')?;
    let inner = &text[1..end];
    let (negated, members) = match inner.strip_prefix(['!', '^']) {
        Some(members) => (true, members),
        None => (false, inner),
    };
    let members: Vec<u32> = members.chars().map(u32::from).collect();
    if members.is_empty() {
        return None;
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        let low = members[at];
        if members.get(at + 1) == Some(&u32::from('-')) && at + 2 < members.len() {
            ranges.push((low.min(members[at + 2]), low.max(members[at + 2])));
            at += 3;
        } else {
            ranges.push((low, low));
            at += 1;
        }
    }
    let class = if negated { without(&ranges) } else { within(&ranges) };
    Some((class, end + 1))
}

fn within(ranges: &[(u32, u32)]) -> Class {
    let both = |(low, high): &(u32, u32)| UNIVERSE.map(|(from, to)| ((*low).max(from), (*high).min(to)));
    ranges.iter().flat_map(both).filter(|(low, high)| low <= high).collect()
}

fn without(ranges: &[(u32, u32)]) -> Class {
    let mut left = UNIVERSE.to_vec();
    for (low, high) in ranges {
        let cut = |(from, to): (u32, u32)| {
            let below = (from, to.min(low.saturating_sub(1)));
            let above = (from.max(high.saturating_add(1)), to);
            if *high < from || *low > to { [(from, to), (1, 0)] } else { [below, above] }
        };
        left = left.into_iter().flat_map(cut).filter(|(from, to)| from <= to).collect();
    }
    left
}

fn share(one: &Class, other: &Class) -> bool {
    one.iter().any(|(low, high)| other.iter().any(|(from, to)| low.max(from) <= high.min(to)))
}

/// True if some sequence fits both patterns: the end of both is reached, one thing after the other.
fn meet<T>(one: &[Token<T>], other: &[Token<T>], fit: &dyn Fn(&T, &T) -> bool) -> bool {
    let width = other.len() + 1;
    let mut seen = vec![false; (one.len() + 1) * width];
    let mut open = vec![(0, 0)];
    while let Some((i, j)) = open.pop() {
        if std::mem::replace(&mut seen[i * width + j], true) {
            continue;
        }
        match (one.get(i), other.get(j)) {
            (None, None) => return true,
            (Some(Token::Many), Some(Token::Many)) => open.extend([(i + 1, j), (i, j + 1)]),
            (Some(Token::Many), None) => open.push((i + 1, j)),
            (None, Some(Token::Many)) => open.push((i, j + 1)),
            (Some(Token::Many), Some(Token::One(thing))) => {
                open.push((i + 1, j));
                open.extend(fit(thing, thing).then_some((i, j + 1)));
            }
            (Some(Token::One(thing)), Some(Token::Many)) => {
                open.push((i, j + 1));
                open.extend(fit(thing, thing).then_some((i + 1, j)));
            }
            (Some(Token::One(mine)), Some(Token::One(its))) => open.extend(fit(mine, its).then_some((i + 1, j + 1))),
            (Some(Token::One(_)), None) | (None, Some(Token::One(_))) => {}
        }
    }
    false
}
