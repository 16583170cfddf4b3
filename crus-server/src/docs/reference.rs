//! The reference of the API, made of its OpenAPI document: what it uses of OpenAPI, and no more.

use serde_json::{Map, Value};

use super::markdown::{Heading, Rendered, anchor_link, code_block, escape, inline, slug};

/// Methods in the order in which they are shown.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The reference.
pub(super) fn render(document: &str) -> Rendered {
    // It is part of the binary, and a test reads it: one that is none shows as an empty reference.
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let title = "API reference".to_owned();
    let mut page = Writer {
        page: Rendered { title: title.clone(), headings: Vec::new(), links: Vec::new(), html: String::new() },
        document: &document,
    };
    page.put(&format!("<h1 id=\"api-reference\">{title}</h1>\n"));
    let info = &document["info"];
    page.put(&format!("<p>Version {}.</p>\n", escape(text(&info["version"]))));
    page.words(&info["description"]);
    let mut paths: Vec<(&String, &Value)> = entries(&document["paths"]).collect();
    paths.sort_by_key(|(path, _)| (!path.starts_with("/session"), path.len(), path.as_str()));
    for (path, item) in paths {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                page.operation(path, method, item, operation);
            }
        }
    }
    page.heading(2, "Schemas", "schemas");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        page.heading(3, name, &schema_anchor(name));
        page.words(&schema["description"]);
        let shape = page.shape(schema);
        page.put(&shape);
    }
    page.page
}

struct Writer<'a> {
    page: Rendered,
    document: &'a Value,
}

impl<'a> Writer<'a> {
    fn put(&mut self, html: &str) {
        self.page.html.push_str(html);
    }

    fn heading(&mut self, level: usize, text: &str, id: &str) {
        self.put(&format!("<h{level} id=\"{id}\">{}{}</h{level}>\n", escape(text), anchor_link(id)));
        self.page.headings.push(Heading { level, id: id.to_owned(), text: text.to_owned() });
    }

    /// A description, in paragraphs.
    fn words(&mut self, description: &Value) {
        for paragraph in text(description).split("\n\n").filter(|words| !words.is_empty()) {
            self.put(&format!("<p>{}</p>\n", inline(paragraph)));
        }
    }

    /// What a reference stands for.
    fn resolve(&self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }

    fn operation(&mut self, path: &str, method: &str, item: &'a Value, operation: &'a Value) {
        let summary = text(&operation["summary"]);
        let id =
            self.page.anchor(&slug(&format!("{method} {}", path.trim_start_matches('/').replace('/', " "))));
        self.put(&format!("<h2 id=\"{id}\">{}{}</h2>\n", escape(summary), anchor_link(&id)));
        self.page.headings.push(Heading { level: 2, id, text: summary.to_owned() });
        self.put(&format!("<p><span class=\"method\">{method}</span> <code>{}</code></p>\n", escape(path)));
        self.words(&operation["description"]);
        if operation.get("security").is_none_or(|wants| wants.as_array().is_some_and(Vec::is_empty)) {
            self.put("<p class=\"tag\">Needs no token.</p>\n");
        }
        let parameters: Vec<&Value> = [item, operation]
            .iter()
            .flat_map(|of| of["parameters"].as_array().into_iter().flatten())
            .map(|parameter| self.resolve(parameter))
            .collect();
        if !parameters.is_empty() {
            let rows = parameters.iter().map(|parameter| {
                let name = text(&parameter["name"]);
                let needed = if parameter["required"] == true { "required" } else { "" };
                let place = format!("in the {} {needed}", text(&parameter["in"]));
                [
                    format!("<code>{}</code><br><span class=\"tag\">{}</span>", escape(name), place.trim()),
                    self.kind(&parameter["schema"]),
                    inline(text(&parameter["description"])),
                ]
            });
            let table = table(["Parameter", "Value", ""], rows.collect());
            self.put(&format!("<h4>Parameters</h4>\n{table}"));
        }
        if let Some(body) = operation.get("requestBody") {
            let body = self.resolve(body);
            self.put("<h4>Body</h4>\n");
            self.words(&body["description"]);
            self.content(body);
        }
        self.put("<h4>Answers</h4>\n");
        let answers: Vec<[String; 3]> = entries(&operation["responses"])
            .map(|(code, answer)| {
                let answer = self.resolve(answer);
                let bodies: Vec<String> = entries(&answer["content"])
                    .map(|(media, content)| {
                        format!(
                            "{}<br><span class=\"tag\">{}</span>",
                            self.kind(&content["schema"]),
                            escape(media)
                        )
                    })
                    .collect();
                [
                    format!("<code>{}</code>", escape(code)),
                    inline(text(&answer["description"])),
                    bodies.join("<br>"),
                ]
            })
            .collect();
        self.put(&table(["Status", "", "Body"], answers));
        let good = entries(&operation["responses"]).find(|(code, _)| code.starts_with('2'));
        if let Some((_, answer)) = good {
            let answer = self.resolve(answer);
            self.examples(answer);
        }
    }

