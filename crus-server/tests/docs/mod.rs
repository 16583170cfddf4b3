//! What the guide says: that its links lead somewhere, that what it names is there, that no message is left out, and that
//! its pages need nothing but themselves. That its commands print what it says is the module `guide`.

mod messages;
mod names;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crus_api::Pages as _;
use crus_server::docs::{CHAPTERS, Guide, INDEX, REFERENCE, contents};
use pulldown_cmark::{Event, Parser};

/// The text of a chapter.
fn chapter(name: &str) -> &'static str {
    CHAPTERS.iter().find(|(other, _)| *other == name).unwrap().1
}

/// What stands between single backticks in a text, in its order.
fn codes(text: &str) -> Vec<String> {
    let code = |event: Event<'_>| if let Event::Code(code) = event { Some(code.to_string()) } else { None };
    Parser::new_ext(text, pulldown_cmark::Options::ENABLE_TABLES).filter_map(code).collect()
}

#[test]
fn every_file_of_the_guide_is_a_chapter_that_the_index_names() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".md")?.to_owned()))
        .collect();
    assert!(files.remove("README"), "the index is there");
    let chapters: BTreeSet<String> =
        CHAPTERS.iter().map(|(name, _)| (*name).to_owned()).filter(|name| name != INDEX).collect();
    assert_eq!(chapters, files);
    let index = contents().into_iter().find(|(name, _)| *name == INDEX).unwrap().1;
    for name in chapters.iter().map(String::as_str).chain([REFERENCE]) {
        let link = format!("docs/{name}");
        assert!(index.links.contains(&link), "the index has no link to {name}");
    }
}

#[test]
fn every_link_leads_to_a_page_and_every_anchor_to_a_heading() {
    let pages: BTreeMap<String, BTreeSet<String>> = contents()
        .into_iter()
        .map(|(name, page)| (address(name), page.headings.into_iter().map(|heading| heading.id).collect()))
        .collect();
    for (name, _) in contents() {
        let here = address(name);
        let html = Guide.page(name).unwrap().html().to_owned();
        for link in attributes(&html, "href") {
            if link.starts_with("https://") || link == "#" {
                continue;
            }
            let (to, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let to = resolve(&here, to);
            if to == "/openapi.json" {
                continue;
            }
            let known =
                pages.get(&to).unwrap_or_else(|| panic!("{here}: {link} leads to {to}, which is no page"));
            let is_there = anchor.is_empty() || known.contains(anchor) || anchor == "contents";
            assert!(is_there, "{here}: {link} leads to no heading of {to}");
        }
    }
}

/// Who is woken by an alert is sent to a chapter that is there.
#[test]
fn every_alert_names_chapters_of_the_guide() {
    let titles: BTreeSet<String> = contents().into_iter().map(|(_, page)| page.title).collect();
    let rules = include_str!("../../packaging/prometheus/crus.rules.yaml");
    let rules = rules.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut named = BTreeSet::new();
    for alert in rules.split("- alert: ").skip(1) {
        let (_, guide) = alert.split_once("See the guide, ").unwrap_or_else(|| panic!("{alert} names none"));
        // `"One".`, or `"One", and "another".`
        let guide = guide.split_once("\".").unwrap().0;
        named.extend(guide.split('"').filter(|name| !["", ", and "].contains(name)).map(str::to_owned));
    }
    assert!(named.len() > 4, "{named:?}");
    assert!(named.is_subset(&titles), "{named:?} are not all among {titles:?}");
}

/// Where a page is.
fn address(name: &str) -> String {
    if name == INDEX { "/docs".to_owned() } else { format!("/docs/{name}") }
}

/// Where a relative link leads, as a browser finds it.
fn resolve(from: &str, to: &str) -> String {
    assert!(!to.starts_with('/'), "{to} does not work under a prefix");
    if to.is_empty() {
        return from.to_owned();
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            ".." => assert!(parts.pop().is_some()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn attributes(html: &str, name: &str) -> Vec<String> {
    let begin = format!(" {name}=\"");
    html.split(&begin).skip(1).map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&")).collect()
}

#[test]
fn a_page_needs_nothing_but_itself() {
    for (name, _) in contents() {
        let html = Guide.page(name).unwrap().html().to_owned();
        assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"), "{name}");
        assert_eq!(html.matches("<style>").count(), 1, "{name}");
        assert_eq!(html.matches("<h1").count(), 1, "{name}");
        for loads in [
            "<script",
            "<link",
            "<img",
            "<iframe",
            "<object",
            " src=",
            " style=",
            "@import",
            "url(",
            " onclick=",
        ] {
            assert!(!html.contains(loads), "{name} has {loads}");
        }
        for what in ["<!--", "site cluster", "start_service"] {
            assert!(!html.contains(what), "{name} shows {what}, which is for the tests");
        }
    }
    assert!(Guide.page("none").is_none());
}

/// The reference holds every operation, every schema and every property of the document.
#[test]
fn nothing_of_the_api_is_left_out_of_its_reference() {
    let html = Guide.page(REFERENCE).unwrap().html().to_owned();
    let document: serde_json::Value = serde_json::from_str(crus_api::routes::OPENAPI).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let head = format!("<span class=\"method\">{method}</span> <code>{path}</code>");
            assert!(html.contains(&head), "{method} {path}");
            for code in operation["responses"].as_object().unwrap().keys() {
                assert!(html.contains(&format!("<code>{code}</code>")), "{method} {path} {code}");
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(html.contains(&format!("<h3 id=\"schema-{}\">", name.to_lowercase())), "{name}");
        for property in schema["properties"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            assert!(html.contains(&format!("<code>{property}</code>")), "{name} {property}");
        }
    }
}
