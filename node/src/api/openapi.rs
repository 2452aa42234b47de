//! `/v1/openapi.json` and `/v1/schemas`: the API told by itself (OpenAPI 3.1).

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use swarmer_model::{json_schema, json_schemas};

use crate::{
    api::{
        Api,
        auth::Access,
        reply::{self, Answer},
        request::At,
        router::{Endpoint, endpoints},
    },
    codes,
    problem::Problem,
};

/// The document never changes while the process runs.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| build(&endpoints()));

pub(super) async fn document(State(_): State<Arc<Api>>) -> Answer {
    Ok(reply::json(StatusCode::OK, &*DOCUMENT))
}

pub(super) async fn schemas(State(_): State<Arc<Api>>) -> Answer {
    let items = json_schemas()
        .into_iter()
        .map(|(kind, _)| json!({ "kind": kind, "schema": format!("/v1/schemas/{kind}") }));
    Ok(reply::json(StatusCode::OK, &json!({ "items": items.collect::<Vec<_>>() })))
}

pub(super) async fn schema(State(_): State<Arc<Api>>, At(kind): At<String>) -> Answer {
    let found = json_schema(&kind).ok_or_else(|| {
        let kinds: Vec<&str> = json_schemas().into_iter().map(|(kind, _)| kind).collect();
        let detail = format!("there is no kind {kind:?}; there are {}", kinds.join(", "));
        Problem::new(codes::NOT_FOUND, detail)
    })?;
    Ok(reply::json(StatusCode::OK, &found))
}

fn build(endpoints: &[Endpoint]) -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints {
        let path = endpoint.path.replace("{*", "{");
        let methods = match &endpoint.method {
            Some(method) => vec![method.as_str().to_lowercase()],
            None => ["get", "put", "post", "delete", "patch"].map(str::to_owned).to_vec(),
        };
        let item = paths.entry(path).or_insert_with(|| json!({}));
        for method in methods {
            item[&method] = operation(endpoint, &method);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Swarmer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of every node of a Swarmer cluster. Reads carry \
                `x-swarmer-revision`; writes take `Idempotency-Key` and `If-Match`; errors are \
                RFC 9457 problem documents with a stable `code`.",
        },
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(endpoint: &Endpoint, method: &str) -> Value {
    let mut parameters: Vec<Value> = path_parameters(endpoint.path)
        .map(|name| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let optional = |name: &str, place: &str, description: &str| {
        let schema = json!({ "type": "string" });
        json!({ "name": name, "in": place, "description": description, "schema": schema })
    };
    for (name, description) in endpoint.query {
        parameters.push(optional(name, "query", description));
    }
    if endpoint.is_read() {
        let description = "local (the default), or linearizable: as new as any acknowledged write";
        parameters.push(optional("consistency", "query", description));
    } else if endpoint.method.as_ref().is_some_and(|method| method != http::Method::GET)
        && endpoint.access != Access::Supply
    {
        let once = "a request that is sent again with the same key is applied once";
        parameters.push(optional("Idempotency-Key", "header", once));
        if endpoint.if_match {
            let seen = "the revision that was seen; another one now is a conflict";
            parameters.push(optional("If-Match", "header", seen));
        }
    }
    let content = |schema: &str, media: &str| {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        json!({ media: { "schema": schema } })
    };
    let mut answer = json!({ "description": "Done" });
    if let Some(schema) = endpoint.answer {
        answer["content"] = content(schema, "application/json");
    }
    let problem = json!({
        "description": "A problem document",
        "content": content("Problem", "application/problem+json"),
    });
    let mut operation = json!({
        "operationId": operation_id(endpoint.path, method),
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": { "2XX": answer, "4XX": problem, "5XX": problem },
        "security": [{ "token": [] }],
    });
    if endpoint.access == Access::Public {
        operation["security"] = json!([]);
    }
    match endpoint.body {
        None => {}
        Some("Component") => {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/wasm": {} } });
        }
        Some(schema) => {
            operation["requestBody"] =
                json!({ "required": true, "content": content(schema, "application/json") });
        }
    }
    operation
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.trim_start_matches('*')))
}

/// Method and path in one word, such as `get_v1_nodes_node`.
fn operation_id(path: &str, method: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let words: String = path.chars().map(clean).collect();
    let words: Vec<&str> = words.split('_').filter(|word| !word.is_empty()).collect();
    format!("{method}_{}", words.join("_"))
}

