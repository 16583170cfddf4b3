//! Server-sent events out of the bytes of a stream, however these are cut.

/// The longest event, in bytes: one that names 100,000 nodes takes less.
const EVENT_MAX: usize = 16 << 20;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SentEvent {
    /// The last id that was sent, with this event or before.
    pub(crate) id: String,
    /// Its kind; empty when none was sent.
    pub(crate) event: String,
    /// Its data: several lines are divided by line feeds.
    pub(crate) data: String,
}

/// More bytes than an event may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_MAX} bytes")]
pub(crate) struct TooLong;

/// Reads a stream of events as the standard says (WHATWG HTML, "Server-sent events").
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The line that has begun.
    line: Vec<u8>,
    /// The byte before was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// A line has ended: what marks the order of bytes can only be at the very beginning.
    begun: bool,
    id: String,
    event: String,
    data: Option<String>,
}

impl Parser {
    /// Takes in more bytes; returns the events that are complete with them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<SentEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    events.extend(self.end_line());
                }
                byte => {
                    self.after_return = false;
                    self.line.push(byte);
                    if self.line.len() + self.data.as_ref().map_or(0, String::len) > EVENT_MAX {
                        return Err(TooLong);
                    }
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<SentEvent> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.begun { &line } else { line.strip_prefix('\u{feff}').unwrap_or(&line) };
        self.begun = true;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // Without data it is none, such as a comment that keeps the connection alive.
            return self.data.take().map(|data| SentEvent { id: self.id.clone(), event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment (its field is empty), a pace to try again at (ours is our own), or something new.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, event: &str, data: &str) -> SentEvent {
        SentEvent { id: id.into(), event: event.into(), data: data.into() }
    }

    fn read(bytes: &[u8]) -> Vec<SentEvent> {
        Parser::default().take(bytes).unwrap()
    }

    const STREAM: &str = "\u{feff}: hello\n\nid: 7\nevent: nodes\ndata: {\"a\":\ndata: 1}\n\nretry: 5\ndata:ü\r\n\r\nid\rdata\r\rdata: open";

    #[test]
    fn a_stream_is_read_as_the_standard_says() {
        assert_eq!(
            read(STREAM.as_bytes()),
            [event("7", "nodes", "{\"a\":\n1}"), event("7", "", "ü"), event("", "", "")]
        );
        assert_eq!(read(b"data:  two spaces\n\n"), [event("", "", " two spaces")]);
        assert_eq!(read(b"id: 1\0\ndata: x\nnews: y\n\n"), [event("", "", "x")]);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let whole = read(STREAM.as_bytes());
        for first in 0..STREAM.len() {
            for second in first..STREAM.len() {
                let mut parser = Parser::default();
                let mut events = Vec::new();
                for part in [0..first, first..second, second..STREAM.len()] {
                    events.extend(parser.take(&STREAM.as_bytes()[part]).unwrap());
                }
                assert_eq!(events, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn an_event_that_does_not_end_is_not_kept() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &[b'x'; 1 << 20], b"\n"].concat();
        let taken = (0..32).map(|_| parser.take(&line)).find(Result::is_err);
        assert_eq!(taken, Some(Err(TooLong)));
    }
}
