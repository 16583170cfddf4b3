//! Writes each event as one line, with the fields of the spans that it is in.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// A layer that writes lines.
pub(super) struct Lines<W> {
    pub(super) format: LogFormat,
    /// Whether a terminal reads them.
    pub(super) colours: bool,
    /// Takes one line, with its end.
    pub(super) write: W,
}

/// Fields in the order in which they came, each once: what is recorded anew replaces what was.
#[derive(Debug, Clone, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let place = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(place).1)
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}").into());
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&str) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let message = match own.take("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans: Vec<(&str, Fields)> = spans
            .map(|span| (span.name(), span.extensions().get::<Fields>().cloned().unwrap_or_default()))
            .collect();
        let line =
            Line { at: now(), metadata: event.metadata(), message: &message, spans: &spans, own: &own };
        let mut text = match self.format {
            LogFormat::Text => line.text(self.colours),
            LogFormat::Json => line.json(),
        };
        text.push('\n');
        (self.write)(&text);
    }
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// An event as it is to be written.
struct Line<'a> {
    at: String,
    metadata: &'static Metadata<'static>,
    message: &'a str,
    /// The spans that it is in, the outermost first.
    spans: &'a [(&'a str, Fields)],
    own: &'a Fields,
}

impl Line<'_> {
    /// For people: `2026-11-24T10:31:07.123456Z  INFO session{upgrade_id=… step=3}: crus_core::driver: what happened key=value`.
    fn text(&self, colours: bool) -> String {
        let dim = |text: &str| if colours { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() };
        let level = match (*self.metadata.level(), colours) {
            (Level::ERROR, true) => "\x1b[31mERROR\x1b[0m",
            (Level::WARN, true) => "\x1b[33m WARN\x1b[0m",
            (Level::INFO, true) => "\x1b[32m INFO\x1b[0m",
            (Level::ERROR, false) => "ERROR",
            (Level::WARN, false) => " WARN",
            (Level::INFO, false) => " INFO",
            (Level::DEBUG, _) => "DEBUG",
            (Level::TRACE, _) => "TRACE",
        };
        // What the event says itself goes before it: a session's step, say, may be over when its span is still of it.
        let stands = |(name, value): &&(&str, Value)| {
            self.own.0.iter().all(|(own, other)| own != name || other == value)
        };
        let mut spans = String::new();
        for (name, fields) in self.spans {
            spans.push_str(name);
            let fields = Fields(fields.0.iter().filter(stands).cloned().collect());
            if !fields.0.is_empty() {
                spans.push('{');
                spans.push_str(pairs(&fields).trim_start());
                spans.push('}');
            }
            spans.push(':');
        }
        if !spans.is_empty() {
            spans.push(' ');
        }
        let target = dim(&format!("{}:", self.metadata.target()));
        let message = one_line(self.message);
        // What a span says just before need not be said again.
        let is_said = |field: &(&str, Value)| self.spans.iter().any(|(_, fields)| fields.0.contains(field));
        let own = Fields(self.own.0.iter().filter(|field| !is_said(field)).cloned().collect());
        format!("{} {level} {spans}{target} {message}{}", dim(&self.at), pairs(&own))
    }

    fn json(&self) -> String {
        // Of texts, numbers and words alone: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// For machines: one flat object. What an event says itself goes before what the spans around it say, and of these the
/// innermost first.
impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const OURS: [&str; 4] = ["timestamp", "level", "target", "message"];
        let mut merged = Fields::default();
        for (_, fields) in self.spans.iter().map(|(name, fields)| (*name, fields)).chain([("", self.own)]) {
            for (name, value) in fields.0.iter().filter(|(name, _)| !OURS.contains(name)) {
                merged.put(name, value.clone());
            }
        }
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.at)?;
        map.serialize_entry("level", self.metadata.level().as_str())?;
        map.serialize_entry("target", self.metadata.target())?;
        map.serialize_entry("message", self.message)?;
        for (name, value) in &merged.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// ` name=value` for each field.
