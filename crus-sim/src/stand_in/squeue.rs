//! `squeue`: which jobs hold which nodes until when.

use std::collections::BTreeSet;

use crus_core::time::WlmTime;

use super::scontrol::slurm_now;
use super::{Outcome, Output, VERSION, hosts, show};
use crate::cluster::Cluster;
use crate::cluster::slurm::{JobRecord, JobState, SlurmError};

/// The name of every job: what the real one calls a job without a name of its own.
pub(super) const JOB_NAME: &str = "wrap";

const DEFAULT_FORMAT: &str = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R";
const LONG_FORMAT: &str = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R";

const TRY_HELP: &str = "Try \"squeue --help\" for more information";

const HELP: &str = "Usage: squeue [OPTIONS]
  -a, --all                       display jobs in hidden partitions
  -h, --noheader                  no headers on output
  -j, --job=job(s)                comma separated list of jobs IDs
                                  to view, default is all
  -l, --long                      long report
  -o, --format=format             format specification
  -t, --states=states             comma separated list of states to view,
                                  default is pending and running,
                                  '--states=all' reports all states
  -u, --user=user_name(s)         comma separated list of users to view
  -V, --version                   output version information and exit
  -w, --nodelist=hostlist         list of nodes to view, default is
                                  all nodes

Help options:
  --help                          show this help message

This is the squeue of a simulated cluster: it does no more than this.
";

const USAGE: &str = "Usage: squeue [-hal] [-j jobs] [-o format] [-t states] [-u user_name] [-w nodes]\n";

/// The states that the real one knows: the name, the short form.
const STATES: [(&str, &str); 24] = [
    ("PENDING", "PD"),
    ("RUNNING", "R"),
    ("SUSPENDED", "S"),
    ("COMPLETED", "CD"),
    ("CANCELLED", "CA"),
    ("FAILED", "F"),
    ("TIMEOUT", "TO"),
    ("NODE_FAIL", "NF"),
    ("PREEMPTED", "PR"),
    ("BOOT_FAIL", "BF"),
    ("DEADLINE", "DL"),
    ("OUT_OF_MEMORY", "OOM"),
    ("COMPLETING", "CG"),
    ("CONFIGURING", "CF"),
    ("RESIZING", "RS"),
    ("RESV_DEL_HOLD", "RD"),
    ("REQUEUED", "RQ"),
    ("REQUEUE_FED", "RF"),
    ("REQUEUE_HOLD", "RH"),
    ("REVOKED", "RV"),
    ("SIGNALING", "SI"),
    ("SPECIAL_EXIT", "SE"),
    ("STAGE_OUT", "SO"),
    ("STOPPED", "ST"),
];

/// What was asked for.
#[derive(Debug)]
struct Options {
    header: bool,
    /// Whether the long report's first line, the time, is wanted.
    dated: bool,
    format: String,
    nodes: Option<BTreeSet<String>>,
    /// Names of states; `None`: all that the model has.
    states: Option<Vec<&'static str>>,
    users: Option<BTreeSet<String>>,
    jobs: Option<BTreeSet<String>>,
}

pub(super) fn run(cluster: &Cluster, args: &[String]) -> Outcome {
    let options = match read(args) {
        Ok(options) => options,
        Err(output) => return Outcome::Done(output),
    };
    if let Some(wanted) = &options.nodes {
        // The real one asks for the nodes first, and for the jobs only when it knows them all.
        let known: BTreeSet<&str> = cluster.node_names().map(|name| name.as_str()).collect();
        if let Err(SlurmError::ControllerDown) = cluster.show_nodes(&[]) {
            return Outcome::no_controller("slurm_load_node");
        }
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(name.as_str())) {
            return Outcome::Done(Output::failed(format_args!("squeue: error: Invalid node name {unknown}")));
        }
    }
    let now = slurm_now(cluster);
    Outcome::reading("slurm_load_jobs", cluster.jobs(), |jobs| list(&options, jobs, now))
}

fn list(options: &Options, mut jobs: Vec<JobRecord>, now: WlmTime) -> Output {
    if let Some(ids) = &options.jobs
        && ids.len() == 1
        && !jobs.iter().any(|job| ids.contains(&job.id.to_string()))
    {
        return Output::failed("slurm_load_jobs error: Invalid job id specified");
    }
    jobs.retain(|job| options.wants(job));
    jobs.sort_by_key(|job| (job.state != JobState::Pending, job.id));
    let (fields, complaints) = fields(&options.format);
    let mut stdout = String::new();
    if options.header {
        if options.dated {
            stdout.push_str(&show::date(now));
        }
        stdout.push_str(&line(&fields, Field::header));
    }
    for job in &jobs {
        stdout.push_str(&line(&fields, |field| field.value(job, now)));
    }
    Output { stdout, stderr: complaints, exit_code: 0 }
}

