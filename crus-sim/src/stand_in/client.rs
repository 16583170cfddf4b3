//! One call over HTTP/1.1 on a plain socket: the stand-in starts hundreds of times in a test, so it brings no
//! runtime along.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Call, NO_CONTROLLER, Output, Program};

/// Longer than slurmctld may be waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a call to the server at `address` and returns what it says. A server that does not answer looks like a
/// slurmctld that does not, with a line more that names the address.
pub(super) fn send(address: &str, call: &Call) -> Output {
    exchange(address, call).unwrap_or_else(|reason| {
        let what = match call.program {
            Program::Squeue => "slurm_load_jobs",
            Program::Scancel => "scancel: error: Kill job",
            Program::Scontrol if call.args.iter().any(|arg| arg.starts_with("up")) => "slurm_update",
            Program::Scontrol => "slurm_load_node",
        };
        Output::failed(format_args!(
            "{what} error: {NO_CONTROLLER}\nfailed to ask the simulated cluster at {address}: {reason}"
        ))
    })
}

fn exchange(address: &str, call: &Call) -> Result<Output, String> {
    let host = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let body = serde_json::to_string(call).map_err(|e| e.to_string())?;
    let resolved = host
        .to_socket_addrs()
        .map_err(|e| e.to_string())?
        .next()
        .ok_or_else(|| "it names no address".to_owned())?;
    let mut stream =
        TcpStream::connect_timeout(&resolved, Duration::from_secs(5)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(|e| e.to_string())?;
    let request = format!(
        "POST /sim/slurm HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).map_err(|e| e.to_string())?;
    let response = String::from_utf8(response).map_err(|e| e.to_string())?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the answer is cut off")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("it answered {status}: {body}"));
    }
    serde_json::from_str(body).map_err(|e| format!("the answer is not understood: {e}"))
}
