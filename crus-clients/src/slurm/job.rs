//! Ids of jobs that hold nodes, as `squeue` prints them (`%i`) and `scontrol requeue` and `scancel` take them.
//!
//! Seen of Slurm 22.05.8:
//!
//! - A task of an array is `12_3`. Its own number is that of no other job but for one task, which has the number of the
//!   whole array: `requeue 12` and `scancel 12` mean all tasks, `12_3` just one.
//! - A part of a heterogeneous job is `12+1`. `scontrol` knows no such id, and neither program takes a part for itself
//!   (`Job not heterogeneous job leader`, `Operation not permitted on individual component of heterogeneous job`): the
//!   parts live and die together, by the number of the first.
//! - `12_[3-5]` is what is left of an array in the queue: it holds no node.

use std::collections::BTreeSet;

use crus_core::ports::PortError;

use super::refusal;

/// Digits of a number of 32 bits.
const DIGITS_MAX: usize = 10;

/// The id of a job, or of a task of an array.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobId(String);

impl JobId {
    /// Reads an id as `squeue` prints it; the part of a heterogeneous job stands for the whole of it.
    pub(super) fn read(text: &str) -> Option<Self> {
        let is_number = |digits: &str| {
            (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let is_id = |digits: &str| is_number(digits) && !digits.starts_with('0');
        if let Some((job, part)) = text.split_once('+') {
            return (is_id(job) && is_number(part)).then(|| JobId(job.to_owned()));
        }
        let (job, task) = text.split_once('_').map_or((text, None), |(job, task)| (job, Some(task)));
        (is_id(job) && task.is_none_or(is_number)).then(|| JobId(text.to_owned()))
    }

    /// All ids, each once, and the refusal of the first that is none.
    pub(super) fn read_all(texts: &[String]) -> (Vec<Self>, Result<(), PortError>) {
        let mut ids = BTreeSet::new();
        let mut result = Ok(());
        for text in texts {
            match JobId::read(text) {
                Some(id) => _ = ids.insert(id),
                None => {
                    let shown: String = text.chars().take(40).collect();
                    let refused = refusal::refused(format!("{shown:?} is not the id of a job that runs"));
                    result = result.and(Err(refused));
                }
            }
        }
        (ids.into_iter().collect(), result)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_jobs_tasks_and_parts_are_read_and_nothing_else() {
        for (text, id) in
            [("17", "17"), ("4000000017_0", "4000000017_0"), ("12_345", "12_345"), ("8+1", "8"), ("8+0", "8")]
        {
            assert_eq!(JobId::read(text).as_ref().map(JobId::as_str), Some(id));
        }
        for text in [
            "",
            "0",
            "017",
            "-1",
            "1 2",
            "1,2",
            "12_[3-5]",
            "12_",
            "_3",
            "12_3_4",
            "1+",
            "+1",
            "1+2+3",
            "1_2+3",
            "1.0",
            "1.batch",
            "all",
            "--user=root",
            "17\n",
            "99999999999",
            "١٢",
            "incomplete",
        ] {
            assert_eq!(JobId::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_is_named_once_and_a_bad_one_keeps_no_other_from_being_ended() {
        let texts = ["3+0", "3+1", "x; reboot", "1_2", "3", "1_2"].map(str::to_owned);
        let (ids, result) = JobId::read_all(&texts);
        assert_eq!(ids.iter().map(JobId::as_str).collect::<Vec<_>>(), ["1_2", "3"]);
        assert_eq!(result, Err(refusal::refused("\"x; reboot\" is not the id of a job that runs")));
    }
}