    /// What a body may be, with examples.
    fn content(&mut self, of: &'a Value) {
        for (media, content) in entries(&of["content"]) {
            let kind = self.kind(&content["schema"]);
            self.put(&format!("<p>{kind} <span class=\"tag\">{}</span></p>\n", escape(media)));
        }
        self.examples(of);
    }

    fn examples(&mut self, of: &'a Value) {
        for (_, content) in entries(&of["content"]) {
            let examples = entries(&content["examples"]).map(|(_, example)| &self.resolve(example)["value"]);
            let examples: Vec<&Value> = content.get("example").into_iter().chain(examples).collect();
            for example in examples {
                let shown = match example {
                    Value::String(text) => text.clone(),
                    other => serde_json::to_string_pretty(other).unwrap_or_default(),
                };
                self.put(&format!("<h4>Example</h4>\n{}", code_block(&shown, false)));
            }
        }
    }

    /// A schema as a few words; one with a name as a link to it.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
            return format!("<a href=\"#{}\">{}</a>", schema_anchor(name), escape(name));
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(some) = schema[key].as_array() {
                let kinds: Vec<String> = some.iter().map(|schema| self.kind(schema)).collect();
                return kinds.join(" or ");
            }
        }
        if let Some([one]) = schema["allOf"].as_array().map(Vec::as_slice) {
            return self.kind(one);
        }
        let mut words = match (schema["enum"].as_array(), text(&schema["type"])) {
            (Some(values), _) => {
                let values: Vec<String> =
                    values.iter().map(|value| format!("<code>{}</code>", escape(&plain(value)))).collect();
                values.join(", ")
            }
            (None, "array") => format!("list of {}", self.kind(&schema["items"])),
            (None, "") => "any value".to_owned(),
            (None, other) => escape(other),
        };
        let limits =
            ["format", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"];
        for limit in limits {
            match (limit, &schema[limit]) {
                (_, Value::Null) => {}
                ("format", value) => words = format!("{words}, {}", escape(&plain(value))),
                ("pattern", value) => {
                    words = format!("{words}, <code>{}</code>", escape(&plain(value)));
                }
                (limit, value) => {
                    words = format!("{words}, {} {}", limit_words(limit), escape(&plain(value)));
                }
            }
        }
        if schema["nullable"] == true && schema["enum"].is_null() {
            words += ", or <code>null</code>";
        }
        if let Some(default) = schema.get("default") {
            words = format!("{words}; default <code>{}</code>", escape(&plain(default)));
        }
        words
    }

    /// A schema with all that it holds.
    fn shape(&self, schema: &Value) -> String {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut all = String::new();
        // A schema may be another one and something more.
        let parts = schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        for part in parts {
            match part.get("$ref") {
                Some(_) => all += &format!("<p>All of {}, and:</p>\n", self.kind(part)),
                None => all += &self.shape(part),
            }
        }
        let properties: Vec<[String; 3]> = entries(&schema["properties"])
            .map(|(name, property)| {
                let mut tags = Vec::new();
                if required.contains(&name.as_str()) {
                    tags.push("required");
                }
                if property["readOnly"] == true {
                    tags.push("read only");
                }
                let mut words = inline(text(&property["description"]));
                let within = if text(&property["type"]) == "array" { &property["items"] } else { property };
                words += &self.shape_within(within);
                [
                    format!(
                        "<code>{}</code><br><span class=\"tag\">{}</span>",
                        escape(name),
                        tags.join(", ")
                    ),
                    self.kind(property),
                    words,
                ]
            })
            .collect();
        if !properties.is_empty() {
            all += &table(["Property", "Value", ""], properties);
        } else if parts.is_empty() {
            all += &format!("<p>{}</p>\n", self.kind(schema));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|more| more.is_object()) {
            all += &format!("<p>By name: {}</p>\n", self.kind(values));
        }
        all
    }

    /// The properties of an object that has no name of its own.
    fn shape_within(&self, schema: &Value) -> String {
        let has_more = schema.get("properties").is_some() || schema["additionalProperties"].is_object();
        if has_more && schema.get("$ref").is_none() { self.shape(schema) } else { String::new() }
    }
}

fn schema_anchor(name: &str) -> String {
    format!("schema-{}", slug(name))
}

fn limit_words(limit: &str) -> &'static str {
    match limit {
        "minimum" => "at least",
        "maximum" => "at most",
        "minLength" => "characters at least",
        "maxLength" => "characters at most",
        "minItems" => "entries at least",
        _ => "entries at most",
    }
}

fn table(head: [&str; 3], rows: Vec<[String; 3]>) -> String {
    let head: String = head.iter().map(|word| format!("<th>{word}</th>")).collect();
    let row = |row: [String; 3]| format!("<tr><td>{}</td></tr>\n", row.join("</td><td>"));
    let rows: String = rows.into_iter().map(row).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A value as it is written, a text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
