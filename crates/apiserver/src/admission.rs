//! What a custom kind's schema does to an object: prune, default, validate, and evaluate its CEL rules.

use kube_cel::{CompiledSchema, RootContext, Validator, apply_defaults, compile_schema};
use serde_json::Value;

use crate::error::Cause;
use crate::object::Object;
use crate::schema::{self, Patterns};

/// A version's schema, compiled once per definition.
pub struct Admission {
    pub schema: Value,
    patterns: Patterns,
    rules: CompiledSchema,
    context: RootContext,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("kind", &self.context.kind).finish_non_exhaustive()
    }
}

thread_local! {
    /// The CEL environment: the same for all rules, dear to make, and not shareable between threads.
    static VALIDATOR: Validator = Validator::new();
}

impl Admission {
    pub fn new(schema: Value, group: &str, version: &str, kind: &str) -> Self {
        let context = RootContext { api_version: format!("{group}/{version}"), api_group: group.to_owned(), kind: kind.to_owned() };
        Self { patterns: Patterns::of(&schema), rules: compile_schema(&schema), schema, context }
    }

    /// Removes unknown fields and fills in defaults; yields the paths removed.
    pub fn prune_and_default(&self, object: &mut Object) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut value = Value::Object(std::mem::take(object));
        schema::prune(&self.schema, &mut value, "", true, &mut unknown);
        if let Value::Object(defaulted) = apply_defaults(&self.schema, &value) {
            *object = defaulted;
        }
        unknown
    }

    /// What is wrong with the object as a whole, or with the change from `old` to it.
    pub fn check(&self, object: &Object, old: Option<&Object>) -> Vec<Cause> {
        let value = Value::Object(object.clone());
        let mut causes = Vec::new();
        schema::validate(&self.schema, &self.patterns, &value, "", &mut causes);
        // Rules assume the types that the schema promises.
        if causes.is_empty() {
            let old = old.map(|old| Value::Object(old.clone()));
            let outcome = VALIDATOR
                .with(|validator| validator.validate_compiled_with_context(&self.rules, &value, old.as_ref(), Some(&self.context)));
            if let Err(errors) = outcome {
                for error in errors.into_vec() {
                    causes.push(cause_of(&value, &error));
                }
            }
        }
        causes
    }

    /// Rules that do not compile, as a definition's author must hear of them.
    pub fn broken_rules(&self) -> Vec<String> {
        let mut found = Vec::new();
        gather_broken(&self.rules, "", &mut found);
        found
    }
}

fn gather_broken(rules: &CompiledSchema, path: &str, found: &mut Vec<String>) {
    found.extend(rules.compilation_errors().into_iter().map(|error| format!("{path}: {error}")));
    for (name, child) in &rules.properties {
        gather_broken(child, &format!("{path}.{name}"), found);
    }
    if let Some(items) = &rules.items {
        gather_broken(items, &format!("{path}[]"), found);
    }
}

fn cause_of(object: &Value, error: &kube_cel::ValidationError) -> Cause {
    let field = error.field_path.trim_start_matches('.').to_owned();
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    let value = object.pointer(&pointer).unwrap_or(&Value::Null);
    let reason = match error.reason.as_deref() {
        Some("FieldValueForbidden") => "FieldValueForbidden",
        Some("FieldValueRequired") => "FieldValueRequired",
        Some("FieldValueDuplicate") => "FieldValueDuplicate",
        _ => "FieldValueInvalid",
    };
    match reason {
        "FieldValueForbidden" => Cause::forbidden(field, &error.message),
        "FieldValueRequired" => Cause { message: format!("Required value: {}", error.message), ..Cause::required(field) },
        _ => Cause { reason, ..Cause::invalid(field, value, &error.message) },
    }
}
