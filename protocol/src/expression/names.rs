//! Which names an expression uses. Only what the interface promises may be named; anything else is found before it runs.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue};
use serde_json::Value;

use super::Values;

/// Functions of the language that a condition may call.
const FUNCTIONS: &[&str] = &["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "bool", "dyn", "type"];
/// Names of types, for comparison with `type(x)`.
const TYPES: &[&str] = &["bool", "double", "int", "list", "map", "null_type", "string", "uint"];
/// Loops (`exists`, `all`, `filter`, `map`, `exists_one`) of one expression.
const LOOPS_MAX: usize = 3;
/// What there is, for hints.
const KNOWN: &str = "known are inputs.x, tasks.t.outputs.y, tasks.t.state, always(), failure() and success()";

/// Something that is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The byte where it stands.
    pub at: usize,
    /// What.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: String, hint: impl Into<String>) -> Self {
        Self { at, message, hint: hint.into() }
    }
}

/// The names of an expression.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `inputs.x`, possibly deeper, each with the byte where it stands.
    pub inputs: Vec<(Vec<String>, usize)>,
    /// `tasks.t.outputs.y`: task, output, place.
    pub outputs: Vec<(String, String, usize)>,
    /// `tasks.t.state`: task, place.
    pub states: Vec<(String, usize)>,
    /// It calls `always()` or `failure()`, so that it is asked although something before it failed.
    pub after_failure: bool,
    /// Names in all.
    pub(super) count: u64,
    /// What the loops run over; `None` for a list that stands in the expression.
    pub(super) loops: Vec<Option<Vec<String>>>,
}

impl Names {
    pub(super) fn of(tree: &IdedExpr, text: &str) -> Result<Self, Vec<Fault>> {
        let mut walk = Walk { text, names: Self::default(), faults: Vec::new(), bound: Vec::new() };
        walk.expr(tree);
        if walk.names.loops.len() > LOOPS_MAX {
            walk.fault("", format!("the condition has more than {LOOPS_MAX} loops"), "let a task decide and read its output");
        }
        if walk.faults.is_empty() { Ok(walk.names) } else { Err(walk.faults) }
    }

    /// The tasks that are named.
    pub fn tasks(&self) -> BTreeSet<&str> {
        self.outputs.iter().map(|(task, ..)| task.as_str()).chain(self.states.iter().map(|(task, _)| task.as_str())).collect()
    }

    /// An object has no order, so a loop over one could end in several ways.
    pub(super) fn check_loops(&self, values: &Values<'_>) -> Result<(), String> {
        let object = self.loops.iter().flatten().find(|path| values.find(path).is_some_and(Value::is_object));
        match object {
            Some(path) => Err(format!("`{}` is an object; a condition goes through lists only", path.join("."))),
            None => Ok(()),
        }
    }
}

struct Walk<'t> {
    text: &'t str,
    names: Names,
    faults: Vec<Fault>,
    /// Variables of the loops around.
    bound: Vec<String>,
}

