//! Measures how soon the service answers after its start, and how much memory it holds when idle.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports, and may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often it is started.
const STARTS: usize = 20;

/// When memory is looked at, after the first answer.
const IDLE: Duration = Duration::from_millis(500);

fn main() {
    let mut answers: Vec<u128> = Vec::new();
    let mut resident_kib = 0;
    for _ in 0..STARTS {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let mut service = Command::new(env!("CARGO_BIN_EXE_crus"))
            .args(["serve", "--listen", "127.0.0.1:0", "--auth", "off", "--log", "off", "--store"])
            .arg(folder.path().join("crus.redb"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut connection = TcpStream::connect(line.trim().rsplit('/').next().unwrap()).unwrap();
        connection.write_all(b"GET /session HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answers.push(started.elapsed().as_millis());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        std::thread::sleep(IDLE);
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident_kib = resident_kib.max(resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
        service.kill().unwrap();
        service.wait().unwrap();
    }
    answers.sort_unstable();
    println!("{STARTS} starts with an empty store:\n");
    println!("{:<32}{:>10}{:>10}", "", "here", "limit");
    println!("{:<32}{:>7} ms{:>7} ms", "first answer, median", answers[STARTS / 2], 100);
    println!("{:<32}{:>7} ms", "first answer, slowest", answers[STARTS - 1]);
    println!("{:<32}{:>6.1} MiB{:>6} MiB", "resident when idle, most", resident_kib as f64 / 1024.0, 20);
}
