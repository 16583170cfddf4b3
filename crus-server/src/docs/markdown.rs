//! Markdown as HTML: headings with anchors, links between chapters, commands told apart from what they print.

use pulldown_cmark::{CodeBlockKind, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd, html};

/// Where the chapters link to the reference: a reader of the sources finds the document there.
const REFERENCE_LINK: &str = "../../crus-api/src/openapi.json";

/// What a page holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its title.
    pub title: String,
    /// Its headings below the title, in their order.
    pub headings: Vec<Heading>,
    /// Where its links lead, as they stand in it.
    pub links: Vec<String>,
    /// Its HTML.
    pub html: String,
}

/// A heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// 2 for a section, 3 for a part of one, and so on.
    pub level: usize,
    /// Its anchor.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// A chapter. HTML in it is shown as it is written, and comments are left out.
pub(super) fn render(source: &str, is_index: bool) -> Rendered {
    let mut page =
        Rendered { title: String::new(), headings: Vec::new(), links: Vec::new(), html: String::new() };
    let mut events = Vec::new();
    let mut parser = Parser::new_ext(source, Options::ENABLE_TABLES);
    while let Some(event) = parser.next() {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                let inner: Vec<Event<'_>> = parser
                    .by_ref()
                    .take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))))
                    .collect();
                let text = text_of(&inner);
                let id = page.anchor(&text);
                events.push(Event::Start(Tag::Heading {
                    level,
                    id: Some(id.clone().into()),
                    classes,
                    attrs,
                }));
                events.extend(inner);
                if level as usize == 1 {
                    page.title = text;
                } else {
                    events.push(Event::InlineHtml(anchor_link(&id).into()));
                    page.headings.push(Heading { level: level as usize, id, text });
                }
                events.push(Event::End(TagEnd::Heading(level)));
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let inner: Vec<Event<'_>> = parser
                    .by_ref()
                    .take_while(|event| !matches!(event, Event::End(TagEnd::CodeBlock)))
                    .collect();
                let is_console = matches!(&kind, CodeBlockKind::Fenced(word) if &**word == "console");
                events.push(Event::Html(code_block(&text_of(&inner), is_console).into()));
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = if matches!(link_type, LinkType::Email) {
                    dest_url
                } else {
                    page.link(&dest_url, is_index)
                };
                events.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
            }
            // Tables are as wide as they must be: they move in a frame of their own.
            Event::Start(Tag::Table(columns)) => {
                events.push(Event::Html("<div class=\"wide\">".into()));
                events.push(Event::Start(Tag::Table(columns)));
            }
            Event::End(TagEnd::Table) => {
                events.push(Event::End(TagEnd::Table));
                events.push(Event::Html("</div>\n".into()));
            }
            Event::Start(Tag::HtmlBlock) => {
                let inner = parser.by_ref();
                let inner = inner.take_while(|event| !matches!(event, Event::End(TagEnd::HtmlBlock)));
                let text: String = inner.map(|event| html_of(&event).to_owned()).collect();
                if !text.starts_with("<!--") {
                    events.push(Event::Html(code_block(&text, false).into()));
                }
            }
            Event::InlineHtml(text) if text.starts_with("<!--") => {}
            Event::Html(text) | Event::InlineHtml(text) => events.push(Event::Text(text)),
            other => events.push(other),
        }
    }
    html::push_html(&mut page.html, events.into_iter());
    page
}

/// A few words of Markdown within a line or a cell, such as a description in the reference.
pub(super) fn inline(source: &str) -> String {
    let mut out = String::new();
    html::push_html(&mut out, Parser::new(source));
    let only = out.strip_prefix("<p>").and_then(|text| text.strip_suffix("</p>\n"));
    only.filter(|text| !text.contains("<p>")).map(str::to_owned).unwrap_or(out)
}

impl Rendered {
    /// An anchor that no heading has yet.
    pub(super) fn anchor(&self, text: &str) -> String {
        let id = slug(text);
        let is_free = |id: &String| self.headings.iter().all(|heading| heading.id != *id);
        if is_free(&id) {
            return id;
        }
        (1..).map(|n| format!("{id}-{n}")).find(is_free).unwrap_or(id)
    }

