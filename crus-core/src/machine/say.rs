//! What a session tells people: bounded, however long it runs.
//!
//! Recent messages stand as they were said. Once there are [`MESSAGES_MAX`], the older half is folded: messages that
//! differ only in their step become one, with how often and when last; what is left over beyond that is counted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Event, Machine};
use crate::history::Happening;
use crate::messages;
use crate::model::Message;

/// The most messages that a session keeps.
pub const MESSAGES_MAX: usize = 1000;

/// So many of the latest are never folded.
const RECENT: usize = MESSAGES_MAX / 2;

/// To how many the older ones are folded at most, so that the next fold is far away.
const FOLDED_MAX: usize = MESSAGES_MAX / 4;

impl Machine<'_> {
    pub(super) fn say(&mut self, text: String) {
        let text = messages::bounded(text, messages::TEXT_MAX);
        let messages = &mut self.s.messages;
        match messages.last_mut() {
            Some(last) if last.text == text => {
                last.times = last.times.saturating_add(1);
                last.last = self.now;
            }
            _ => {
                messages.push(Message::new(text.clone(), self.now));
                self.tell(Happening::Message { text });
            }
        }
        let messages = &mut self.s.messages;
        if messages.len() > MESSAGES_MAX {
            fold(messages);
            self.events.push(Event::MessagesFolded);
        } else {
            self.events.push(Event::Message(messages.len() - 1));
        }
    }
}

/// Folds all but the recent messages.
fn fold(messages: &mut Vec<Message>) {
    let recent = messages.split_off(messages.len().saturating_sub(RECENT));
    let old = std::mem::take(messages);
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut left_out = Message { text: messages::left_out(), times: 0, last: crate::Time(0) };
    for message in old {
        if message.text == left_out.text {
            absorb(&mut left_out, &message);
            continue;
        }
        match places.entry(messages::without_step(&message.text)) {
            Entry::Occupied(place) => {
                let kept: &mut Message = &mut messages[*place.get()];
                if kept.text != message.text {
                    kept.text.clone_from(place.key());
                }
                absorb(kept, &message);
            }
            Entry::Vacant(place) => {
                place.insert(messages.len());
                messages.push(message);
            }
        }
    }
    // Those last said longest ago go first; their order stays.
    let surplus = messages.len().saturating_sub(FOLDED_MAX);
    let mut ages: Vec<usize> = (0..messages.len()).collect();
    ages.sort_by_key(|&i| messages[i].last);
    ages.truncate(surplus);
    ages.sort_unstable();
    for i in ages.into_iter().rev() {
        absorb(&mut left_out, &messages.remove(i));
    }
    if left_out.times > 0 {
        messages.insert(0, left_out);
    }
    messages.extend(recent);
}

fn absorb(into: &mut Message, message: &Message) {
    into.times = into.times.saturating_add(message.times);
    into.last = into.last.max(message.last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;

    fn say(messages: &mut Vec<Message>, text: String, at: u64) {
        messages.push(Message::new(text, Time(at * 1000)));
        if messages.len() > MESSAGES_MAX {
            fold(messages);
        }
    }

    #[test]
    fn old_messages_that_differ_in_their_step_become_one_that_counts_them() {
        let mut messages = Vec::new();
        for step in 0..10_000 {
            say(&mut messages, messages::quiesce_requested(step), 2 * u64::from(step));
            say(&mut messages, messages::all_quiesced(step), 2 * u64::from(step) + 1);
            assert!(messages.len() <= MESSAGES_MAX);
        }
        let total: u32 = messages.iter().map(|message| message.times).sum();
        assert_eq!(total, 20_000, "none is lost without being counted");
        let first = messages[0].to_string();
        assert!(first.starts_with("Quiesce requested in step …: moving to QUIESCING ("), "{first}");
        assert!(first.contains(" times, last 0"), "{first}");
        assert_eq!(
            messages.last().unwrap().to_string(),
            "All nodes quiesced in step 9999: moving to QUIESCED"
        );
    }

    #[test]
    fn what_cannot_be_folded_is_left_out_and_counted() {
        let mut messages = Vec::new();
        for n in 0..5_000 {
            say(&mut messages, format!("peer said {n}"), n);
        }
        assert!(messages.len() <= MESSAGES_MAX);
        assert_eq!(messages.iter().map(|message| message.times).sum::<u32>(), 5_000);
        assert!(messages[0].to_string().starts_with("Older messages left out ("), "{}", messages[0]);
        assert_eq!(messages.last().unwrap().text, "peer said 4999");
    }
}
