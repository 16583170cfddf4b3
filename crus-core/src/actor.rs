//! Who ordered something.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in characters.
const LONGEST: usize = 128;

/// What stands for a character that is not shown.
const HIDDEN: char = '?';

/// The name of somebody who ordered something, as whoever knows them calls them: a user, or a script's account.
///
/// It is kept with the session and shown in terminals, logs and messages, so it holds nothing that could change what
/// stands around it: no control characters, and none that are invisible or turn the direction of a text. Cheap to
/// clone: copies share the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Actor(Arc<str>);

/// Why a text is not the name of an actor. The text is not told: it may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name must be 1 to {LONGEST} characters, none of them a control character or invisible, with no space at \
     its ends"
)]
pub struct InvalidActor;

impl Actor {
    /// Reads a name that must be right as it is.
    ///
    /// # Errors
    /// When it is empty, longer than 128 characters, begins or ends with a space, or holds a character that is not shown.
    pub fn new(text: &str) -> Result<Self, InvalidActor> {
        let length = text.chars().take(LONGEST + 1).count();
        let good = (1..=LONGEST).contains(&length) && text.trim() == text && !text.chars().any(is_hidden);
        if good { Ok(Actor(text.into())) } else { Err(InvalidActor) }
    }

    /// Makes a name of a text that may be anything: characters that are not shown become `?`, and what is too long is
    /// cut. `None` when nothing is left.
    pub fn cleaned(text: &str) -> Option<Self> {
        let shown = text.trim().chars().take(LONGEST).map(|c| if is_hidden(c) { HIDDEN } else { c });
        let shown: String = shown.collect();
        Actor::new(shown.trim()).ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, and those of Unicode that take no room or turn the direction of what follows.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}')
        || matches!(c, '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Actor {
    type Err = InvalidActor;
    fn from_str(text: &str) -> Result<Self, InvalidActor> {
        Actor::new(text)
    }
}

impl TryFrom<String> for Actor {
    type Error = InvalidActor;
    fn try_from(text: String) -> Result<Self, InvalidActor> {
        Actor::new(&text)
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> String {
        actor.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_a_line_of_what_can_be_seen() {
        for good in ["ada", "Ada Lovelace", "svc/crus@site", "Zoë", "阿达", &"a".repeat(128)] {
            assert_eq!(Actor::new(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", " ada", "ada\n", "a\u{1b}[2Jb", "a\u{202e}b", "a\u{0}b", &"a".repeat(129)] {
            assert_eq!(Actor::new(bad), Err(InvalidActor), "{bad:?}");
        }
    }

    #[test]
    fn what_is_foreign_is_made_harmless() {
        let cleaned = |text: &str| Actor::cleaned(text).map(String::from);
        assert_eq!(cleaned("  ada "), Some("ada".into()));
        assert_eq!(cleaned("a\nb\u{202e}c\u{1b}[2J"), Some("a?b?c?[2J".into()));
        assert_eq!(cleaned(&"ä".repeat(1000)), Some("ä".repeat(128)));
        assert_eq!(cleaned(" \n\t"), None);
        assert_eq!(cleaned(""), None);
    }

    proptest! {
        /// What is stored can be read again.
        #[test]
        fn whatever_is_cleaned_is_a_name(text in any::<String>()) {
            if let Some(actor) = Actor::cleaned(&text) {
                prop_assert_eq!(Actor::new(actor.as_str()), Ok(actor));
            }
        }
    }
}