    /// Where a link leads on the pages, noted.
    fn link<'a>(&mut self, to: &str, is_index: bool) -> CowStr<'a> {
        let (file, anchor) = to.split_once('#').map_or((to, ""), |(file, anchor)| (file, anchor));
        let name = if file == REFERENCE_LINK { Some(super::REFERENCE) } else { file.strip_suffix(".md") };
        let page = match name {
            Some("README") => page_link(super::INDEX, is_index),
            Some(name) => page_link(name, is_index),
            None => file.to_owned(),
        };
        let link = if anchor.is_empty() { page } else { format!("{page}#{anchor}") };
        self.links.push(link.clone());
        link.into()
    }
}

/// A link from a page to a page: from `/docs` itself or from one below it, whatever is before that.
pub(super) fn page_link(name: &str, from_index: bool) -> String {
    match (name, from_index) {
        (super::INDEX, true) => "docs".to_owned(),
        (super::INDEX, false) => "../docs".to_owned(),
        (name, true) => format!("docs/{name}"),
        (name, false) => name.to_owned(),
    }
}

/// The link to a heading that stands beside it.
pub(super) fn anchor_link(id: &str) -> String {
    format!(" <a class=\"anchor\" href=\"#{id}\" aria-label=\"Link to this section\">#</a>")
}

/// As the places where sources are read make anchors of headings.
pub(super) fn slug(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A block of code; of one with commands these stand out.
pub(super) fn code_block(text: &str, is_console: bool) -> String {
    let line = |line: &str| {
        let is_command = is_console && (line.starts_with("$ ") || line.starts_with("> "));
        if is_command { format!("<b>{}</b>\n", escape(line)) } else { format!("{}\n", escape(line)) }
    };
    let lines: String = text.lines().map(line).collect();
    // Whoever has no mouse scrolls with the keyboard.
    format!("<pre tabindex=\"0\"><code>{lines}</code></pre>\n")
}

fn text_of(events: &[Event<'_>]) -> String {
    let text = |event: &Event<'_>| match event {
        Event::Text(text) | Event::Code(text) => text.to_string(),
        _ => String::new(),
    };
    events.iter().map(text).collect()
}

/// A block of HTML comes line by line.
fn html_of<'a>(event: &'a Event<'_>) -> &'a str {
    match event {
        Event::Html(text) | Event::Text(text) => text,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_anchors_and_links_lead_to_pages() {
        let source = "# The *guide*\n\n## A `code` word, and more!\n\n## Twice\n\n## Twice\n\n\
                      [a](first.md#twice) [b](README.md) [c](#twice) [d](https://example.org/x.html)\n";
        let page = render(source, false);
        assert_eq!(page.title, "The guide");
        let ids: Vec<&str> = page.headings.iter().map(|heading| heading.id.as_str()).collect();
        assert_eq!(ids, ["a-code-word-and-more", "twice", "twice-1"]);
        assert_eq!(page.links, ["first#twice", "../docs", "#twice", "https://example.org/x.html"]);
        assert_eq!(render(source, true).links[..2], ["docs/first#twice", "docs"]);
        assert!(page.html.contains(r#"<h2 id="twice-1">"#), "{}", page.html);
    }

    #[test]
    fn html_is_shown_and_comments_are_not() {
        let source = "<!-- site -->\n\n<script>alert(1)</script>\n\na <b onclick=\"x\">b</b> <!-- c -->\n\n<!-- hidden\nrm -rf\n-->\n\nend";
        let html = render(source, true).html;
        assert!(html.contains("&lt;script&gt;") && html.contains("&lt;b onclick="), "{html}");
        for hidden in ["<script", "<b", "site", "hidden", "rm -rf", "<!--", "-->"] {
            assert!(!html.contains(hidden), "{hidden}: {html}");
        }
    }

    #[test]
    fn commands_stand_out_from_what_they_print() {
        let html = render("```console\n$ a <b>\n> c\nd & e\n```\n\n```toml\n$ x = 1\n```\n", true).html;
        assert!(html.contains("<b>$ a &lt;b&gt;</b>\n<b>&gt; c</b>\nd &amp; e\n"), "{html}");
        assert!(html.contains("<code>$ x = 1\n</code>"), "{html}");
    }
}