impl Options {
    fn wants(&self, job: &JobRecord) -> bool {
        let node = |wanted: &BTreeSet<String>| job.nodes.iter().any(|name| wanted.contains(name.as_str()));
        self.nodes.as_ref().is_none_or(node)
            && self.states.as_ref().is_none_or(|states| states.contains(&state(job).0))
            && self.users.as_ref().is_none_or(|users| users.contains(&job.user))
            && self.jobs.as_ref().is_none_or(|ids| ids.contains(&job.id.to_string()))
    }
}

fn state(job: &JobRecord) -> (&'static str, &'static str) {
    match job.state {
        JobState::Pending => STATES[0],
        JobState::Running => STATES[1],
    }
}

/// An option: its letter, its long name, and whether a value follows.
const OPTIONS: [(char, &str, bool); 10] = [
    ('a', "all", false),
    ('h', "noheader", false),
    ('l', "long", false),
    ('V', "version", false),
    ('?', "help", false),
    ('j', "jobs", true),
    ('o', "format", true),
    ('t', "states", true),
    ('u', "user", true),
    ('w', "nodelist", true),
];

/// Options of the real one that the stand-in does not have.
const REAL_OPTIONS: [&str; 24] = [
    "account",
    "array",
    "array-unique",
    "clusters",
    "federation",
    "Format",
    "hide",
    "iterate",
    "json",
    "licenses",
    "local",
    "me",
    "name",
    "noconvert",
    "partition",
    "priority",
    "qos",
    "reservation",
    "sibling",
    "sort",
    "start",
    "steps",
    "verbose",
    "yaml",
];

/// Reads the arguments as `getopt_long` does: letters may stand together, long names may be cut short.
fn read(args: &[String]) -> Result<Options, Output> {
    let mut options = Options {
        header: true,
        dated: false,
        format: DEFAULT_FORMAT.to_owned(),
        nodes: None,
        states: None,
        users: None,
        jobs: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if let Some(long) = arg.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let known = OPTIONS.iter().find(|(_, known, _)| !name.is_empty() && known.starts_with(name));
            let Some(&(letter, known, takes_value)) = known else {
                let real = REAL_OPTIONS.iter().any(|real| real.starts_with(name));
                return Err(if real { unsupported(arg) } else { unrecognized(arg) });
            };
            let value = match (takes_value, value) {
                (true, None) => args.next().map(String::as_str).ok_or_else(|| {
                    Output::failed(format_args!(
                        "squeue: option '--{known}' requires an argument\n{TRY_HELP}"
                    ))
                })?,
                (_, value) => value.unwrap_or_default(),
            };
            options.set(letter, value)?;
        } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let Some(&(_, _, takes_value)) = OPTIONS.iter().find(|(known, ..)| *known == letter) else {
                    let real = "AiLMnOpqRrsSPv".contains(letter);
                    let text = format!("squeue: invalid option -- '{letter}'\n{TRY_HELP}");
                    return Err(if real { unsupported(arg) } else { Output::failed(text) });
                };
                if !takes_value {
                    options.set(letter, "")?;
                    continue;
                }
                let rest = &letters[at + letter.len_utf8()..];
                let value = match rest {
                    "" => args.next().map(String::as_str).ok_or_else(|| {
                        Output::failed(format_args!(
                            "squeue: option requires an argument -- '{letter}'\n{TRY_HELP}"
                        ))
                    })?,
                    rest => rest,
                };
                options.set(letter, value)?;
                break;
            }
        } else {
            let stderr = format!("squeue: error: Unrecognized option: {arg}\n");
            return Err(Output { stdout: USAGE.to_owned(), stderr, exit_code: 1 });
        }
    }
    Ok(options)
}

fn unsupported(option: &str) -> Output {
    Output::failed(format_args!("squeue: error: the simulated squeue does not support: {option}"))
}

fn unrecognized(option: &str) -> Output {
    Output::failed(format_args!("squeue: unrecognized option '{option}'\n{TRY_HELP}"))
}

impl Options {
    /// Takes in one option. `--help` and `--version` end the reading with what they print.
    fn set(&mut self, letter: char, value: &str) -> Result<(), Output> {
        let names = || Some(value.split(',').map(str::to_owned).collect());
        match letter {
            'h' => self.header = false,
            'l' => {
                self.dated = true;
                LONG_FORMAT.clone_into(&mut self.format);
            }
            'j' => self.jobs = names(),
            'u' => self.users = names(),
            'o' => value.clone_into(&mut self.format),
            // An empty list is no filter at all.
            'w' if value.is_empty() => self.nodes = None,
            'w' => self.nodes = Some(hosts::expand(value).into_iter().collect()),
            't' => self.states = read_states(value)?,
            'V' => return Err(Output::printed(format!("slurm-wlm {VERSION}\n"))),
            '?' => return Err(Output::printed(HELP)),
            _ => {}
        }
        Ok(())
    }
}

fn read_states(list: &str) -> Result<Option<Vec<&'static str>>, Output> {
    if list.is_empty() || list.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    let one = |word: &str| {
        STATES
            .iter()
            .find(|(name, short)| word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(short))
            .map(|(name, _)| *name)
            .ok_or_else(|| {
                let valid = STATES.map(|(name, _)| name).join(",");
                Output::failed(format_args!(
                    "squeue: error: Invalid job state specified: {word}\nsqueue: error: Valid job states include: {valid}\n"
                ))
            })
    };
    list.split(',').map(one).collect::<Result<_, _>>().map(Some)
}

