//! Which of an operator's [commands](Command) make sense at a moment.
//!
//! Who takes a command from people asks [`why_not`] and says so at once; the machine, which may have gone on meanwhile,
//! lets one that makes no sense any more change nothing.

use crate::model::{Command, Head, Phase, Stage, Summary};

/// Why a command makes no sense now, in sentences for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Its deletion was asked for.
    #[error("The session is being deleted: nothing but that can be done with it any more.")]
    Deleting,
    /// A session that is done can be neither paused nor resumed.
    #[error("The session is done: there is nothing to {}.", word(*.0))]
    Done(Command),
    /// The failed nodes of a session that works come again by themselves, or not.
    #[error(
        "The session is at work: only when it is paused or done can its failed and skipped nodes be tried again. Pause \
         it first, or wait until it is done."
    )]
    Working,
    /// Which nodes failed is known once the step has ended.
    #[error("The session is paused, and step {0} is still in flight: retry once step {0} is finished.")]
    StepInFlight(u32),
    /// It lost no node.
    #[error("None of the session's nodes failed or was skipped: there is nothing to retry.")]
    NothingFailed,
}

fn word(command: Command) -> &'static str {
    match command {
        Command::Pause => "pause",
        Command::Resume => "resume",
        Command::Retry => "retry",
    }
}

/// Why a command for this session makes no sense now, if so, taking into account what is ordered already and was not
/// taken in yet.
pub fn why_not(summary: &Summary, command: Command) -> Option<NotNow> {
    let head = &summary.head;
    if summary.deletion_ordered || head.deletion.is_some() {
        return Some(NotNow::Deleting);
    }
    let noted = || summary.commands.iter().filter(|(number, _)| *number > head.commands);
    if noted().next_back().is_some_and(|(_, last)| *last == command) {
        // Whoever asks again, since the answer was lost, asks for nothing new.
        return None;
    }
    let mut will = WillBe::of(head);
    noted().for_each(|(_, command)| will.take_in(*command));
    match command {
        Command::Pause | Command::Resume if will.done => Some(NotNow::Done(command)),
        Command::Pause | Command::Resume => None,
        // They wait to be taken again: whoever asks once more, since the answer was lost, asks for just that.
        Command::Retry if will.retried => None,
        Command::Retry if !will.done && !will.paused => Some(NotNow::Working),
        Command::Retry => match will.in_flight {
            Some(step) => Some(NotNow::StepInFlight(step)),
            None => (will.failed == 0).then_some(NotNow::NothingFailed),
        },
    }
}

/// How a session stands once it has taken in what is noted.
struct WillBe {
    done: bool,
    paused: bool,
    /// Failed nodes are to be taken again, and no step has begun since.
    retried: bool,
    /// Nodes that failed or were skipped.
    failed: usize,
    /// The step that is in flight.
    in_flight: Option<u32>,
}

impl WillBe {
    fn of(head: &Head) -> Self {
        let between_steps =
            head.phase != Phase::Rolling || matches!(head.stage, Stage::Starting | Stage::Cleanup);
        WillBe {
            done: head.is_done(),
            paused: head.pause.is_some(),
            retried: head.retry || head.retried,
            failed: head.counts.failed + head.counts.skipped,
            in_flight: (!between_steps).then_some(head.step),
        }
    }

