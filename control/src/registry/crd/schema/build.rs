//! From a definition's JSON schema to the compiled form.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::{Additional, Bound, ListKind, Schema, Type, pattern};

impl Schema {
    /// Compiles `props`. Whether they are a structural schema is judged elsewhere.
    ///
    /// # Errors
    /// A pattern that is no regular expression, in words.
    pub fn build(props: &JSONSchemaProps) -> Result<Self, String> {
        let all = |list: &Option<Vec<JSONSchemaProps>>| -> Result<Vec<Self>, String> {
            list.iter().flatten().map(Self::build).collect()
        };
        let pattern = match props.pattern.as_deref() {
            None | Some("") => None,
            Some(text) => Some((text.to_owned(), pattern::compile(text)?)),
        };
        let additional = match &props.additional_properties {
            None | Some(JSONSchemaPropsOrBool::Bool(false)) => Additional::Unsaid,
            Some(JSONSchemaPropsOrBool::Bool(true)) => Additional::Any,
            Some(JSONSchemaPropsOrBool::Schema(schema)) => Additional::Schema(Box::new(Self::build(schema)?)),
        };
        let items = match &props.items {
            Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(Box::new(Self::build(schema)?)),
            _ => None,
        };
        let properties = props.properties.iter().flatten();
        let properties = properties.map(|(name, schema)| Ok((name.clone(), Self::build(schema)?)));
        let mut schema = Self {
            kind: props.type_.as_deref().and_then(Type::parse),
            nullable: props.nullable == Some(true),
            format: props.format.clone().filter(|format| !format.is_empty()),
            default: props.default.as_ref().map(|default| default.0.clone()),
            choices: props.enum_.iter().flatten().map(|choice| choice.0.clone()).collect(),
            maximum: bound(props.maximum, props.exclusive_maximum),
            minimum: bound(props.minimum, props.exclusive_minimum),
            multiple_of: props.multiple_of,
            max_length: props.max_length,
            min_length: props.min_length,
            pattern,
            max_items: props.max_items,
            min_items: props.min_items,
            max_properties: props.max_properties,
            min_properties: props.min_properties,
            required: props.required.clone().unwrap_or_default(),
            properties: properties.collect::<Result<_, String>>()?,
            additional,
            items,
            all_of: all(&props.all_of)?,
            any_of: all(&props.any_of)?,
            one_of: all(&props.one_of)?,
            not: props.not.as_deref().map(Self::build).transpose()?.map(Box::new),
            preserves_unknown: props.x_kubernetes_preserve_unknown_fields == Some(true),
            is_embedded: props.x_kubernetes_embedded_resource == Some(true),
            is_int_or_string: props.x_kubernetes_int_or_string == Some(true),
            list_kind: match props.x_kubernetes_list_type.as_deref() {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(props.x_kubernetes_list_map_keys.clone().unwrap_or_default()),
                _ => ListKind::Atomic,
            },
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
            has_rules: false,
        };
        schema.has_rules = !schema.rules.is_empty() || schema.children().any(|child| child.has_rules);
        Ok(schema)
    }

    /// The schemas of what it holds.
    fn children(&self) -> impl Iterator<Item = &Self> {
        let additional = match &self.additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }
}

fn bound(limit: Option<f64>, is_exclusive: Option<bool>) -> Bound {
    limit.map(|limit| (limit, is_exclusive == Some(true)))
}
