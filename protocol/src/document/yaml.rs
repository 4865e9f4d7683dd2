//! YAML (and JSON, which is YAML) as a tree in which every node knows its place.
//!
//! The tree is bounded: bytes, depth, nodes, and what aliases add are counted, so no text of a permitted size can cost more than a
//! permitted amount of work. Start at [`parse`].

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Number, Value};

use crate::api::ErrorCode;
use crate::document::Limits;

/// A place in the text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar as it was written and as it is meant.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    /// The text, escapes resolved.
    pub text: String,
    pub class: Class,
    /// A literal block: its lines are lines of the document.
    pub literal: bool,
}

/// The core schema's reading of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Null,
    Boolean(bool),
    Integer,
    Number,
    /// `.nan`, `.inf`: has no place in JSON.
    NotFinite,
    Text,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// Why a text is no tree.
#[derive(Debug)]
pub(super) struct Refused {
    pub place: Place,
    pub code: ErrorCode,
    pub message: String,
    pub hint: Option<&'static str>,
}

impl Refused {
    fn new(place: Place, code: ErrorCode, message: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self { place, code, message: message.into(), hint }
    }
}

/// Nodes of one document, without what aliases add.
const NODES_MAX: usize = 2_000_000;
/// Duplicate keys that are told apart.
const DUPLICATES_MAX: usize = 200;
/// Nodes that all aliases together may add.
const ALIAS_NODES_MAX: usize = 100_000;
/// Text that all aliases together may add.
const ALIAS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Reads one document. Duplicate keys are reported in `duplicates` and the first one counts, so that the rest can be checked too.
pub(super) fn parse(source: &str, limits: &Limits, duplicates: &mut Vec<Refused>) -> Result<Node, Refused> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: limits.depth + 1,
        block_nesting_limit: limits.depth + 1,
        disallow_directives: false,
        emit_unresolved_aliases: true,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::new(limits, duplicates);
    for next in Parser::new_from_str_with_options(source, options) {
        let (event, span) = next.map_err(|error| scan_refused(&error, limits))?;
        builder.take(event, &span)?;
    }
    match builder.root {
        Some(root) => Ok(root),
        None => Err(Refused::new(Place::START, ErrorCode::EpicSyntax, "the document is empty", None)),
    }
}

fn place(span: &Span) -> Place {
    Place { line: u32::try_from(span.start.line()).unwrap_or(u32::MAX), column: u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX) }
}

fn scan_refused(error: &ScanError, limits: &Limits) -> Refused {
    let mark = error.marker();
    let at = place(&Span::new(*mark, *mark));
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return depth_refused(at, limits);
    }
    let hint = match error.kind() {
        ErrorKind::TabInPlainScalar => Some("YAML is indented with spaces, never with tabs"),
        _ => None,
    };
    Refused::new(at, ErrorCode::EpicSyntax, error.info(), hint)
}

fn depth_refused(at: Place, limits: &Limits) -> Refused {
    Refused::new(at, ErrorCode::EpicLimit, format!("the document is nested deeper than {} levels", limits.depth), None)
}

/// A list or mapping that is still open.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Place)>,
    /// Keys so far, for mappings that are not tiny.
    seen: HashMap<String, u32>,
    cost: Cost,
}

/// What a subtree would add if it were copied.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Cost {
    fn add(&mut self, child: Self) {
        self.nodes += child.nodes;
        self.bytes += child.bytes;
        self.depth = self.depth.max(child.depth + 1);
    }
}

struct Builder<'b> {
    limits: &'b Limits,
    duplicates: &'b mut Vec<Refused>,
    stack: Vec<Open>,
    root: Option<Node>,
    documents: u32,
    nodes: usize,
    alias: Cost,
    anchors: HashMap<usize, (Node, Cost)>,
}

