//! The OpenAPI document lists the routes that there are.

use serde_json::Value;

use super::*;

#[test]
fn the_openapi_document_lists_exactly_the_routes() {
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let listed: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let mut routes = ROUTES.map(|(path, _)| path);
    routes.sort_unstable();
    assert_eq!(listed, routes);
}

#[test]
fn top_is_a_number_from_1_on() {
    assert_eq!(top(None), Ok(0));
    assert_eq!(top(Some("")), Ok(0));
    assert_eq!(top(Some("top=3")), Ok(3));
    for wrong in [
        "top",
        "top=",
        "top=0",
        "top=-1",
        "top=x",
        "path=/etc/passwd",
        "top=1&x=2",
    ] {
        assert_eq!(top(Some(wrong)).unwrap_err().status, 400, "{wrong}");
    }
}
