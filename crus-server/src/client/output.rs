//! How answers are printed: tables for people, JSON as the service sent it, TOML of the same.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use super::args::Format;
use super::error::ClientError;

/// What is between two columns of a table, in characters.
const GAP: u16 = 2;
/// The last column of a table is no narrower, unless it holds less.
const LAST_MIN: u16 = 20;

/// Stdout, and what it is to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// What was asked for, if anything was.
    asked: Option<Format>,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(asked: Option<Format>) -> Self {
        Output { asked, is_terminal: io::stdout().is_terminal() }
    }

    /// How an answer is printed.
    pub(crate) fn format(self) -> Format {
        self.asked.unwrap_or(if self.is_terminal { Format::Table } else { Format::Json })
    }

    /// How events are printed one by one: without a wish in words, wherever they go.
    pub(crate) fn line_format(self) -> Format {
        self.asked.unwrap_or(Format::Table)
    }

    /// Whether a picture can move.
    pub(crate) fn is_live(self) -> bool {
        self.asked.is_none() && self.is_terminal
    }

    /// Prints an answer, for people by `table`.
    pub(crate) fn answer(
        self,
        answer: &Value,
        table: impl FnOnce() -> Result<String, ClientError>,
    ) -> Result<(), ClientError> {
        let text = match self.format() {
            Format::Table => table()?,
            Format::Json => pretty(answer)?,
            Format::Toml => to_toml(answer)?,
        };
        print_all(&text)
    }

    /// A table, as wide as it must be, or as the terminal is, without the columns that hold nothing.
    pub(crate) fn table(self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
        table(head, rows, self.is_terminal.then(width))
    }
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let is_held = |at: &usize| {
        rows.is_empty() || rows.iter().any(|row| row.get(*at).is_some_and(|cell| !cell.is_empty()))
    };
    let held: Vec<usize> = (0..head.len()).filter(is_held).collect();
    let choose = |cells: &[String]| -> Vec<String> {
        held.iter().map(|at| cells.get(*at).cloned().unwrap_or_default()).collect()
    };
    let head: Vec<String> = choose(&head.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let rows: Vec<Vec<String>> = rows.iter().map(|row| choose(row)).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(&head);
    table.add_rows(&rows);
    if let Some(width) = width {
        // What is wrapped cannot be copied, or found: only the last column is, and not to shreds.
        let widths = table.column_max_content_widths();
        let (last, others) = widths.split_last().map_or((0, &[][..]), |(last, others)| (*last, others));
        let fixed: u16 = others.iter().map(|width| width.saturating_add(GAP)).fold(GAP, u16::saturating_add);
        let least = fixed.saturating_add(last.min(LAST_MIN));
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(least));
        let columns = others.len();
        for column in table.column_iter_mut().take(columns) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

/// The width of the terminal, in characters.
pub(crate) fn width() -> u16 {
    console::Term::stdout().size().1
}

/// Prints text, and sees to it that it is out.
pub(crate) fn print(text: &str) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| ClientError::output(&error))
}

/// The same where what was asked for is done by now: that nobody reads on (`… | head`) is no failure.
pub(crate) fn print_all(text: &str) -> Result<(), ClientError> {
    print(text).or_else(|error| if error.is_quiet() { Ok(()) } else { Err(error) })
}

/// Says something beside the output. When nobody listens, nothing is lost.
pub(crate) fn note(text: &str) {
    writeln!(io::stderr(), "crus: {text}").unwrap_or_default();
}

/// Names and values, one pair a line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}\n", clean(value));
    pairs.iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
}

/// Without what could move the cursor: texts come from peers and jobs.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn pretty(answer: &Value) -> Result<String, ClientError> {
    let text = serde_json::to_string_pretty(answer);
    text.map(|text| text + "\n")
        .map_err(|error| ClientError::failed(format!("failed to write JSON: {error}")))
}

/// The same as TOML. A document of TOML is a table: a list becomes its `results`.
pub(crate) fn to_toml(answer: &Value) -> Result<String, ClientError> {
    let table = match answer {
        Value::Object(_) => answer.clone(),
        other => json!({ "results": other }),
    };
    toml::to_string(&without_null(&table))
        .map_err(|error| ClientError::failed(format!("failed to write TOML: {error}; try --format json")))
}

/// TOML has no null: what is null is left out.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().filter(|value| !value.is_null()).map(without_null).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                fields.map(|(name, value)| (name.clone(), without_null(value))).collect::<Map<_, _>>(),
            )
        }
        other => other.clone(),
    }
}

/// `2026-11-24T10:31:07.123Z` without the milliseconds, which matter to programs alone.
pub(crate) fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, rest)) if rest.ends_with('Z') => format!("{seconds}Z"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_toml_is_the_same_but_for_null() {
        let answer =
            json!({"a": null, "list": [{"b": 1, "c": null}, {"b": 2}], "state": "READY", "z": {"y": null}});
        let table: toml::Table = to_toml(&answer).unwrap().parse().unwrap();
        let back = serde_json::to_value(table).unwrap();
        assert_eq!(back, json!({"list": [{"b": 1}, {"b": 2}], "state": "READY", "z": {}}));
        assert_eq!(
            to_toml(&json!([{"a": 1}, {"a": 2}])).unwrap(),
            "[[results]]\na = 1\n\n[[results]]\na = 2\n"
        );
        assert_eq!(to_toml(&json!([])).unwrap(), "results = []\n");
    }

    #[test]
    fn nothing_of_others_moves_the_cursor() {
        let output = Output { asked: Some(Format::Table), is_terminal: false };
        let table = output.table(&["NAME"], [vec!["a\u{1b}[2Jb\nc".to_owned()]]);
        assert_eq!(table, "NAME\na [2Jb c\n");
        assert_eq!(pairs(&[("User", "x\u{7}".to_owned()), ("None", String::new())]), "User  x \n");
    }

    #[test]
    fn on_a_narrow_terminal_the_last_column_alone_is_wrapped_and_empty_ones_are_left_out() {
        let xname = "x1000c0s0b0n0-of-some-length";
        let row =
            |reason: &str| [xname, "draining", "", "2026-11-24 10:31:07", reason].map(str::to_owned).to_vec();
        let head = ["XNAME", "STATE", "JOB", "SINCE (UTC)", "REASON"];
        let text =
            table(&head, [row("it waits for what takes a long time to come, and is not here yet")], Some(90));
        assert!(!text.contains("JOB") && text.lines().count() > 2, "{text}");
        assert!(text.lines().all(|line| line.len() <= 90), "{text}");
        assert!(text.contains(&format!("{xname}  draining  2026-11-24 10:31:07  it waits")), "{text}");
        let narrow = table(&head, [row("short")], Some(20));
        assert!(narrow.contains(&format!("{xname}  draining  2026-11-24 10:31:07  short")), "{narrow}");
        assert_eq!(table(&["A", "B"], [], Some(80)), "A  B\n");
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(seconds("2026-11-24T10:31:07.123Z"), "2026-11-24T10:31:07Z");
        assert_eq!(seconds("2026-11-24T10:31:07Z"), "2026-11-24T10:31:07Z");
    }
}