impl<'b> Builder<'b> {
    fn new(limits: &'b Limits, duplicates: &'b mut Vec<Refused>) -> Self {
        Self { limits, duplicates, stack: Vec::new(), root: None, documents: 0, nodes: 0, alias: Cost::default(), anchors: HashMap::new() }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Refused> {
        let at = place(span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Refused::new(
                        at,
                        ErrorCode::EpicSyntax,
                        "there is a second document after `---`",
                        Some("put each epic into its own file"),
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let class = classify(&text, style, tag.as_deref(), at)?;
                let cost = Cost { nodes: 1, bytes: text.len(), depth: 0 };
                let literal = style == ScalarStyle::Literal;
                let node = Node { place: at, kind: Kind::Scalar(Scalar { text: text.into_owned(), class, literal }) };
                self.count(at)?;
                self.keep(anchor, &node, cost, at)?;
                self.put(node, cost)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Kind::List(Vec::new()), anchor, tag.as_deref(), "seq", at),
            Event::MappingStart(_, anchor, tag) => self.open(Kind::Map(Vec::new()), anchor, tag.as_deref(), "map", at),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::UnresolvedAlias(name) => {
                let name: String = name.chars().take(64).collect();
                Err(Refused::new(at, ErrorCode::EpicSyntax, format!("there is no anchor `&{name}` before this alias"), None))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, at: Place) -> Result<(), Refused> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Refused::new(at, ErrorCode::EpicLimit, format!("the document has more than {NODES_MAX} values"), None));
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, anchor: usize, tag: Option<&Tag>, plain: &str, at: Place) -> Result<(), Refused> {
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema_tag(plain)) {
            return Err(tag_refused(at));
        }
        if self.stack.len() >= self.limits.depth {
            return Err(depth_refused(at, self.limits));
        }
        if matches!(self.stack.last(), Some(Open { node: Node { kind: Kind::Map(_), .. }, key: None, .. })) {
            return Err(Refused::new(at, ErrorCode::EpicSyntax, "a list or mapping cannot be a key", None));
        }
        self.count(at)?;
        let cost = Cost { nodes: 1, bytes: 0, depth: 1 };
        self.stack.push(Open { node: Node { place: at, kind }, anchor, key: None, seen: HashMap::new(), cost });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Refused> {
        let open = self.stack.pop().expect("the parser closes only what it opened");
        let at = open.node.place;
        self.keep(open.anchor, &open.node, open.cost, at)?;
        self.put(open.node, open.cost)
    }

    /// Remembers an anchored value. A copy is kept, so it costs what an alias costs.
    fn keep(&mut self, anchor: usize, node: &Node, cost: Cost, at: Place) -> Result<(), Refused> {
        if anchor == 0 {
            return Ok(());
        }
        self.spend(cost, at)?;
        self.anchors.insert(anchor, (node.clone(), cost));
        Ok(())
    }

    fn spend(&mut self, cost: Cost, at: Place) -> Result<(), Refused> {
        self.alias.nodes += cost.nodes;
        self.alias.bytes += cost.bytes;
        if self.alias.nodes > ALIAS_NODES_MAX || self.alias.bytes > ALIAS_BYTES_MAX {
            return Err(Refused::new(
                at,
                ErrorCode::EpicLimit,
                "anchors and aliases blow the document up too far",
                Some("write the values out, or use `defaults` and `matrix`"),
            ));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), Refused> {
        let Some((_, cost)) = self.anchors.get(&anchor) else {
            return Err(Refused::new(at, ErrorCode::EpicSyntax, "the alias stands inside its own anchor", None));
        };
        let cost = *cost;
        if self.stack.len() + cost.depth > self.limits.depth {
            return Err(depth_refused(at, self.limits));
        }
        self.spend(cost, at)?;
        let mut node = self.anchors[&anchor].0.clone();
        node.place = at;
        self.put(node, cost)
    }

    fn put(&mut self, node: Node, cost: Cost) -> Result<(), Refused> {
        let Some(open) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        open.cost.add(cost);
        match &mut open.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => match open.key.take() {
                None => {
                    let Kind::Scalar(scalar) = node.kind else {
                        return Err(Refused::new(node.place, ErrorCode::EpicSyntax, "a list or mapping cannot be a key", None));
                    };
                    open.key = Some((scalar.text, node.place));
                }
                Some((key, at)) => match open.seen.get(&key) {
                    Some(_) if self.duplicates.len() >= DUPLICATES_MAX => {}
                    Some(line) => {
                        let shown = super::report::shown(&key);
                        let message = format!("the key `{shown}` stands here for the second time, first in line {line}");
                        self.duplicates.push(Refused::new(at, ErrorCode::EpicSyntax, message, None));
                    }
                    None => {
                        open.seen.insert(key.clone(), at.line);
                        entries.push(Entry { key, place: at, value: node });
                    }
                },
            },
            Kind::Scalar(_) => unreachable!("only lists and mappings are opened"),
        }
        Ok(())
    }
}

fn tag_refused(at: Place) -> Refused {
    Refused::new(at, ErrorCode::EpicSyntax, "tags such as `!x` mean nothing here", Some("leave the tag out"))
}

fn classify(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Place) -> Result<Class, Refused> {
    if text.contains('\0') {
        return Err(Refused::new(at, ErrorCode::EpicSyntax, "a text cannot hold a NUL character", None));
    }
    if let Some(tag) = tag {
        if tag.is_yaml_core_schema_tag("str") || tag.suffix().is_empty() || tag.suffix() == "!" {
            return Ok(Class::Text);
        }
        let class = plain_class(text);
        let fits = match class {
            Class::Null => tag.is_yaml_core_schema_tag("null"),
            Class::Boolean(_) => tag.is_yaml_core_schema_tag("bool"),
            Class::Integer => tag.is_yaml_core_schema_tag("int") || tag.is_yaml_core_schema_tag("float"),
            Class::Number | Class::NotFinite => tag.is_yaml_core_schema_tag("float"),
            Class::Text => false,
        };
        return if fits { Ok(class) } else { Err(tag_refused(at)) };
    }
    Ok(if style == ScalarStyle::Plain { plain_class(text) } else { Class::Text })
}

/// The core schema of YAML 1.2.
fn plain_class(text: &str) -> Class {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Class::Null,
        "true" | "True" | "TRUE" => return Class::Boolean(true),
        "false" | "False" | "FALSE" => return Class::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return Class::NotFinite,
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Class::NotFinite;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(unsigned) || unsigned.strip_prefix("0x").is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Class::Integer;
    }
    if unsigned.strip_prefix("0o").is_some_and(|octal| !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b))) {
        return Class::Integer;
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(position) => (&unsigned[..position], Some(&unsigned[position + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let optional_digits = |text: &str| text.is_empty() || digits(text);
    let number = optional_digits(whole)
        && optional_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    if number { Class::Number } else { Class::Text }
}

impl Scalar {
    /// A whole number, if it is one and fits.
    pub(super) fn integer(&self) -> Option<i128> {
        if self.class != Class::Integer {
            return None;
        }
        let (sign, rest) = match self.text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, self.text.strip_prefix('+').unwrap_or(&self.text)),
        };
        let value = if let Some(hex) = rest.strip_prefix("0x") {
            i128::from_str_radix(hex, 16)
        } else if let Some(octal) = rest.strip_prefix("0o") {
            i128::from_str_radix(octal, 8)
        } else {
            rest.parse()
        };
        value.ok().map(|value| sign * value)
    }

    /// As JSON; `None` for numbers that JSON has no place for.
    pub(super) fn json(&self) -> Option<Value> {
        match self.class {
            Class::Null => Some(Value::Null),
            Class::Boolean(value) => Some(Value::Bool(value)),
            Class::Text => Some(Value::String(self.text.clone())),
            Class::NotFinite => None,
            Class::Integer => match self.integer() {
                Some(value) => Number::from_i128(value).map(Value::Number),
                None => None,
            },
            Class::Number => self.text.parse().ok().and_then(Number::from_f64).map(Value::Number),
        }
    }
}

impl Node {
    /// Roughly what a copy takes in memory, in bytes. Depth is bounded by the parser.
    pub(super) fn cost(&self) -> usize {
        const NODE_BYTES: usize = 64;
        let inside: usize = match &self.kind {
            Kind::Scalar(scalar) => scalar.text.len(),
            Kind::List(items) => items.iter().map(Self::cost).sum(),
            Kind::Map(entries) => entries.iter().map(|entry| entry.key.len() + entry.value.cost()).sum(),
        };
        NODE_BYTES + inside
    }

    /// True for `null`, `~` and nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.class == Class::Null)
    }

    /// The word for what this is, for messages.
    pub(super) fn class(&self) -> &'static str {
        match &self.kind {
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Scalar(scalar) => match scalar.class {
                Class::Null => "nothing",
                Class::Boolean(_) => "a boolean",
                Class::Integer | Class::Number => "a number",
                Class::NotFinite => "not a finite number",
                Class::Text => "a text",
            },
        }
    }

    /// As JSON, or the place of the first value that JSON has no room for. Depth is bounded by the parser.
    pub(super) fn json(&self) -> Result<Value, Place> {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.json().ok_or(self.place),
            Kind::List(items) => items.iter().map(Self::json).collect::<Result<Vec<_>, _>>().map(Value::Array),
            Kind::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    map.insert(entry.key.clone(), entry.value.json()?);
                }
                Ok(Value::Object(map))
            }
        }
    }
}