fn pairs(fields: &Fields) -> String {
    let mut text = String::new();
    for (name, value) in &fields.0 {
        let value = match value {
            Value::String(value) => one_line(value),
            other => other.to_string(),
        };
        // To write into a `String` never fails.
        _ = write!(text, " {name}={value}");
    }
    text
}

/// A text as it can stand in a line: peers' words may hold line ends, which would look like other events, and what steers
/// terminals.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.extend(c.escape_default()),
            // Beside controls, what ends lines elsewhere, and what turns the direction of a text.
            c if c.is_control() => line.extend(c.escape_unicode()),
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Span, error_span, field, info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What `say` logs, as it would be written.
    fn logged(format: LogFormat, say: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&written);
        let write = move |line: &str| to.lock().unwrap().push_str(line);
        let subscriber = tracing_subscriber::registry().with(Lines { format, colours: false, write });
        tracing::subscriber::with_default(subscriber, say);
        std::mem::take(&mut *written.lock().unwrap())
    }

    fn json(say: impl FnOnce()) -> Vec<Value> {
        let text = logged(LogFormat::Json, say);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn session() -> Span {
        error_span!("session", upgrade_id = "1-2-3", step = field::Empty)
    }

    #[test]
    fn a_line_has_the_fields_of_all_spans_around_it_and_its_own_before_theirs() {
        let lines = json(|| {
            let session = session();
            let _in_session = session.enter();
            info!("not yet in a step");
            session.record("step", 3);
            session.record("step", 4);
            info_span!("check", xname = "x1", step = 4).in_scope(|| {
                warn!(step = 5, ok = false, "inside");
            });
        });
        assert_eq!(lines[0].get("step"), None);
        assert_eq!(lines[0]["upgrade_id"], "1-2-3");
        let inside = &lines[1];
        assert_eq!((&inside["upgrade_id"], &inside["xname"]), (&"1-2-3".into(), &"x1".into()));
        assert_eq!((&inside["step"], &inside["ok"]), (&5.into(), &false.into()));
        assert_eq!((&inside["level"], &inside["message"]), (&"WARN".into(), &"inside".into()));
        assert!(inside["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(inside["target"], module_path!());
    }

    #[test]
    fn in_text_a_span_is_shown_with_what_was_recorded_last() {
        let text = logged(LogFormat::Text, || {
            let session = session();
            session.record("step", 3);
            session.record("step", 4);
            session.in_scope(|| info!(step = 4, node = %"x1", "drained"));
            session.in_scope(|| info!(step = 5, "the next one"));
            info!("outside");
        });
        let lines: Vec<&str> = text.lines().collect();
        let [first, next, last] = lines[..] else { panic!("{text}") };
        let after = |line: &str| line.split_once("Z ").unwrap().1.to_owned();
        let target = module_path!();
        assert_eq!(
            after(first),
            format!(" INFO session{{upgrade_id=1-2-3 step=4}}: {target}: drained node=x1")
        );
        // One line is not of two steps.
        assert_eq!(after(next), format!(" INFO session{{upgrade_id=1-2-3}}: {target}: the next one step=5"));
        assert_eq!(after(last), format!(" INFO {target}: outside"));
    }

    /// What peers say ends up in the log: it must not look like something that we said, nor steer who reads it.
    #[test]
    fn words_of_others_make_no_lines_of_their_own() {
        let foreign = "no\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{7f}\u{9b}1m\u{2028}x\u{202e}y\t\0";
        let say = || {
            session().in_scope(|| {
                warn!(error = %foreign, quoted = foreign, debug = ?foreign, "the peer said: {foreign}");
            });
        };
        let text = logged(LogFormat::Text, say);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(
            !text.trim_end().chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{202e}'),
            "{text:?}"
        );
        assert!(
            text.contains(r"the peer said: no\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{7f}"),
            "{text}"
        );
        let text = logged(LogFormat::Json, say);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["error"], foreign, "machines get it as it was");
    }

    #[test]
    fn no_field_takes_the_place_of_what_every_line_has() {
        let lines = json(|| info!(level = "none", target = "other", timestamp = 1, "said"));
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"said".into()));
        assert_eq!(lines[0]["target"], module_path!());
    }
}
