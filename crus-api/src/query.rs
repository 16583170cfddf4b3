//! The parameters of a query, `?limit=10&after=x1000c0s0b0n0`.

use std::collections::BTreeMap;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::json::list;
use crate::problem::Problem;

/// So many mistakes are told.
const TOLD: usize = 8;

/// The parameters of a query, each taken out as it is read.
pub(crate) struct Query {
    parameters: BTreeMap<String, Vec<String>>,
    known: Vec<&'static str>,
    mistakes: Vec<String>,
}

impl Query {
    pub(crate) fn new(query: Option<&str>) -> Self {
        let mut parameters = BTreeMap::<String, Vec<String>>::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(decoded(name)).or_default().push(decoded(value));
        }
        Query { parameters, known: Vec::new(), mistakes: Vec::new() }
    }

    /// Reads a parameter that may be left out. What is not right is noted; `read` says what would be.
    pub(crate) fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(name);
        let values = self.parameters.remove(name)?;
        let [value] = values.as_slice() else {
            self.mistakes.push(format!("{name} is given more than once; it must be given once."));
            return None;
        };
        match read(value) {
            Ok(value) => Some(value),
            Err(rule) => {
                let value: String = value.chars().take(64).collect();
                self.mistakes.push(format!("{name} is {value:?}; it {rule}."));
                None
            }
        }
    }

    /// Reads a whole number of this range.
    pub(crate) fn number(&mut self, name: &'static str, least: u64, most: u64) -> Option<u64> {
        self.read(name, |text| {
            let number = text.parse().ok().filter(|number| (least..=most).contains(number));
            number.filter(|_| text.bytes().all(|b| b.is_ascii_digit())).ok_or_else(|| match most {
                u64::MAX => format!("must be a whole number from {least}"),
                most => format!("must be a whole number from {least} to {most}"),
            })
        })
    }

    /// # Errors
    /// 400 when anything is not right, or there is a parameter that was not read.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for name in self.parameters.keys() {
            let name: String = name.chars().take(64).collect();
            let known = list(&self.known);
            self.mistakes.push(format!("{name:?} is not a parameter of this path; it has {known}."));
        }
        if self.mistakes.is_empty() {
            return Ok(());
        }
        self.mistakes.truncate(TOLD);
        let detail = format!("The query is not right. {}", self.mistakes.join(" "));
        Err(Problem::new(StatusCode::BAD_REQUEST, detail))
    }
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}
