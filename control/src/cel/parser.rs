//! From text to expressions: a recursive descent with a limit.

use super::{
    CompileError, Value,
    ast::{Expr, Macro, MacroCall, Node},
    lexer::{self, Token},
};

/// Levels that an expression may have.
const MAX_DEPTH: usize = 80;

/// Words that are no names.
const RESERVED: [&str; 16] = [
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
    "return", "var", "void", "while",
];

pub fn parse(source: &str) -> Result<Expr, CompileError> {
    let tokens = lexer::tokens(source)?;
    let mut parser = Parser { source, tokens, next: 0, depth: 0 };
    let root = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(root),
        other => {
            let text = format!("Syntax error: mismatched input '{}' expecting <EOF>", shown(other));
            Err(parser.error(&text))
        }
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Literal(value) => value.to_string(),
        Token::Sign(sign) => (*sign).into(),
        Token::End => "<EOF>".into(),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Expr, CompileError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    fn error(&self, text: &str) -> CompileError {
        lexer::error(self.source, self.at(), text)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    /// Takes `sign` if it is next.
    fn takes(&mut self, sign: &str) -> bool {
        let is_next = self.is(sign);
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &str) -> Result<(), CompileError> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self
            .error(&format!("Syntax error: mismatched input '{}' expecting '{sign}'", shown(self.peek()))))
    }

    fn name(&mut self) -> Result<String, CompileError> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            other => Err(self
                .error(&format!("Syntax error: mismatched input '{}' expecting IDENTIFIER", shown(other)))),
        }
    }

    /// Makes a node, unless it has too many levels.
    fn make(&self, at: usize, node: Node) -> Parsed {
        let mut expr = Expr { at, depth: 0, node };
        expr.depth = 1 + expr.children().into_iter().map(|child| child.depth).max().unwrap_or(0);
        if expr.depth > MAX_DEPTH {
            return Err(self.error(&format!("expression recursion limit exceeded: {MAX_DEPTH}")));
        }
        Ok(expr)
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(&format!("expression recursion limit exceeded: {MAX_DEPTH}")));
        }
        let condition = self.any()?;
        let at = self.at();
        let result = if self.takes("?") {
            let yes = self.any()?;
            self.expect(":")?;
            let no = self.expression()?;
            self.make(at, Node::Choice(Box::new([condition, yes, no])))
        } else {
            Ok(condition)
        };
        self.depth -= 1;
        result
    }

    fn any(&mut self) -> Parsed {
        let at = self.at();
        let mut parts = vec![self.all()?];
        while self.takes("||") {
            parts.push(self.all()?);
        }
        self.join(at, parts, Node::Or)
    }

    fn all(&mut self) -> Parsed {
        let at = self.at();
        let mut parts = vec![self.relation()?];
        while self.takes("&&") {
            parts.push(self.relation()?);
        }
        self.join(at, parts, Node::And)
    }

    fn join(&self, at: usize, mut parts: Vec<Expr>, make: fn(Vec<Expr>) -> Node) -> Parsed {
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => self.make(at, make(parts)),
        }
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let at = self.at();
            let sign = match self.peek() {
                Token::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => *sign,
                Token::Name(name) if name == "in" => "in",
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.sum()?;
            left = self.make(at, Node::Binary(sign, Box::new(left), Box::new(right)))?;
        }
    }

    fn sum(&mut self) -> Parsed {
        self.chain(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.chain(&["*", "/", "%"], Self::unary)
    }

    fn chain(&mut self, signs: &[&'static str], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        loop {
            let at = self.at();
            let Some(sign) = signs.iter().find(|sign| self.is(sign)) else { return Ok(left) };
            self.next += 1;
            let right = part(self)?;
            left = self.make(at, Node::Binary(sign, Box::new(left), Box::new(right)))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let mut signs = 0;
        let sign = if self.is("!") { "!" } else { "-" };
        while self.takes(sign) {
            signs += 1;
        }
        let of = self.member()?;
        if signs == 0 {
            return self.settle(of);
        }
        if sign == "-" {
            // A literal carries its sign itself, so that the smallest int can be written.
            let negated = match &of.node {
                Node::Literal(Value::Int(number)) => Some(Value::Int(-number)),
                Node::Literal(Value::Double(number)) => Some(Value::Double(-number)),
                Node::Literal(Value::Uint(number)) if *number == 1 << 63 => Some(Value::Int(i64::MIN)),
                _ => None,
            };
            if let (Some(value), 1) = (negated, signs) {
                return self.make(at, Node::Literal(value));
            }
        }
        let of = self.settle(of)?;
        if signs % 2 == 0 {
            return Ok(of);
        }
        let make = if sign == "!" { Node::Not } else { Node::Negate };
        self.make(at, make(Box::new(of)))
    }

    /// Refuses a literal that is an int only with a sign before it.
    fn settle(&self, expr: Expr) -> Parsed {
        let is_too_large = matches!(&expr.node, Node::Literal(Value::Uint(number)) if *number == 1 << 63)
            && !self.source[expr.at..].starts_with("9223372036854775808u");
        if is_too_large { Err(lexer::error(self.source, expr.at, "invalid int literal")) } else { Ok(expr) }
    }

    fn member(&mut self) -> Parsed {
        let mut of = self.primary()?;
        loop {
            let at = self.at();
            if self.takes(".") {
                if self.takes("?") {
                    let field = self.name()?;
                    of = self.make(at, Node::OptionalSelect(Box::new(of), field))?;
                    continue;
                }
                let name = self.name()?;
                let open = self.at();
                if self.takes("(") {
                    let args = self.list(")")?;
                    of = self.call(open, Some(of), name, args)?;
                } else {
                    of = self.make(at, Node::Select(Box::new(of), name))?;
                }
            } else if self.takes("[") {
                let is_optional = self.takes("?");
                let index = self.expression()?;
                self.expect("]")?;
                let make = if is_optional { Node::OptionalIndex } else { Node::Index };
                of = self.make(at, make(Box::new(of), Box::new(index)))?;
            } else if self.is("{")
                && let Some(name) = of.path()
            {
                self.next += 1;
                let fields = self.fields()?;
                of = self.make(of.at, Node::Message(name, fields))?;
            } else {
                return Ok(of);
            }
        }
    }

    /// Expressions up to the sign that ends them.
    fn list(&mut self, end: &str) -> Result<Vec<Expr>, CompileError> {
        let mut items = Vec::new();
        while !self.takes(end) {
            items.push(self.expression()?);
            if !self.takes(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(items)
    }

    /// The fields of a message up to the brace that ends it.
    fn fields(&mut self) -> Result<Vec<(bool, String, Expr)>, CompileError> {
        let mut fields = Vec::new();
        while !self.takes("}") {
            let is_optional = self.takes("?");
            let name = self.name()?;
            self.expect(":")?;
            fields.push((is_optional, name, self.expression()?));
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(fields)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        match self.peek().clone() {
            Token::Literal(value) => {
                self.next += 1;
                self.make(at, Node::Literal(value))
            }
            Token::Name(name) if name == "in" || RESERVED.contains(&name.as_str()) => {
                Err(self.error(&format!("reserved identifier: {name}")))
            }
            Token::Name(name) => {
                self.next += 1;
                let open = self.at();
                if self.takes("(") {
                    let args = self.list(")")?;
                    return self.call(open, None, name, args);
                }
                self.make(at, Node::Name(name))
            }
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign(".") => {
                self.next += 1;
                let name = self.name()?;
                self.make(at, Node::Name(name))
            }
            Token::Sign("[") => {
                self.next += 1;
                let mut items = Vec::new();
                while !self.takes("]") {
                    let is_optional = self.takes("?");
                    items.push((is_optional, self.expression()?));
                    if !self.takes(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                self.make(at, Node::List(items))
            }
            Token::Sign("{") => {
                self.next += 1;
                let mut entries = Vec::new();
                while !self.takes("}") {
                    let is_optional = self.takes("?");
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((is_optional, key, self.expression()?));
                    if !self.takes(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                self.make(at, Node::Map(entries))
            }
            other => Err(self.error(&format!(
                "Syntax error: mismatched input '{}' expecting an expression",
                shown(&other)
            ))),
        }
    }

    /// A call, or the macro that looks like one.
    fn call(&self, at: usize, target: Option<Expr>, name: String, mut args: Vec<Expr>) -> Parsed {
        if target.is_none() && name == "has" && args.len() == 1 {
            let arg = args.remove(0);
            return match arg.node {
                Node::Select(of, field) => self.make(at, Node::Has(of, field)),
                _ => Err(lexer::error(self.source, arg.at, "invalid argument to has() macro")),
            };
        }
        let Some(target) = target else { return self.make(at, Node::Call(None, name, args)) };
        let is_cel = matches!(&target.node, Node::Name(name) if name == "cel");
        let Some((kind, variables)) = macro_of(&name, args.len(), is_cel) else {
            return self.make(at, Node::Call(Some(Box::new(target)), name, args));
        };
        let mut names = Vec::new();
        for arg in args.drain(..variables) {
            match arg.node {
                Node::Name(name) => names.push(name),
                _ => return Err(lexer::error(self.source, arg.at, "argument must be a simple name")),
            }
        }
        let body = args.pop().expect("macros have a body");
        let before = args.pop();
        let (range, filter) = match (kind, before) {
            (Macro::Bind, Some(value)) => (value, None),
            (_, filter) => (target, filter),
        };
        self.make(at, Node::Macro(Box::new(MacroCall { kind, range, variables: names, filter, body })))
    }
}

/// The macro called `name` with so many arguments, and how many of them are names.
fn macro_of(name: &str, args: usize, is_cel: bool) -> Option<(Macro, usize)> {
    Some(match (name, args) {
        ("bind", 3) if is_cel => (Macro::Bind, 1),
        ("all", 2) => (Macro::All, 1),
        ("all", 3) => (Macro::All, 2),
        ("exists", 2) => (Macro::Exists, 1),
        ("exists", 3) => (Macro::Exists, 2),
        ("exists_one" | "existsOne", 2) => (Macro::ExistsOne, 1),
        ("exists_one" | "existsOne", 3) => (Macro::ExistsOne, 2),
        ("filter", 2) => (Macro::Filter, 1),
        ("map", 2 | 3) => (Macro::Map, 1),
        ("transformList", 3 | 4) => (Macro::Map, 2),
        ("transformMap", 3 | 4) => (Macro::TransformMap, 2),
        ("sortBy", 2) => (Macro::SortBy, 1),
        ("optMap", 2) => (Macro::OptionalMap, 1),
        ("optFlatMap", 2) => (Macro::OptionalFlatMap, 1),
        _ => return None,
    })
}
