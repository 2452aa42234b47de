//! JSON Schema of every kind, as it ships with the binary.

use serde_json::Value;

use crate::{
    function::Function, lease::Lease, metadata::Resource, node::Node, placement::Placement,
    region::Region, token::TokenRecord,
};

/// Kind and JSON Schema (draft 2020-12) of everything that users meet.
pub fn json_schemas() -> Vec<(&'static str, Value)> {
    vec![
        (Function::KIND, schemars::schema_for!(Function).to_value()),
        (Node::KIND, schemars::schema_for!(Node).to_value()),
        (Region::KIND, schemars::schema_for!(Region).to_value()),
        (Lease::KIND, schemars::schema_for!(Lease).to_value()),
        ("Placement", schemars::schema_for!(Placement).to_value()),
        ("Token", schemars::schema_for!(TokenRecord).to_value()),
    ]
}

/// The JSON Schema of one kind, if there is such a kind.
pub fn json_schema(kind: &str) -> Option<Value> {
    json_schemas().into_iter().find(|(name, _)| *name == kind).map(|(_, schema)| schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_that_names_its_fields() {
        let schema = json_schema("Function").unwrap();
        assert!(schema["properties"]["spec"].is_object(), "{schema}");
        assert!(json_schema("Banana").is_none());
        assert_eq!(json_schemas().len(), 6);
    }
}
