use proptest::prelude::*;
use serde_json::json;

use super::{Budget, EvalError, ObjectType, Program, Type, Value};

const STEPS: u64 = 1_000_000;

fn self_value() -> Value {
    Value::from_json(&json!({
        "name": "web", "count": 3, "ports": [80, 443], "labels": { "a": "1", "b": "2" },
        "items": [{ "name": "x", "size": "1Gi" }, { "name": "y" }],
    }))
}

fn evaluate(source: &str) -> Result<Value, String> {
    let program = Program::compile(source, &[("self", Type::Dyn)]).map_err(|error| error.to_string())?;
    program.evaluate(vec![self_value()], &mut Budget::new(STEPS)).map_err(|error| error.to_string())
}

fn is_true(sources: &[&str]) {
    for source in sources {
        assert_eq!(evaluate(source), Ok(Value::Bool(true)), "{source}");
    }
}

fn fails(source: &str, text: &str) {
    let error = evaluate(source).expect_err(source);
    assert!(error.contains(text), "{source}: {error}");
}

#[test]
fn the_language_works() {
    is_true(&[
        "1 + 2 * 3 == 7 && -1 - -2 == 1 && 7 % 4 == 3 && 2.5 * 2.0 == 5.0",
        "dyn(1) == 1.0 && dyn(1u) == 1 && 1 < 1.5 && -9223372036854775808 < 0 && 0x10 == 16",
        "self.count >= 3 ? true : false",
        "!(self.name == 'x') && self.name in ['web', \"db\"] && 'a' in self.labels",
        "has(self.name) && !has(self.missing) && self.ports[1] == 443",
        "self.missing == 1 || true",
        "self.ports.all(p, p > 0) && self.ports.exists(p, p == 80) && self.ports.exists_one(p, p > 100)",
        "self.ports.map(p, p * 2) == [160, 886] && self.ports.filter(p, p > 100) == [443]",
        "self.items.map(i, has(i.size), i.name) == ['x']",
        "self.labels.all(k, self.labels[k] != '')",
        "self.ports.all(i, p, i < p) && self.labels.exists(k, v, k == 'a' && v == '1')",
        "self.labels.transformMap(k, v, int(v) + 1) == {'a': 2, 'b': 3}",
        "self.?missing.orValue('none') == 'none' && self.?name.hasValue() && self[?'name'].value() == 'web'",
        "self.?items[0].?name.optMap(n, n + '!').orValue('') == 'x!'",
        "[1, ?self.?missing] == [1] && {?'a': self.?missing} == {}",
        "cel.bind(x, self.count, x * x == 9)",
        "type(1) == int && type('') == string && string(1) + 'a' == '1a' && int('12') == 12",
        "r'\\d' == '\\\\d' && '\\u00e9' == 'é' && b'abc' == bytes('abc') && '''a\nb'''.size() == 3",
        "// a comment\ntrue",
    ]);
}

#[test]
fn the_libraries_work() {
    is_true(&[
        "'Web'.lowerAscii() == 'web' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'aaa'.replace('a', 'b', 2) == 'bba' && ' x '.trim() == 'x' && 'abc'.charAt(1) == 'b'",
        "'%s has %d and %.2f%%'.format(['web', 3, 1.5]) == 'web has 3 and 1.50%'",
        "'web-1'.matches('^[a-z]+-\\\\d$') && 'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1'.find('[0-9]') == '1'",
        "[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [1, 2].isSorted() && [2, 1, 2].distinct() == [2, 1]",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && [3, 1, 2].sort() == [1, 2, 3] && [1, 2, 3].slice(1, 3) == [2, 3]",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('50k').add(quantity('20k')) == quantity('70k')",
        "isQuantity('10m') && !isQuantity('ten') && quantity('1500m').asApproximateFloat() == 1.5",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && ip('::1').isLoopback() && !isIP('300.0.0.1')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "url('https://a.example:8443/x?q=1&q=2').getPort() == '8443' && url('https://a.example/x?q=1').getQuery() == {'q': ['1']} && !isURL('nonsense')",
        "format.dns1123Label().validate('web') == optional.none() && format.named('uuid').hasValue() && format.dns1123Label().validate('W').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.2', true) && !isSemver('1.2') && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
        "duration('1h30m') > duration('90s') && timestamp('2026-11-21T14:00:00Z').getHours() == 14",
        "timestamp('2026-01-01T00:00:00Z') + duration('24h') == timestamp('2026-01-02T00:00:00Z')",
        "base64.encode(b'hi') == 'aGk=' && optional.ofNonZeroValue('').orValue('x') == 'x'",
    ]);
}