/// All schemas side by side: what a kind defines for itself becomes a schema of the document,
/// because references are resolved from the document's root.
fn components() -> Value {
    let mut all = Map::new();
    for (kind, mut schema) in json_schemas() {
        let definitions = schema.as_object_mut().and_then(|fields| fields.remove("$defs"));
        if let Some(Value::Object(definitions)) = definitions {
            all.extend(definitions);
        }
        all.insert(kind.to_owned(), schema);
    }
    all.values_mut().for_each(point_to_components);
    let text = || json!({ "type": "string" });
    all.insert(
        "Problem".into(),
        json!({
            "type": "object",
            "required": ["type", "title", "status", "detail", "code", "remedy"],
            "properties": {
                "type": text(), "title": text(), "status": { "type": "integer" },
                "detail": text(), "code": text(), "remedy": text(), "node": text(),
                "violations": { "type": "array", "items": { "type": "object" } },
            },
        }),
    );
    all.insert(
        "Drain".into(),
        json!({
            "type": "object",
            "required": ["draining"],
            "properties": { "draining": { "type": "boolean" } },
        }),
    );
    all.insert(
        "DrainRegion".into(),
        json!({ "type": "object", "properties": { "reason": text() } }),
    );
    all.insert(
        "Fault".into(),
        json!({
            "type": "object",
            "required": ["fault", "lasts"],
            "properties": {
                "fault": { "enum": ["none", "crash", "pause", "isolate", "loss"] },
                "lasts": text(),
            },
        }),
    );
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    all.insert(
        "NewToken".into(),
        json!({
            "type": "object",
            "required": ["kind"],
            "properties": {
                "kind": { "enum": ["join", "api"] }, "ttl": text(),
                "uses": { "type": "integer", "minimum": 1 }, "region": text(), "zone": text(),
                "labels": texts,
                "role": { "enum": ["viewer", "editor", "admin"] }, "namespace": text(),
            },
        }),
    );
    let notes = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let token = json!({ "type": "integer", "minimum": 1 });
    all.insert(
        "AcquireLease".into(),
        json!({
            "type": "object",
            "required": ["holder", "ttl"],
            "properties": { "holder": text(), "ttl": text(), "annotations": notes },
        }),
    );
    all.insert(
        "RenewLease".into(),
        json!({
            "type": "object",
            "required": ["token"],
            "properties": { "token": token, "ttl": text(), "annotations": notes },
        }),
    );
    all.insert(
        "ReleaseLease".into(),
        json!({
            "type": "object",
            "required": ["token"],
            "properties": { "token": token },
        }),
    );
    let named = json!({
        "type": "object",
        "required": ["name"],
        "properties": { "name": text(), "revision": { "type": "integer", "minimum": 0 } },
    });
    let change = json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "put": { "$ref": "#/components/schemas/Function" }, "delete": named, "check": named,
        },
    });
    all.insert(
        "Transaction".into(),
        json!({
            "type": "object",
            "required": ["changes"],
            "properties": { "changes": { "type": "array", "items": change } },
        }),
    );
    Value::Object(all)
}

fn point_to_components(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(reference) if key == "$ref" => {
                        *reference = reference.replace("#/$defs/", "#/components/schemas/");
                    }
                    value => point_to_components(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_components),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(reference) if key == "$ref" => {
                            found.insert(reference);
                        }
                        value => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_endpoint_is_listed_and_every_reference_leads_somewhere() {
        let endpoints = endpoints();
        let document = build(&endpoints);
        for endpoint in &endpoints {
            let path = endpoint.path.replace("{*", "{");
            let method = endpoint.method.as_ref().map_or("post", |method| match method.as_str() {
                "PUT" => "put",
                "POST" => "post",
                "DELETE" => "delete",
                _ => "get",
            });
            let operation = &document["paths"][&path][method];
            assert_eq!(operation["summary"], endpoint.summary, "{method} {path}");
            let given = operation["parameters"].as_array().unwrap();
            for name in path_parameters(endpoint.path) {
                let named =
                    |parameter: &Value| parameter["name"] == name && parameter["required"] == true;
                assert!(given.iter().any(named), "{path} {name}");
            }
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 5, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn if_match_is_offered_where_it_means_something() {
        let document = build(&endpoints());
        let offers = |path: &str, method: &str| {
            let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
            parameters.iter().any(|parameter| parameter["name"] == "If-Match")
        };
        let function = "/v1/namespaces/{namespace}/functions/{name}";
        assert!(offers(function, "put") && offers(function, "delete"));
        assert!(!offers("/v1/namespaces/{namespace}/transactions", "post"));
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = build(&endpoints());
        let mut ids = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id}");
            }
        }
    }
}
