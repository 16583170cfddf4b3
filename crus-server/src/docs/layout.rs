//! What is around a page: its head, the way to the others, and how it looks.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::markdown::{Rendered, escape, page_link};
use super::{INDEX, REFERENCE};

const STYLE: &str = include_str!("style.css");

/// What tells a page from itself as another version has it.
pub(super) fn tag(html: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, html.as_bytes()).as_ref()[..12])
}

/// What a page may load: nothing but its own style.
pub(super) fn policy() -> String {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page at this place among all.
pub(super) fn page(contents: &[(&'static str, Rendered)], at: usize) -> String {
    let (name, content) = &contents[at];
    let is_index = *name == INDEX;
    let title = if is_index { content.title.clone() } else { format!("{} · CRUS", content.title) };
    let beside = |at: Option<usize>, class: &str, word: &str| {
        let (name, page) = at.and_then(|at| contents.get(at))?;
        let (link, title) = (page_link(name, is_index), escape(&page.title));
        Some(format!("<a class=\"{class}\" href=\"{link}\"><small>{word}</small> {title}</a>"))
    };
    let before = beside(at.checked_sub(1), "before", "Before").unwrap_or_default();
    let next = beside(Some(at + 1), "next", "Next").unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<header><a href=\"{index}\">CRUS</a> <a class=\"menu\" href=\"#contents\">Contents</a></header>\n\
         <main{class}>\n{body}\n<p class=\"beside\">{before}{next}</p>\n</main>\n\
         <nav id=\"contents\" aria-label=\"Contents\">\n{nav}</nav>\n</body>\n</html>\n",
        title = escape(&title),
        index = page_link(INDEX, is_index),
        class = if *name == REFERENCE { " class=\"reference\"" } else { "" },
        body = content.html,
        nav = nav(contents, at),
    )
}

/// The way to every page, and to the sections of this one.
fn nav(contents: &[(&'static str, Rendered)], here: usize) -> String {
    let from_index = contents[here].0 == INDEX;
    let entry = |at: usize| {
        let (name, page) = &contents[at];
        let title = escape(&page.title);
        if at != here {
            return format!("<li><a href=\"{}\">{title}</a></li>\n", page_link(name, from_index));
        }
        let sections = page.headings.iter().filter(|heading| heading.level == 2);
        let sections: String = sections
            .map(|heading| format!("<li><a href=\"#{}\">{}</a></li>\n", heading.id, escape(&heading.text)))
            .collect();
        let list = if sections.is_empty() { sections } else { format!("<ul>\n{sections}</ul>\n") };
        format!("<li><a href=\"#\" aria-current=\"page\">{title}</a>\n{list}</li>\n")
    };
    let pages: String = (0..contents.len()).map(entry).collect();
    let document = if from_index { "openapi.json" } else { "../openapi.json" };
    format!("<ul>\n{pages}<li><a href=\"{document}\">openapi.json</a></li>\n</ul>\n")
}