#[test]
fn failures_say_what_failed() {
    fails("self.missing == 1", "no such key: missing");
    fails("self.ports[9] == 1", "index out of bounds: 9");
    fails("1 / 0 == 1", "division by zero");
    fails("9223372036854775807 + 1 == 0", "integer overflow");
    fails("self.name < 1", "no such overload");
}

#[test]
fn what_cannot_work_does_not_compile() {
    let fields =
        [("name".to_owned(), Type::String), ("count".to_owned(), Type::Int), ("a-b".to_owned(), Type::Int)];
    let object = Type::Object(ObjectType { name: "object".into(), fields: fields.into() }.into());
    let compile = |source: &str| {
        Program::compile(source, &[("self", object.clone())]).map_err(|error| error.to_string())
    };
    for (source, text) in [
        ("self.foo > 5", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 5\n | ....^"),
        (
            "self.name + 1 == 2",
            "ERROR: <input>:1:11: found no matching overload for '_+_' applied to '(string, int)'\n | self.name + 1 == 2\n | ..........^",
        ),
        (
            "other == 1",
            "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other == 1\n | ^",
        ),
        ("self.name.frob()", "undeclared reference to 'frob'"),
        (
            "self.count.startsWith('a')",
            "found no matching overload for 'startsWith' applied to 'int.(string)'",
        ),
        ("self.count.all(x, true)", "cannot be range of a comprehension"),
        ("self.count &&", "Syntax error"),
        ("'open", "unterminated string"),
    ] {
        let error = compile(source).expect_err(source);
        assert!(error.contains(text), "{source}: {error}");
    }
    assert_eq!(compile("self.a__dash__b == 1").map(|program| program.result().clone()), Ok(Type::Bool));
    assert_eq!(compile("self.name + 'x'").map(|program| program.result().clone()), Ok(Type::String));
}

#[test]
fn what_costs_too_much_is_ended() {
    let started = std::time::Instant::now();
    let nested = "[1,2,3,4,5,6,7,8,9,10]";
    let bomb = format!(
        "{nested}.all(a, {nested}.all(b, {nested}.all(c, {nested}.all(d, {nested}.all(e, {nested}.all(f, {nested}.all(g, a > 0)))))))"
    );
    for source in [
        bomb.as_str(),
        "lists.range(1000000000).size() > 0",
        "'a'.replace('', 'xxxxxxxxxx').replace('x', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy').replace('y', 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz').replace('z', 'wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww').size() > 0",
    ] {
        let program = Program::compile(source, &[]).expect("it compiles");
        assert_eq!(
            program.evaluate(vec![], &mut Budget::new(STEPS)),
            Err(EvalError::TooExpensive),
            "{source}"
        );
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
    for hostile in [
        "(".repeat(100_000),
        "1+".repeat(30_000) + "1",
        "a".repeat(100_000),
        "[".repeat(9_000),
        ".a".repeat(10_000),
    ] {
        assert!(Program::compile(&hostile, &[]).is_err());
    }
}

proptest! {
    /// Whatever is written: an answer, an error, never a panic and never long.
    #[test]
    fn any_text_is_survived(source in "([a-c0-9.+*/%<>=!&|?:,(){}\\[\\]'\" -]|self|has|all|map|size|in|true|null){0,40}") {
        if let Ok(program) = Program::compile(&source, &[("self", Type::Dyn)]) {
            let _ = program.evaluate(vec![self_value()], &mut Budget::new(10_000));
        }
    }

    /// The same of what is more often an expression.
    #[test]
    fn any_expression_is_survived(source in expressions()) {
        if let Ok(program) = Program::compile(&source, &[("self", Type::Dyn)]) {
            let _ = program.evaluate(vec![self_value()], &mut Budget::new(10_000));
        }
    }
}

fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("self".to_owned()),
        Just("self.ports".to_owned()),
        Just("self.name".to_owned()),
        Just("x".to_owned()),
        Just("'a'".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| format!("{number}u")),
        Just("1e308".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let sign = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("=="),
            Just("<"),
            Just("in"),
            Just("&&"),
            Just("||")
        ];
        let method = prop_oneof![
            Just("size"),
            Just("substring"),
            Just("split"),
            Just("replace"),
            Just("format"),
            Just("slice"),
            Just("matches"),
            Just("indexOf"),
            Just("orValue"),
            Just("flatten")
        ];
        prop_oneof![
            (inner.clone(), sign, inner.clone())
                .prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
            (inner.clone(), method, proptest::collection::vec(inner.clone(), 0..3))
                .prop_map(|(of, name, args)| format!("{of}.{name}({})", args.join(", "))),
            (inner.clone(), inner.clone()).prop_map(|(of, body)| format!("{of}.map(x, {body})")),
            (inner.clone(), inner.clone()).prop_map(|(of, index)| format!("{of}[{index}]")),
            (inner.clone(), inner).prop_map(|(one, other)| format!("[{one}, {other}]")),
        ]
    })
}

