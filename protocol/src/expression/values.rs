//! What the names of an expression stand for. Only what is named is handed to the evaluator.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::Value as Cel;
use serde_json::Value;

use super::Names;

/// What is known of a task when the condition is evaluated.
#[derive(Debug, Clone)]
pub struct TaskFacts<'v> {
    /// The word for its state.
    pub state: &'static str,
    /// Its outputs, if it has succeeded.
    pub outputs: Option<&'v BTreeMap<String, Value>>,
}

/// What the names stand for.
#[derive(Debug, Clone)]
pub struct Values<'v> {
    /// The epic's inputs.
    pub inputs: &'v BTreeMap<String, Value>,
    /// The tasks that are named.
    pub tasks: BTreeMap<String, TaskFacts<'v>>,
    /// What `success()` says.
    pub success: bool,
    /// What `failure()` says.
    pub failure: bool,
}

impl Values<'_> {
    /// The value behind a path that begins with `inputs` or `tasks`.
    pub(super) fn find(&self, path: &[String]) -> Option<&Value> {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let (value, rest) = match words.as_slice() {
            ["inputs", name, rest @ ..] => (self.inputs.get(*name)?, rest),
            ["tasks", task, "outputs", output, rest @ ..] => (self.tasks.get(*task)?.outputs?.get(*output)?, rest),
            _ => return None,
        };
        rest.iter().try_fold(value, |value, key| value.get(key))
    }

    fn named<'n>(&'n self, names: &'n Names) -> impl Iterator<Item = &'n Value> {
        let inputs = names.inputs.iter().filter_map(|(path, _)| self.inputs.get(&path[0]));
        let outputs = names.outputs.iter().filter_map(|(task, output, _)| self.tasks.get(task)?.outputs?.get(output));
        inputs.chain(outputs)
    }

    /// Bytes and elements of everything that is named.
    pub(super) fn size(&self, names: &Names) -> (u64, u64) {
        self.named(names).map(measure).fold((0, 0), |(bytes, elements), (more, others)| (bytes + more, elements + others))
    }

    pub(super) fn inputs(&self, names: &Names) -> Cel {
        let named = names.inputs.iter().filter_map(|(path, _)| Some((path[0].clone(), to_cel(self.inputs.get(&path[0])?))));
        Cel::from(named.collect::<HashMap<String, Cel>>())
    }

    pub(super) fn tasks(&self, names: &Names) -> Cel {
        let task = |name: &str| {
            let facts = self.tasks.get(name);
            let outputs = names.outputs.iter().filter(|(task, ..)| task == name);
            let outputs = outputs.filter_map(|(_, output, _)| Some((output.clone(), to_cel(facts?.outputs?.get(output)?))));
            let outputs = Cel::from(outputs.collect::<HashMap<String, Cel>>());
            let state = Cel::String(Arc::new(facts.map_or("blocked", |facts| facts.state).to_owned()));
            (name.to_owned(), Cel::from(HashMap::from([("state".to_owned(), state), ("outputs".to_owned(), outputs)])))
        };
        Cel::from(names.tasks().into_iter().map(task).collect::<HashMap<String, Cel>>())
    }
}

/// Bytes and elements of a value.
fn measure(value: &Value) -> (u64, u64) {
    let all = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(measure).fold((8, 1), |(bytes, elements), (more, others)| (bytes + more, elements + others + 1))
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => (8, 1),
        Value::String(text) => (text.len() as u64 + 8, 1),
        Value::Array(items) => all(&mut items.iter()),
        Value::Object(map) => all(&mut map.values()),
    }
}

/// Whole numbers are `int` where they fit: `inputs.n + 1` must not depend on the sign.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Cel::Int(whole),
            (None, Some(large)) => Cel::UInt(large),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => Cel::from(map.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect::<HashMap<String, Cel>>()),
    }
}
