//! Pages for people.

use axum::body::Body;

use crate::service::{Api, request};

const PREFIXES: [&str; 2] = ["", "/apis/crus"];

#[test]
fn pages_are_served_under_both_prefixes_and_load_nothing() {
    let api = Api::new();
    for prefix in PREFIXES {
        for (path, title) in [("/docs", ""), ("/docs/api", "api")] {
            let page = api.get(&format!("{prefix}{path}")).expect(200);
            assert!(page.text().contains(&format!("<title>{title}</title>")), "{}", page.text());
            assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
            assert_eq!(page.header("content-security-policy"), "default-src 'none'");
            assert_eq!(page.header("x-content-type-options"), "nosniff");
            assert_eq!((page.header("etag"), page.header("cache-control")), ("\"1\"", "no-cache"));
        }
        for path in ["/docs/", "/docs/none", "/docs/api/", "/docs/..%2fapi", "/docs/%ff"] {
            api.get(&format!("{prefix}{path}")).expect(404);
        }
    }
}

#[test]
fn a_page_that_is_known_already_is_not_sent_again() {
    let api = Api::new();
    for (tags, status) in
        [("\"1\"", 304), ("W/\"1\"", 304), ("\"0\", \"1\"", 304), ("*", 304), ("\"2\"", 200), ("1", 200)]
    {
        let request = request("GET", "/docs").header("if-none-match", tags);
        let answer = api.call(request.body(Body::empty()).unwrap()).expect(status);
        assert_eq!(answer.header("etag"), "\"1\"");
        assert_eq!(answer.body.is_empty(), status == 304, "{tags}");
    }
}