#[test]
fn one_known_side_of_an_operator_decides_its_type() {
    let result = |source: &str| {
        let compiled = Program::compile(source, &[("self", Type::Dyn)]);
        compiled.map(|program| program.result().to_string()).unwrap_or_default()
    };
    for (source, expected) in [
        ("'a' + self.b", "string"),
        ("self.a + self.b", "dyn"),
        ("self.a + 1", "int"),
        ("duration('1s') + self.a", "dyn"),
        ("timestamp('2026-01-01T00:00:00Z') + self.a", "timestamp"),
        ("self.a - 1.5", "double"),
        ("self.a * 2", "int"),
        ("[1] + self.a", "list(int)"),
        ("true + self.a", ""),
        ("'a' - self.a", ""),
        ("[] + ['a']", "list(string)"),
        ("self.a ? [] : ['a']", "list(string)"),
    ] {
        assert_eq!(result(source), expected, "{source}");
    }
}

#[test]
fn patches_are_written_as_messages() {
    let patch = |source: &str| Program::compile_patch(source, &[("self", Type::Dyn)]);
    let made = patch("Object{spec: Object.spec{replicas: self.count, ?paused: optional.none()}}")
        .expect("it compiles");
    assert_eq!(made.result().to_string(), "Object");
    let value = made.evaluate(vec![self_value()], &mut Budget::new(STEPS)).expect("a value");
    assert_eq!(value.to_json(), Ok(json!({ "spec": { "replicas": 3 } })));
    let operation =
        patch("self.count > 1 ? [JSONPatch{op: 'remove', path: '/' + jsonpatch.escapeKey('a/b~c')}] : []");
    let operation = operation.expect("it compiles");
    assert_eq!(operation.result().to_string(), "list(JSONPatch)");
    let value = operation.evaluate(vec![self_value()], &mut Budget::new(STEPS)).expect("a value");
    assert_eq!(value.to_json(), Ok(json!([{ "op": "remove", "path": "/a~1b~0c" }])));
    for (source, problem) in [
        ("JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"),
        ("JSONPatch{operation: 'add'}", "undefined field 'operation'"),
        ("Thing{}", "undeclared reference to 'Thing'"),
    ] {
        let error = patch(source).expect_err(source).to_string();
        assert!(error.contains(problem), "{source}: {error}");
    }
}