/// A piece of a format: text, or a column.
#[derive(Debug)]
enum Piece {
    Text(String),
    Column(Field),
}

/// A column: `%[[.]size]letter`.
#[derive(Debug)]
struct Field {
    letter: char,
    size: Option<usize>,
    right: bool,
}

/// Reads a format. What cannot be read is printed as it is, with a complaint, as the real one does.
fn fields(format: &str) -> (Vec<Piece>, String) {
    let mut pieces = Vec::new();
    let mut complaints = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        if start > 0 {
            pieces.push(Piece::Text(rest[..start].to_owned()));
        }
        let spec = &rest[start + 1..];
        let right = spec.starts_with('.');
        let digits_at = usize::from(right);
        let digits = spec[digits_at..].len()
            - spec[digits_at..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let letter_at = digits_at + digits;
        let letter = spec[letter_at..].chars().next();
        let taken = letter_at + letter.map_or(0, char::len_utf8);
        rest = &spec[taken..];
        match letter {
            Some('%') => pieces.push(Piece::Text("%".to_owned())),
            Some(letter) if Field::LETTERS.iter().any(|(known, _)| *known == letter) => {
                let size = spec[digits_at..letter_at].parse().ok();
                pieces.push(Piece::Column(Field { letter, size, right }));
            }
            Some(letter) => {
                complaints.push_str(&format!("squeue: error: Invalid job format specification: {letter}\n"));
                pieces.push(Piece::Text(format!("%{}", &spec[..taken])));
            }
            None => pieces.push(Piece::Text(format!("%{spec}"))),
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    (pieces, complaints)
}

fn line(pieces: &[Piece], text: impl Fn(&Field) -> String) -> String {
    if pieces.is_empty() {
        return String::new();
    }
    let mut line: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Column(field) => field.fit(&text(field)),
        })
        .collect();
    line.push('\n');
    line
}

impl Field {
    /// The letters of the columns, and their headers.
    const LETTERS: [(char, &'static str); 19] = [
        ('A', "JOBID"),
        ('B', "EXEC_HOST"),
        ('C', "CPUS"),
        ('D', "NODES"),
        ('L', "TIME_LEFT"),
        ('M', "TIME"),
        ('N', "NODELIST"),
        ('P', "PARTITION"),
        ('R', "NODELIST(REASON)"),
        ('S', "START_TIME"),
        ('T', "STATE"),
        ('V', "SUBMIT_TIME"),
        ('e', "END_TIME"),
        ('i', "JOBID"),
        ('j', "NAME"),
        ('l', "TIME_LIMIT"),
        ('r', "REASON"),
        ('t', "ST"),
        ('u', "USER"),
    ];

    fn header(&self) -> String {
        let header = Field::LETTERS.iter().find(|(letter, _)| *letter == self.letter);
        header.map_or_else(String::new, |(_, header)| (*header).to_owned())
    }

    fn value(&self, job: &JobRecord, now: WlmTime) -> String {
        let waits = job.state == JobState::Pending;
        let run_time = || job.start.map_or(0, |start| show::elapsed(start, now));
        let unlimited = || "UNLIMITED".to_owned();
        match self.letter {
            'i' | 'A' => job.id.to_string(),
            'N' => hosts::fold(&job.nodes),
            'R' if waits => format!("({})", show::waits_for(job)),
            'R' => hosts::fold(&job.nodes),
            'r' => if waits { show::waits_for(job) } else { "None" }.to_owned(),
            'B' => job.nodes.first().map_or_else(|| "n/a".to_owned(), ToString::to_string),
            'C' => job.cpus.to_string(),
            'D' => job.node_count.to_string(),
            'T' => state(job).0.to_owned(),
            't' => state(job).1.to_owned(),
            'u' => job.user.clone(),
            'j' => JOB_NAME.to_owned(),
            'P' => job.partition.as_ref().map(ToString::to_string).unwrap_or_default(),
            'V' => show::time(job.submitted),
            'S' => show::expected(job).0.map_or_else(|| "N/A".to_owned(), show::time),
            'e' if waits => show::expected(job).1.map_or_else(|| "N/A".to_owned(), show::time),
            'e' => job.end.map_or_else(|| "NONE".to_owned(), show::time),
            'M' => show::short_duration(run_time()),
            'l' => job.limit_s.map_or_else(unlimited, show::short_duration),
            'L' => job
                .limit_s
                .map_or_else(unlimited, |limit| show::short_duration(limit.saturating_sub(run_time()))),
            _ => String::new(),
        }
    }

    /// The text in the column's width: cut, or filled with spaces on the left (`.`) or on the right.
    fn fit(&self, text: &str) -> String {
        match self.size {
            None => text.to_owned(),
            Some(size) => {
                let text: String = text.chars().take(size).collect();
                if self.right { format!("{text:>size$}") } else { format!("{text:<size$}") }
            }
        }
    }
}
