//! The configuration file with every option in it, to be shipped.

use toml::Value;

use super::{Setting, all};
use crate::VERSION;

/// The widest line of an explanation.
const WIDTH: usize = 100;

/// A configuration file that says nothing: each option is there with its default, behind a `#`, below what it means.
pub fn example() -> String {
    let mut text = format!(
        "# The configuration of crus {VERSION}, as it is without one: each option stands here with its default. Take\n\
         # the # from those to be changed. Each is a flag (--poll-interval-s) and a variable\n\
         # (CRUS_POLL_INTERVAL_S), too; a flag wins over a variable, and a variable over this file.\n\
         # What is in force: crus serve --config crus.toml --print-config\n"
    );
    let mut heading = "";
    for setting in all() {
        if setting.heading != heading {
            heading = setting.heading;
            text += &format!("\n# ---- {heading} ----\n");
        }
        text += &format!("\n{}#{} = {}\n", comment(setting), setting.key, value(setting));
    }
    text
}

/// What it means, and what kind of value it is, in lines.
fn comment(setting: &Setting) -> String {
    let kind = format!("({})", setting.value.to_lowercase());
    let mut lines = vec![String::from("#")];
    for word in setting.help.split_whitespace().chain([kind.as_str()]) {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// The default, in the form that a person would write.
fn value(setting: &Setting) -> Value {
    let text = setting.default;
    if let Ok(number) = text.parse() {
        return Value::Integer(number);
    }
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Config;

    #[test]
    fn the_example_with_all_lines_in_force_is_what_holds_without_it() {
        let uncommented: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(option) if !option.starts_with(' ') => format!("{option}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let mut table: toml::Table = uncommented.parse().unwrap();
        let mut config = Config::default();
        for setting in all() {
            let value = table.remove(setting.key).unwrap_or_else(|| panic!("{} is missing", setting.key));
            (setting.set)(&mut config, &value).unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        }
        assert!(table.is_empty(), "{table}");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_example_as_it_is_says_nothing_and_can_be_read_on_a_terminal() {
        let example = example();
        assert!(example.parse::<toml::Table>().unwrap().is_empty());
        for line in example.lines() {
            let is_option = line.starts_with('#') && !line.starts_with("# ");
            assert!(is_option || line.chars().count() <= 110, "{line}");
        }
    }
}
