//! Conditions in the Common Expression Language (CEL): parsed, their names found, and evaluated.
//!
//! Pure and bounded: no clock, no regular expressions, nothing whose result depends on an order that nobody wrote down, and no
//! input that takes long. The compiler of the document checks with it, the leader evaluates with it, once, and records the result.
//! Start at [`Expression::parse`]. It must never panic and never see a secret.

mod names;
mod values;

use std::sync::Arc;

use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, IdedExpr, Value as Cel};

pub use names::{Fault, Names};
pub use values::{TaskFacts, Values};

/// Longest expression.
pub const EXPRESSION_BYTES_MAX: usize = 1024;
/// Deepest nesting.
const DEPTH_MAX: u16 = 32;
/// Most steps of one evaluation, estimated from above before it begins.
const COST_MAX: u64 = 50_000_000;
/// Longest error text.
const ERROR_CHARS_MAX: usize = 300;

/// An expression that can be evaluated: its syntax is right and it names only what there may be.
#[derive(Debug, Clone)]
pub struct Expression {
    tree: IdedExpr,
    names: Names,
    bytes: usize,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with the byte where it stands, as far as that is known.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let hint = "let a task decide and read its output";
            return Err(vec![Fault::new(0, format!("the condition is longer than {EXPRESSION_BYTES_MAX} bytes"), hint)]);
        }
        if text.contains("${{") {
            let hint = "write inputs.x, not ${{ inputs.x }}: `if` is an expression as a whole";
            return Err(vec![Fault::new(text.find("${{").unwrap_or(0), "`${{ … }}` has no place in a condition".to_owned(), hint)]);
        }
        let tree = PrattParser::new()
            .max_recursion_depth(DEPTH_MAX)
            .error_reporting_limit(5)
            .parse(text)
            .map_err(|errors| syntax(text, &errors))?;
        let names = Names::of(&tree, text)?;
        Ok(Self { tree, names, bytes: text.len() })
    }

    /// What it names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Its result.
    ///
    /// # Errors
    /// Why it has none, in a line for people: something is missing, does not fit, is no boolean, or would take too long.
    pub fn evaluate(&self, values: &Values<'_>) -> Result<bool, String> {
        let cost = self.cost(values);
        if cost > COST_MAX {
            return Err("the condition would take too long on values of this size".to_owned());
        }
        self.names.check_loops(values)?;
        let mut context = Context::with_env(Arc::new(Env::default().with_optional_support(false).with_stdlib()));
        for (name, value) in [("always", true), ("failure", values.failure), ("success", values.success)] {
            context.add_function(name, move || value).map_err(|_| format!("the function {name}() is taken"))?;
        }
        context.add_variable_from_value("inputs", values.inputs(&self.names));
        context.add_variable_from_value("tasks", values.tasks(&self.names));
        // The evaluator is not ours: whatever it falls over is an error of this one condition.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Cel::resolve(&self.tree, &context)));
        match result {
            Ok(Ok(Cel::Bool(result))) => Ok(result),
            Ok(Ok(other)) => Err(format!("the condition gives a value of type {}, not true or false", other.type_of())),
            Ok(Err(error)) => Err(words(&error).chars().take(ERROR_CHARS_MAX).collect()),
            Err(_) => Err("the condition could not be evaluated".to_owned()),
        }
    }

    /// An upper bound of the work: every name may be replaced by all that is known, and each loop may do so for every element.
    fn cost(&self, values: &Values<'_>) -> u64 {
        let (bytes, elements) = values.size(&self.names);
        let (bytes, elements) = (bytes + self.bytes as u64, elements + self.bytes as u64);
        let once = bytes.saturating_mul(self.names.count.max(1));
        if self.names.loops.is_empty() {
            return once;
        }
        let growth = self.names.count.max(2).saturating_pow(self.names.loops.len() as u32);
        once.saturating_mul(growth).saturating_mul(elements)
    }
}

/// The parser's errors with their places.
fn syntax(text: &str, errors: &cel::ParseErrors) -> Vec<Fault> {
    let hint = "for instance: tasks.test.outputs.ok == 'yes' && inputs.env == 'prod'";
    let fault = |error: &cel::ParseError| {
        let message = error.msg.lines().next().unwrap_or("it cannot be read");
        let message: String = message.trim_start_matches("Syntax error: ").chars().take(ERROR_CHARS_MAX).collect();
        let at = offset(text, error.pos);
        Fault::new(at, format!("the condition cannot be read: {message}"), hint)
    };
    let mut faults: Vec<Fault> = errors.errors.iter().take(5).map(fault).collect();
    if faults.is_empty() {
        faults.push(Fault::new(0, "the condition cannot be read".to_owned(), hint));
    }
    faults
}

/// The byte of a line and column, both from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(before..).unwrap_or("");
    let within: usize = rest.chars().take(usize::try_from(column - 1).unwrap_or(0)).map(char::len_utf8).sum();
    before + within
}

/// An error of the evaluation without the values in it: they may be long, and maps have no order.
fn words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => format!("there is no `{name}`"),
        ExecutionError::UndeclaredReference(name) => format!("there is no `{name}`"),
        ExecutionError::NoSuchOverload(error) => error.to_string(),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("`{operator}` does not work on {} and {}", left.type_of(), right.type_of())
        }
        ExecutionError::ValuesNotComparable(left, right) => format!("{} and {} cannot be compared", left.type_of(), right.type_of()),
        ExecutionError::UnexpectedType { got, want } => format!("expected {want}, not {got}"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("`{operator}` leaves the range of whole numbers"),
        ExecutionError::IndexOutOfBounds(_) => "a list has no element at this position".to_owned(),
        ExecutionError::FunctionError { function, message } => format!("{function}(): {message}"),
        ExecutionError::NotSupportedAsMethod { method, target } => format!("{}() does not work on {}", method, target.type_of()),
        ExecutionError::InvalidArgumentCount { expected, actual } => format!("{actual} arguments where {expected} belong"),
        _ => "the values do not fit the condition".to_owned(),
    }
}

#[cfg(test)]
mod tests;
