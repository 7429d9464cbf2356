//! The structural schema of a `CustomResourceDefinition`: what it drops, and what it refuses.
//!
//! Patterns and rules in CEL (`x-kubernetes-validations`) are not evaluated. A keyword that is not known here is an
//! error when the schema is read: else the server would take what a real one refuses.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::status::Flaw;

/// Keywords that change nothing, or that are not evaluated.
const IGNORED: [&str; 7] =
    ["description", "example", "format", "pattern", "title", "x-kubernetes-map-type", "x-kubernetes-validations"];

/// Type that a schema gives to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }

    /// Returns what server-side apply calls it.
    const fn typed(self) -> &'static str {
        match self {
            Self::Array => "list",
            Self::Boolean => "boolean",
            Self::Integer | Self::Number => "numeric (int or float)",
            Self::Object => "map",
            Self::String => "string",
        }
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(Self::Boolean),
            // A whole number may be written with a point.
            Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => Some(Self::Integer),
            Value::Number(_) => Some(Self::Number),
            Value::String(_) => Some(Self::String),
            Value::Array(_) => Some(Self::Array),
            Value::Object(_) => Some(Self::Object),
        }
    }

    fn includes(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Number, Self::Integer)
    }
}

/// Schema of a value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StructuralSchema {
    #[serde(rename = "type")]
    kind: Option<Type>,
    nullable: bool,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    preserve: bool,
    #[serde(rename = "enum")]
    options: Vec<Value>,

    properties: BTreeMap<String, Self>,
    additional_properties: Option<Box<Self>>,
    required: Vec<String>,
    max_properties: Option<u64>,

    items: Option<Box<Self>>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<ListType>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<String>,

    min_length: Option<u64>,
    max_length: Option<u64>,
    minimum: Option<f64>,
    maximum: Option<f64>,

    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListType {
    Atomic,
    Set,
    Map,
}

impl StructuralSchema {
    /// Reads the schema of whole objects: `openAPIV3Schema`.
    pub(super) fn parse(schema: &Value) -> Result<Self, String> {
        let mut schema: Self = serde_json::from_value(schema.clone()).map_err(|error| error.to_string())?;
        schema.check("openAPIV3Schema")?;
        // What every object has, whatever its schema says.
        let text = || Self { kind: Some(Type::String), ..Self::default() };
        let metadata = Self { kind: Some(Type::Object), preserve: true, ..Self::default() };
        for (name, schema_of_field) in [("apiVersion", text()), ("kind", text()), ("metadata", metadata)] {
            schema.properties.insert(name.to_owned(), schema_of_field);
        }
        Ok(schema)
    }

    /// Checks that it is structural, and that all its keywords are known.
    fn check(&self, path: &str) -> Result<(), String> {
        if let Some(unknown) = self.other.keys().find(|name| !IGNORED.contains(&name.as_str())) {
            return Err(format!("{path}: the test server does not know the keyword {unknown}"));
        }
        if self.kind.is_none() && !self.int_or_string && !self.preserve {
            return Err(format!("{path}.type: Required value: must not be empty for specified object fields"));
        }
        if !self.properties.is_empty() && self.additional_properties.is_some() {
            return Err(format!("{path}: additionalProperties and properties are mutual exclusive"));
        }
        if (self.kind == Some(Type::Array)) != self.items.is_some() {
            return Err(format!("{path}.items: arrays have a schema of their items, and nothing else has"));
        }
        let fields = self.properties.iter().map(|(name, schema)| (format!("{path}.properties[{name}]"), schema));
        let additional =
            self.additional_properties.iter().map(|schema| (format!("{path}.additionalProperties"), &**schema));
        let items = self.items.iter().map(|schema| (format!("{path}.items"), &**schema));
        fields.chain(additional).chain(items).try_for_each(|(path, schema)| schema.check(&path))
    }

    fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional_properties.as_deref())
    }

    /// Drops the fields that are not declared.
    pub(super) fn prune(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| self.preserve || self.field(name).is_some());
                for (name, value) in fields {
                    if let Some(schema) = self.field(name) {
                        schema.prune(value);
                    }
                }
            }
            Value::Array(items) => {
                let schema = self.items.as_deref();
                for (schema, item) in schema.into_iter().cycle().zip(items) {
                    schema.prune(item);
                }
            }
            _ => {}
        }
    }

    /// Returns what keeps server-side apply from reading an object: fields that are not declared, and wrong types.
    pub(super) fn untyped(&self, value: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        self.collect_untyped("", value, &mut errors);
        errors
    }

    fn collect_untyped(&self, path: &str, value: &Value, errors: &mut Vec<String>) {
        let (Some(wanted), Some(given)) = (self.kind, Type::of(value)) else { return };
        let is_number = |kind| matches!(kind, Type::Integer | Type::Number);
        if wanted != given && !(is_number(wanted) && is_number(given)) {
            errors.push(format!("{path}: expected {}, got {}", wanted.typed(), given.name()));
            return;
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            match self.field(name) {
                Some(schema) => schema.collect_untyped(&path, value, errors),
                None if self.preserve => {}
                None => errors.push(format!("{path}: field not declared in schema")),
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if self.list_type == Some(ListType::Map)
                && let Some(key) = self.list_map_keys.iter().find(|key| item[key.as_str()].is_null())
            {
                let why = format!("associative list with keys has an element that omits key field {key:?}");
                errors.push(format!("{path}: element {index}: {why}"));
            }
            if let Some(schema) = &self.items {
                schema.collect_untyped(&format!("{path}[{index}]"), item, errors);
            }
        }
    }

    /// Returns the faults of an object.
    pub(super) fn flaws(&self, object: &Value) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        self.collect_flaws("", object, &mut flaws);
        flaws
    }

    fn collect_flaws(&self, path: &str, value: &Value, flaws: &mut Vec<Flaw>) {
        let given = Type::of(value);
        let fits = match (self.kind, given) {
            (_, None) => self.nullable,
            (None, Some(given)) => !self.int_or_string || matches!(given, Type::Integer | Type::String),
            (Some(wanted), Some(given)) => wanted.includes(given),
        };
        if !fits {
            let wanted = self.kind.map_or("integer,string", Type::name);
            flaws.push(Flaw::wrong_type(path, given.map_or("null", Type::name), wanted));
            return;
        }
        if given.is_some() && !self.options.is_empty() && !self.options.contains(value) {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let options: Vec<_> = self.options.iter().map(|option| format!("{:?}", plain(option))).collect();
            flaws.push(Flaw::unsupported(path, &plain(value), &options.join(", ")));
        }
        match value {
            Value::Object(fields) => self.collect_flaws_of_object(path, fields, flaws),
            Value::Array(items) => self.collect_flaws_of_list(path, items, flaws),
            Value::String(text) => {
                // Characters, whatever the words say.
                let length = text.chars().count() as u64;
                if let Some(longest) = self.max_length.filter(|longest| length > *longest) {
                    flaws.push(Flaw::too_long(path, longest));
                }
                if let Some(shortest) = self.min_length.filter(|shortest| length < *shortest) {
                    let why = format!("should be at least {shortest} chars long");
                    flaws.push(Flaw::out_of_schema(path, value, &why));
                }
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if let Some(least) = self.minimum.filter(|least| number < *least) {
                    let why = format!("should be greater than or equal to {least}");
                    flaws.push(Flaw::out_of_schema(path, value, &why));
                }
                if let Some(most) = self.maximum.filter(|most| number > *most) {
                    flaws.push(Flaw::out_of_schema(path, value, &format!("should be less than or equal to {most}")));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn collect_flaws_of_object(&self, path: &str, fields: &Map<String, Value>, flaws: &mut Vec<Flaw>) {
        let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if let Some(most) = self.max_properties.filter(|most| fields.len() as u64 > *most) {
            flaws.push(Flaw::too_many(path, fields.len(), most));
        }
        let missing = self.required.iter().filter(|name| !fields.contains_key(*name));
        flaws.extend(missing.map(|name| Flaw::required(&inner(name))));
        for (name, value) in fields {
            if let Some(schema) = self.field(name) {
                schema.collect_flaws(&inner(name), value, flaws);
            }
        }
    }

    fn collect_flaws_of_list(&self, path: &str, items: &[Value], flaws: &mut Vec<Flaw>) {
        let length = items.len() as u64;
        if let Some(most) = self.max_items.filter(|most| length > *most) {
            flaws.push(Flaw::too_many(path, items.len(), most));
        }
        if let Some(least) = self.min_items.filter(|least| length < *least) {
            flaws.push(Flaw::out_of_schema(path, &length.into(), &format!("should have at least {least} items")));
        }
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(schema) = &self.items {
                schema.collect_flaws(&path, item, flaws);
            }
            let identity = match self.list_type {
                None | Some(ListType::Atomic) => continue,
                Some(ListType::Set) => item.clone(),
                Some(ListType::Map) => {
                    let keys = self.list_map_keys.iter().map(|key| (key.clone(), item[key.as_str()].clone()));
                    json!(keys.collect::<BTreeMap<_, _>>())
                }
            };
            if !seen.insert(identity.to_string()) {
                flaws.push(Flaw::duplicate(&path, &identity));
            }
        }
    }
}