    fn take_in(&mut self, command: Command) {
        match command {
            Command::Pause => self.paused |= !self.done,
            Command::Resume => self.paused = false,
            Command::Retry => {
                self.retried |= self.failed > 0;
                self.done &= self.failed == 0;
                self.failed = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counts, Limits, Pause, PauseReason, Session, Spec, UpgradeId};
    use crate::strategy::Strategy;
    use crate::time::Time;

    fn summary(phase: Phase, stage: Stage) -> Summary {
        let spec = Spec {
            starting: "all".parse().unwrap(),
            upgrading: "up".parse().unwrap(),
            failed: "failed".parse().unwrap(),
            step_size: std::num::NonZeroU32::MIN,
            template: "image".parse().unwrap(),
            tenant: None,
            strategy: Strategy::default(),
        };
        let id = UpgradeId(uuid::Uuid::from_u128(1));
        let mut head = Session::new(id, spec, "1", Limits::default(), Time(1)).head;
        head.phase = phase;
        head.stage = stage;
        head.step = 4;
        Summary { head, messages: Vec::new(), deletion_ordered: false, commands: Vec::new() }
    }

    fn paused(mut summary: Summary) -> Summary {
        summary.head.pause = Some(Pause { since: Time(2), why: PauseReason::Command, by: None });
        summary
    }

    fn noted(mut summary: Summary, commands: &[Command]) -> Summary {
        summary.commands = (7..).zip(commands.iter().copied()).collect();
        summary
    }

    use Command::{Pause as Stop, Resume, Retry};

    #[test]
    fn a_session_that_works_is_paused_and_resumed_as_often_as_wanted_and_not_retried() {
        for summary in [
            summary(Phase::Created, Stage::Starting),
            summary(Phase::Rolling, Stage::Starting),
            summary(Phase::Rolling, Stage::Booting),
        ] {
            assert_eq!(why_not(&summary, Stop), None);
            assert_eq!(why_not(&summary, Resume), None);
            assert_eq!(why_not(&summary, Retry), Some(NotNow::Working));
            assert_eq!(why_not(&paused(summary.clone()), Stop), None);
            assert_eq!(why_not(&paused(summary), Resume), None);
        }
    }

    #[test]
    fn a_paused_session_is_retried_once_its_step_is_finished() {
        let in_flight = paused(summary(Phase::Rolling, Stage::WlmWaiting));
        let refused = why_not(&in_flight, Retry).unwrap();
        assert!(refused.to_string().contains("once step 4 is finished"), "{refused}");
        for stage in [Stage::Starting, Stage::Cleanup] {
            let mut between = paused(summary(Phase::Rolling, stage));
            assert_eq!(why_not(&between, Retry), Some(NotNow::NothingFailed));
            between.head.counts.failed = 1;
            assert_eq!(why_not(&between, Retry), None);
        }
    }

    #[test]
    fn a_retry_asks_for_nothing_new_until_the_nodes_are_taken_again() {
        let mut works = summary(Phase::Created, Stage::Starting);
        works.head.retried = true;
        for summary in [works.clone(), paused(works.clone())] {
            assert_eq!(why_not(&summary, Retry), None);
        }
        works.head.retried = false;
        assert_eq!(why_not(&works, Retry), Some(NotNow::Working));
        let mut owes = paused(summary(Phase::Rolling, Stage::Cleanup));
        owes.head.retry = true;
        assert_eq!(why_not(&owes, Retry), None, "what is owed is done first");
    }

    #[test]
    fn a_session_that_is_done_is_retried_when_a_node_failed_or_was_skipped() {
        let done = summary(Phase::Done, Stage::Cleanup);
        assert_eq!(why_not(&done, Retry), Some(NotNow::NothingFailed));
        assert_eq!(why_not(&done, Stop), Some(NotNow::Done(Stop)));
        assert_eq!(
            why_not(&done, Resume).unwrap().to_string(),
            "The session is done: there is nothing to resume."
        );
        for counts in [Counts { failed: 1, ..Counts::default() }, Counts { skipped: 1, ..Counts::default() }]
        {
            let mut done = done.clone();
            done.head.counts = counts;
            assert_eq!(why_not(&done, Retry), None);
            let again = noted(done, &[Retry]);
            assert_eq!(why_not(&again, Retry), None, "asked again, it is the same retry");
            assert_eq!(why_not(&again, Stop), None, "it will work again");
            assert_eq!(why_not(&noted(again, &[Retry, Stop]), Retry), None);
        }
    }

    #[test]
    fn what_is_noted_counts_until_it_was_taken_in() {
        let mut works = summary(Phase::Rolling, Stage::Starting);
        works.head.counts.failed = 1;
        let stopped = noted(works, &[Stop]);
        assert_eq!(why_not(&stopped, Retry), None);
        let goes_on = noted(stopped.clone(), &[Stop, Resume]);
        assert_eq!(why_not(&goes_on, Retry), Some(NotNow::Working));
        let mut taken_in = stopped;
        taken_in.head.commands = 7;
        assert_eq!(why_not(&taken_in, Retry), Some(NotNow::Working), "by now it was resumed, say");
    }

    #[test]
    fn nothing_makes_sense_once_deletion_was_ordered() {
        let ordered = Summary { deletion_ordered: true, ..summary(Phase::Rolling, Stage::Booting) };
        let mut winding_up = summary(Phase::Rolling, Stage::Booting);
        winding_up.head.deletion = Some(Time(3));
        for summary in [ordered, winding_up] {
            for command in [Stop, Resume, Retry] {
                assert_eq!(why_not(&summary, command), Some(NotNow::Deleting));
            }
        }
    }
}
