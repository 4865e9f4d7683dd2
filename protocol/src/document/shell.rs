//! Shell texts with references: each reference becomes an environment variable that stays one word of data, or is refused.
//!
//! This is not a shell parser. It follows just enough of POSIX quoting to know, for each reference, whether it stands outside
//! quotes, in double quotes, in single quotes or in a comment. Everywhere else (heredocs, backticks, `$( )`, `${ }`, arithmetic),
//! and wherever shells disagree about what a text means, a reference is refused. It never guesses in favour of acceptance.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::document::texts::{Part, parts};
use crate::document::{Reference, Script};

/// A reference that cannot be put in safely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsafe {
    /// The byte where the reference begins.
    pub at: usize,
    /// Where it stands.
    pub why: &'static str,
}

/// Turns a run text into a script. References that are none are left alone; whoever reads the text reports them.
pub(super) fn script(text: &str) -> Result<Script, Vec<Unsafe>> {
    let mut lexer = Lexer::new(text);
    while lexer.at < text.len() {
        lexer.step();
    }
    lexer.finish()
}

/// True if the script hands text to another shell, where a value would be read once more.
pub(super) fn reads_text_again(text: &str) -> bool {
    let mut words = text
        .split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')' | '`' | '{' | '}'))
        .filter(|word| !word.is_empty());
    let mut before = "";
    words.any(|word| {
        let shell = before.rsplit('/').next().is_some_and(|name| matches!(name, "sh" | "bash" | "dash" | "zsh" | "ksh"));
        let again = word == "eval" || (shell && word.starts_with('-') && !word.starts_with("--") && word.ends_with('c'));
        before = word;
        again
    })
}

/// What surrounds the present position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Command,
    Double,
    Single,
    Comment,
    /// `$( )` with its open parentheses.
    Substitution(u32),
    /// `$(( ))` or `(( ))` with its open parentheses.
    Arithmetic(u32),
    Backtick,
    /// `${ }`, and whether it stands in double quotes.
    Brace {
        quoted: bool,
    },
}

impl Context {
    /// Why a reference in here is refused.
    fn refuses(self) -> Option<&'static str> {
        match self {
            Self::Command | Self::Double | Self::Single | Self::Comment => None,
            Self::Substitution(_) => Some("inside `$( )`"),
            Self::Arithmetic(_) => Some("inside arithmetic"),
            Self::Backtick => Some("inside backticks"),
            Self::Brace { .. } => Some("inside `${ }`"),
        }
    }
}

struct Heredoc {
    delimiter: Vec<u8>,
    strips_tabs: bool,
}

struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    stack: Vec<Context>,
    /// The next character begins a word, so `#` begins a comment.
    word_start: bool,
    /// The character before was a `$` that stands for itself so far.
    dollar: bool,
    heredocs: VecDeque<Heredoc>,
    /// From here on shells may disagree about the quoting.
    doubt: Option<&'static str>,
    /// Begin, end and meaning of each reference, in order; the front is the next one.
    references: VecDeque<(usize, usize, Option<Reference>)>,
    out: String,
    /// Up to here the text is in `out`.
    copied: usize,
    variables: BTreeMap<Reference, String>,
    last: Option<usize>,
    found: Vec<Unsafe>,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str) -> Self {
        let parts = parts(text);
        let ends = parts.iter().skip(1).map(|(start, _)| *start).chain([text.len()]);
        let references = parts.iter().zip(ends).filter_map(|((start, part), end)| match part {
            Part::Reference(reference) => Some((*start, end, reference.clone().ok())),
            Part::Text(_) | Part::Open => None,
        });
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            stack: vec![Context::Command],
            word_start: true,
            dollar: false,
            heredocs: VecDeque::new(),
            doubt: None,
            references: references.collect(),
            out: String::with_capacity(text.len() + 64),
            copied: 0,
            variables: BTreeMap::new(),
            last: None,
            found: Vec::new(),
        }
    }

    fn top(&self) -> Context {
        *self.stack.last().expect("the outermost context is never popped")
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn step(&mut self) {
        if self.references.front().is_some_and(|(start, ..)| *start == self.at) {
            self.reference();
            return;
        }
        let dollar = self.dollar;
        self.dollar = false;
        match self.top() {
            Context::Command | Context::Substitution(_) => self.command(dollar),
            Context::Double => self.double(),
            Context::Single => self.until(b'\''),
            Context::Comment if self.peek(0) == b'\n' => self.pop(),
            Context::Comment => self.at += 1,
            Context::Arithmetic(depth) => self.arithmetic(depth),
            Context::Backtick if self.peek(0) == b'\\' => self.escape(),
            Context::Backtick => self.until(b'`'),
            Context::Brace { quoted } => self.brace(quoted),
        }
    }

    fn pop(&mut self) {
        self.stack.pop();
    }

    fn enter(&mut self, context: Context, width: usize) {
        self.stack.push(context);
        self.at += width;
        self.word_start = matches!(context, Context::Substitution(_));
    }

    fn until(&mut self, end: u8) {
        if self.peek(0) == end {
            self.pop();
            self.word_start = false;
        }
        self.at += 1;
    }

    /// A backslash and what it takes with it. A reference behind it is not taken.
    fn escape(&mut self) {
        if self.references.front().is_some_and(|(start, ..)| *start == self.at + 1) {
            self.dollar = true;
            self.at += 1;
            return;
        }
        if self.peek(1) != b'\n' {
            self.word_start = false;
        }
        self.at += 2;
    }

    /// `$` in a place where expansions happen.
    fn expansion(&mut self) {
        let quoted = matches!(self.top(), Context::Double | Context::Brace { quoted: true });
        match (self.peek(1), self.peek(2)) {
            (b'(', b'(') => self.enter(Context::Arithmetic(2), 3),
            (b'(', _) => self.enter(Context::Substitution(1), 2),
            (b'{', _) => self.enter(Context::Brace { quoted }, 2),
            (b'[', _) => {
                self.doubt = Some("after `$[`, which only some shells know");
                self.at += 1;
            }
            _ => {
                self.dollar = true;
                self.word_start = false;
                self.at += 1;
            }
        }
    }

    fn command(&mut self, dollar: bool) {
        let here = self.peek(0);
        match here {
            b'\\' => self.escape(),
            b'\'' | b'"' => {
                if dollar {
                    self.doubt = Some("after `$'` or `$\"`, which only some shells know");
                }
                self.enter(if here == b'"' { Context::Double } else { Context::Single }, 1);
            }
            b'`' => self.enter(Context::Backtick, 1),
            b'$' => self.expansion(),
            b'#' if self.word_start => self.enter(Context::Comment, 1),
            b'<' if self.peek(1) == b'<' => self.heredoc(),
            b'(' => self.open(),
            b')' => self.close(),
            b'\n' => {
                self.at += 1;
                self.word_start = true;
                self.bodies();
            }
            b' ' | b'\t' | b';' | b'&' | b'|' | b'<' | b'>' => {
                self.at += 1;
                self.word_start = true;
            }
            _ => {
                let case = self.word_start && self.bytes[self.at..].starts_with(b"case") && self.peek(4).is_ascii_whitespace();
                if case && matches!(self.top(), Context::Substitution(_)) {
                    self.doubt = Some("after a `case` inside `$( )`");
                }
                self.word_start = false;
                self.at += 1;
            }
        }
    }

    fn open(&mut self) {
        if self.word_start && self.peek(1) == b'(' {
            self.enter(Context::Arithmetic(2), 2);
            return;
        }
        if let Some(Context::Substitution(depth)) = self.stack.last_mut() {
            *depth += 1;
        }
        self.word_start = true;
        self.at += 1;
    }

    fn close(&mut self) {
        self.at += 1;
        self.word_start = true;
        match self.stack.last_mut() {
            Some(Context::Substitution(1)) => {
                self.pop();
                self.word_start = false;
            }
            Some(Context::Substitution(depth)) => *depth -= 1,
            _ => {}
        }
    }

    fn double(&mut self) {
        match self.peek(0) {
            b'\\' => self.escape(),
            b'`' => self.enter(Context::Backtick, 1),
            b'$' => self.expansion(),
            _ => self.until(b'"'),
        }
    }

    fn arithmetic(&mut self, depth: u32) {
        match self.peek(0) {
            b'\\' => self.escape(),
            b'`' => self.enter(Context::Backtick, 1),
            b'$' => self.expansion(),
            b'\'' | b'"' | b'#' | b'<' if self.peek(0) != b'<' || self.peek(1) == b'<' => {
                // Only a problem if this is a `$( ( … ) )` after all, in which these mean something else.
                self.doubt = Some("after `((` with quotes, `#` or `<<` in it");
                self.at += 1;
            }
            b'(' => {
                self.set_arithmetic(depth + 1);
                self.at += 1;
            }
            b')' => {
                if depth == 2 && self.peek(1) != b')' {
                    self.doubt = Some("after `((` that does not end with `))`");
                }
                self.at += 1;
                if depth == 1 {
                    self.pop();
                    self.word_start = false;
                } else {
                    self.set_arithmetic(depth - 1);
                }
            }
            _ => self.at += 1,
        }
    }

    fn set_arithmetic(&mut self, depth: u32) {
        if let Some(top) = self.stack.last_mut() {
            *top = Context::Arithmetic(depth);
        }
    }

    fn brace(&mut self, quoted: bool) {
        match self.peek(0) {
            b'\\' => self.escape(),
            b'`' => self.enter(Context::Backtick, 1),
            b'$' => self.expansion(),
            b'\'' | b'"' if quoted => {
                self.doubt = Some("after quotes inside a quoted `${ }`");
                self.at += 1;
            }
            b'\'' => self.enter(Context::Single, 1),
            b'"' => self.enter(Context::Double, 1),
            _ => self.until(b'}'),
        }
    }

    /// `<<WORD`, `<<-WORD`; `<<<` has no body.
    fn heredoc(&mut self) {
        self.word_start = true;
        if self.peek(2) == b'<' {
            self.at += 3;
            return;
        }
        self.at += 2;
        let strips_tabs = self.peek(0) == b'-';
        if strips_tabs {
            self.at += 1;
        }
        while matches!(self.peek(0), b' ' | b'\t') {
            self.at += 1;
        }
        let mut delimiter = Vec::new();
        let mut quote = 0;
        while self.at < self.bytes.len() {
            if self.references.front().is_some_and(|(start, ..)| *start == self.at) {
                self.refuse("as the end mark of a heredoc");
                continue;
            }
            match (quote, self.peek(0)) {
                (0, b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')') => break,
                (0, q @ (b'\'' | b'"')) => quote = q,
                (0, b'\\') => {
                    self.at += 1;
                    delimiter.push(self.peek(0));
                }
                (q, c) if q == c => quote = 0,
                (_, c) => {
                    if matches!(c, b'$' | b'`' | b'\\' | b'\n') {
                        self.doubt = Some("after a heredoc with an unusual end mark");
                    }
                    delimiter.push(c);
                }
            }
            self.at += 1;
        }
        self.word_start = false;
        self.heredocs.push_back(Heredoc { delimiter, strips_tabs });
    }

    /// Skips the bodies of the heredocs that the line before announced.
    fn bodies(&mut self) {
        while let Some(heredoc) = self.heredocs.pop_front() {
            while self.at < self.bytes.len() {
                let end = self.bytes[self.at..].iter().position(|b| *b == b'\n').map_or(self.bytes.len(), |length| self.at + length);
                let mut line = &self.bytes[self.at..end];
                if heredoc.strips_tabs {
                    line = &line[line.iter().take_while(|b| **b == b'\t').count()..];
                }
                let is_end = line == heredoc.delimiter;
                if !is_end && self.stack.len() > 1 && line.starts_with(&heredoc.delimiter) {
                    self.doubt = Some("after a heredoc inside `$( )` whose end is not alone on its line");
                }
                while self.references.front().is_some_and(|(start, ..)| *start < end) {
                    let (start, ..) = self.references[0];
                    self.at = start;
                    self.refuse("inside a heredoc");
                }
                self.at = self.at.max((end + 1).min(self.bytes.len()));
                if is_end {
                    break;
                }
            }
        }
    }

    /// Takes the reference at this position.
    fn reference(&mut self) {
        let inside = self.stack.iter().rev().find_map(|context| context.refuses());
        let why = inside.or(self.doubt).or(self.dollar.then_some("behind a `$` or a backslash"));
        self.dollar = false;
        if let Some(why) = why {
            self.refuse(why);
            return;
        }
        let (start, end, reference) = self.references.pop_front().expect("a reference stands here");
        self.at = end;
        self.word_start = false;
        let Some(reference) = reference else { return };
        self.last = Some(start);
        let next = format!("AMPHI_V{}", self.variables.len() + 1);
        let variable = self.variables.entry(reference).or_insert(next).clone();
        self.out.push_str(&self.text[self.copied..start]);
        self.copied = end;
        match self.top() {
            Context::Double | Context::Comment => self.out.push_str(&format!("${{{variable}}}")),
            Context::Single => self.out.push_str(&format!("'\"${{{variable}}}\"'")),
            _ => self.out.push_str(&format!("\"${{{variable}}}\"")),
        }
    }

    fn refuse(&mut self, why: &'static str) {
        if let Some((at, end, _)) = self.references.pop_front() {
            self.found.push(Unsafe { at, why });
            self.at = end;
            self.word_start = false;
        }
    }

    fn finish(mut self) -> Result<Script, Vec<Unsafe>> {
        if let Some(at) = self.last
            && !matches!(self.top(), Context::Command | Context::Comment)
        {
            self.found.push(Unsafe { at, why: "in a text whose quotes or brackets are never closed" });
        }
        if !self.found.is_empty() {
            return Err(self.found);
        }
        self.out.push_str(&self.text[self.copied..]);
        let variables = self.variables.into_iter().map(|(reference, variable)| (variable, reference)).collect();
        Ok(Script { text: self.out, variables })
    }
}
