//! CEL, the expression language of validation rules and policies, with Kubernetes' libraries.
//!
//! A [`Program`] is compiled once, against the types of its variables, and evaluated against values, as often as is
//! wanted, within a [`Budget`]: an expression that costs too much ends with an error, so that no rule can stop the
//! server. Pure: no clock, no I/O. Knows nothing of custom resources or policies.
//!
//! Own code because the crate `cel` neither checks types when it compiles nor limits what evaluation costs, and because
//! both its parser's positions and Kubernetes' error texts are needed here.

mod ast;
mod authorization; // Asking who may do what.
mod check;
mod cost; // Before anything is evaluated.
mod eval;
mod functions;
mod lexer;
mod macros;
mod operators;
mod parser;
#[cfg(test)]
mod tests;
mod text; // Functions on strings.
mod time; // Timestamps and durations.
mod types;
mod value;
mod vocabulary; // Kubernetes' own types: quantities, addresses, URLs, formats, versions.

pub use authorization::{Access, AccessCheck, Authorize, Decision};
pub use cost::{Extent, MAX_REQUEST_BYTES};
pub use eval::{Budget, Evaluated};
pub use time::parse_duration;
pub use types::{ObjectType, Type};
pub use value::{Key, Value};
pub use vocabulary::{JSON_PATCH, Message, OBJECT, Record, Special};

use ast::Expr;

/// The type of `authorizer`.
pub const AUTHORIZER_TYPE: Type = Type::Special(authorization::AUTHORIZER);

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: Expr,
    variables: Vec<String>,
    result: Type,
}

/// Why an expression does not compile, as `ERROR: <input>:1:5: …` with the line it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
    /// No such key, a division by zero, …
    #[error("{0}")]
    Failed(String),
}

impl Program {
    /// Compiles `source`, in which `variables` are known by name and type.
    pub fn compile(source: &str, variables: &[(&str, Type)]) -> Result<Self, CompileError> {
        Self::make(source, variables, false)
    }

    /// The same where the expression may make patches: `Object{…}`, `JSONPatch{…}` and the library `jsonpatch`.
    pub fn compile_patch(source: &str, variables: &[(&str, Type)]) -> Result<Self, CompileError> {
        Self::make(source, variables, true)
    }

    fn make(source: &str, variables: &[(&str, Type)], makes_patches: bool) -> Result<Self, CompileError> {
        let root = parser::parse(source)?;
        let result = check::check(source, &root, variables, makes_patches)?;
        Ok(Self { root, variables: variables.iter().map(|(name, _)| (*name).to_owned()).collect(), result })
    }

    /// The type of what it evaluates to.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What evaluating it may cost at most, where variables are so large.
    pub fn estimated_cost(&self, variables: &[(&str, Extent)]) -> u64 {
        cost::estimate(&self.root, variables)
    }

    /// Whether the expression speaks of `variable`.
    pub fn uses(&self, variable: &str) -> bool {
        self.root.uses(variable)
    }

    /// Evaluates with the variables' values, in the order in which they were declared.
    pub fn evaluate(&self, values: Vec<Value>, budget: &mut Budget) -> Result<Value, EvalError> {
        let variables = self.variables.iter().cloned().zip(values).collect();
        eval::Evaluation::new(variables, budget).run(&self.root)
    }

    /// The same within `limit` steps, if the budget has them.
    pub fn evaluate_within(
        &self,
        limit: u64,
        values: Vec<Value>,
        budget: &mut Budget,
    ) -> Result<Value, EvalError> {
        let allowed = budget.left().min(limit);
        let mut own = Budget::new(allowed);
        let result = self.evaluate(values, &mut own);
        budget.charge((allowed - own.left()).saturating_add(own.spent_outside()))?;
        result
    }
}

fn failed<T>(text: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(text.into()))
}