impl Walk<'_> {
    /// Where a name stands; the tree does not tell.
    fn place(&self, name: &str) -> usize {
        self.text.find(name).unwrap_or(0)
    }

    fn fault(&mut self, near: &str, message: String, hint: impl Into<String>) {
        let fault = Fault::new(self.place(near), message, hint);
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn expr(&mut self, node: &IdedExpr) {
        if let Some(path) = chain(&node.expr)
            && !self.bound.contains(&path[0])
        {
            return self.path(&path);
        }
        match &node.expr {
            Expr::Literal(_) => {}
            Expr::Ident(_) => self.names.count += 1,
            Expr::Select(select) => self.expr(&select.operand),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter().for_each(|element| self.expr(element)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.expr(&entry.key);
                        self.expr(&entry.value);
                    }
                }
            }
            Expr::Comprehension(inner) => {
                if !self.bound.is_empty() {
                    self.fault(
                        "",
                        "loops inside of loops are not allowed in a condition".to_owned(),
                        "let a task decide and read its output",
                    );
                    return;
                }
                let over = match chain(&inner.iter_range.expr) {
                    Some(path) => Some(path),
                    None if matches!(inner.iter_range.expr, Expr::List(_)) => None,
                    None => {
                        let message = "a loop in a condition goes through an input, an output or a list".to_owned();
                        return self.fault("", message, "for instance: inputs.names.exists(n, n == 'x')");
                    }
                };
                self.names.loops.push(over);
                self.expr(&inner.iter_range);
                self.bound.extend([inner.iter_var.clone(), inner.accu_var.clone()]);
                self.bound.extend(inner.iter_var2.clone());
                for part in [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                    self.expr(part);
                }
                self.bound.clear();
            }
            Expr::Struct(made) => self.fault(&made.type_name, format!("there is no type `{}`", made.type_name), KNOWN),
            Expr::Unspecified => self.fault("", "the condition is empty".to_owned(), KNOWN),
        }
    }

    fn call(&mut self, call: &CallExpr) {
        let name = call.func_name.as_str();
        let is_status = matches!(name, "always" | "failure" | "success");
        let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_status {
            if call.target.is_some() || !call.args.is_empty() {
                self.fault(name, format!("`{name}()` takes nothing"), format!("write `{name}()`"));
            }
            self.names.after_failure |= name != "success";
        } else if !is_operator && !FUNCTIONS.contains(&name) {
            self.fault(
                name,
                format!("there is no function `{name}`"),
                format!("functions are {}, has, exists, all and filter", FUNCTIONS.join(", ")),
            );
        }
        if let Some(target) = &call.target {
            self.expr(target);
        }
        call.args.iter().for_each(|argument| self.expr(argument));
    }

    /// A name with what is selected from it.
    fn path(&mut self, path: &[String]) {
        self.names.count += 1;
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["inputs", _, ..] => {
                let at = self.place(&words[..2].join("."));
                self.names.inputs.push((path[1..].to_vec(), at));
            }
            ["tasks", task, "outputs", output, ..] => {
                let at = self.place(&format!("tasks.{task}.outputs.{output}")).max(self.place(&format!("tasks.{task}")));
                self.names.outputs.push(((*task).to_owned(), (*output).to_owned(), at));
            }
            ["tasks", task, "state"] => {
                let at = self.place(&format!("tasks.{task}.state"));
                self.names.states.push(((*task).to_owned(), at));
            }
            ["inputs"] => self.fault("inputs", "`inputs` alone is no value".to_owned(), "name one: inputs.x"),
            ["tasks", ..] => {
                let message = format!("`{}` is no value", words.join("."));
                self.fault(&words.join("."), message, "a task has tasks.t.outputs.y and tasks.t.state");
            }
            ["matrix", ..] => {
                let message = "`matrix` is not known in a condition: a task decides once for all its runs".to_owned();
                self.fault("matrix", message, "leave runs out with `exclude`");
            }
            ["secrets", ..] => self.fault("secrets", "a condition may not read secrets".to_owned(), KNOWN),
            [single] if TYPES.contains(single) => {}
            [root, ..] => self.fault(root, format!("there is no `{root}`"), KNOWN),
            [] => {}
        }
    }
}

/// `a.b['c']` as its parts, if it is nothing but names.
fn chain(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Ident(name) => Some(vec![name.clone()]),
        Expr::Select(select) => {
            let mut path = chain(&select.operand.expr)?;
            path.push(select.field.clone());
            Some(path)
        }
        Expr::Call(call) if call.func_name == cel::common::ast::operators::INDEX && call.target.is_none() => {
            let [target, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(key)) = &index.expr else { return None };
            let mut path = chain(&target.expr)?;
            path.push(key.inner().to_owned());
            Some(path)
        }
        _ => None,
    }
}
