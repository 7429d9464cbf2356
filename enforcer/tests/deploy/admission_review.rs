//! What an API server asks of an admission policy, and the evaluation of its expressions: match conditions, variables,
//! validations, mutations.
//!
//! CEL is evaluated by another implementation than the API server's. What only the API server has is played here: the
//! functions of `authorizer`, and the types `JSONPatch` and `Object…` of mutations, which hold here whatever fields they
//! are given. Played nowhere: the limit on the cost of an expression, and the check of types when a policy is created.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use cel::{
    Context, Env, ExecutionError, Program, StructDef, StructType, Value as Cel,
    common::{
        types::{CelStruct, Type},
        value::{CowVal, Val},
    },
    extensions,
    extractors::This,
    objects::Key,
};
use serde_json::{Value, json};

/// What the API server asks of a policy.
#[derive(Clone)]
pub(crate) struct Review {
    pub(crate) object: Value,
    pub(crate) old: Value,
    pub(crate) request: Value,
    pub(crate) params: Value,
    /// Whether RBAC says yes.
    pub(crate) authorized: bool,
    /// Resource of the API group that RBAC is asked for.
    pub(crate) permission: &'static str,
}

impl Review {
    pub(crate) fn new(object: Value) -> Self {
        let request =
            json!({ "namespace": "shop", "userInfo": { "username": "somebody", "groups": ["system:authenticated"] } });
        Self { object, old: Value::Null, request, params: Value::Null, authorized: false, permission: "" }
    }

    pub(crate) fn instead_of(mut self, old: Value) -> Self {
        self.old = old;
        self
    }

    /// Evaluates a variable with those before it, and adds it to them.
    pub(crate) fn add_variable(&self, variables: &mut Vec<(String, Cel)>, name: String, expression: &str) {
        let value = self.value(expression, variables);
        variables.push((name, value));
    }

    /// The expression's value with these variables.
    pub(crate) fn value(&self, expression: &str, variables: &[(String, Cel)]) -> Cel {
        let (env, program) = compiled(expression);
        let mut context = Context::with_env(env);
        for (name, value) in
            [("object", &self.object), ("oldObject", &self.old), ("request", &self.request), ("params", &self.params)]
        {
            context.add_variable(name, value).expect("JSON");
        }
        let known: HashMap<Key, Cel> =
            variables.iter().map(|(name, value)| (Key::from(name.as_str()), value.clone())).collect();
        context.add_variable_from_value("variables", known);
        let permission = self.permission;
        // What was asked so far, and the answer.
        context.add_variable("authorizer", json!([self.authorized])).expect("JSON");
        for step in ["group", "resource", "name", "check"] {
            context
                .add_function(step, move |This(this): This<Cel>, word: Arc<String>| ask(&this, step, &word))
                .expect("a new name");
        }
        context.add_function("allowed", move |This(this): This<Cel>| answer(&this, permission)).expect("a new name");
        program.execute(&context).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    pub(crate) fn holds(&self, expression: &str, variables: &[(String, Cel)]) -> bool {
        match self.value(expression, variables) {
            Cel::Bool(holds) => holds,
            other => panic!("{expression} is {other:?}"),
        }
    }
}

thread_local! {
    static ENVIRONMENT: Arc<Env> = {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings).expect("the functions of strings");
        for literal in [JSON_PATCH, CONTAINER_PORT] {
            env.add_type(literal()).expect("a new type");
        }
        Arc::new(env)
    };
    /// Programs by their expressions: reading one takes longer than running it.
    static PROGRAMS: RefCell<HashMap<String, Rc<Program>>> = RefCell::default();
}

fn compiled(expression: &str) -> (Arc<Env>, Rc<Program>) {
    let env = ENVIRONMENT.with(Arc::clone);
    let program = PROGRAMS.with_borrow_mut(|programs| {
        let compile = || Rc::new(env.compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}")));
        Rc::clone(programs.entry(expression.to_owned()).or_insert_with(compile))
    });
    (env, program)
}

/// One more word of a question to the authorizer.
fn ask(this: &Cel, step: &str, word: &str) -> Cel {
    let Cel::List(asked) = this else { panic!("{this:?} is no question") };
    let mut asked = asked.to_vec();
    asked.push(Cel::from(format!("{step} {word}")));
    Cel::from(asked)
}

fn answer(this: &Cel, permission: &str) -> bool {
    let Cel::List(asked) = this else { panic!("{this:?} is no question") };
    let [Cel::Bool(authorized), words @ ..] = &asked[..] else { panic!("{this:?} is no question") };
    let words: Vec<String> = words
        .iter()
        .map(|word| if let Cel::String(word) = word { word.to_string() } else { panic!("{word:?}") })
        .collect();
    assert_eq!(words, ["group port-enforcer.io", &*format!("resource {permission}"), "name shop", "check set"]);
    *authorized
}

/// A type of mutations whose values a literal makes: its name, and the fields that it may have.
struct Literal {
    definition: StructDef,
    fields: &'static [&'static str],
}

impl Literal {
    fn new(name: &str, fields: &'static [&'static str]) -> Self {
        Self { definition: StructDef::new(name.to_owned()), fields }
    }
}

const JSON_PATCH: fn() -> Literal = || Literal::new("JSONPatch", &["op", "path", "from", "value"]);
const CONTAINER_PORT: fn() -> Literal = || {
    let fields = &["name", "containerPort", "hostPort", "hostIP", "protocol"];
    Literal::new("Object.spec.containers.ports", fields)
};

impl StructType for Literal {
    fn get_type(&self) -> &Type {
        self.definition.get_type()
    }

    fn new_value<'b, 'v>(&self, fields: BTreeMap<String, CowVal<'b, 'v>>) -> Result<Box<dyn Val + 'v>, ExecutionError> {
        let mut value = CelStruct::new(self.get_type().name().to_owned());
        for (field, content) in fields {
            if !self.fields.contains(&&*field) {
                return Err(ExecutionError::NoSuchKey(Arc::new(field)));
            }
            value.add_field_value(field, content);
        }
        Ok(Box::new(value))
    }
}

/// The value as JSON, as far as mutations need it.
pub(crate) fn to_json(value: &Cel) -> Value {
    match value {
        Cel::List(items) => items.iter().map(to_json).collect(),
        Cel::String(text) => text.to_string().into(),
        Cel::Int(number) => (*number).into(),
        Cel::Struct(value) => {
            let field = |(name, content): (String, Arc<dyn Val>)| {
                let content = Cel::try_from(&*content).unwrap_or_else(|error| panic!("{name}: {error}"));
                (name, to_json(&content))
            };
            value.field_values().into_iter().map(field).collect()
        }
        other => panic!("{other:?} in a patch"),
    }
}
