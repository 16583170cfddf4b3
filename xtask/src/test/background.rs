//! Work that goes on while other steps wait: another process of xtask, whose output is printed when it has ended.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::runner::folder_of_xtask;

/// A task of xtask under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Background {
    line: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `cargo xtask` with these arguments. It yields the processors to whoever else wants them.
    pub(super) fn start(args: &[&str]) -> Result<Self> {
        let line = format!("cargo xtask {}", args.join(" "));
        let log = folder_of_xtask()?.join(format!("{}.log", args[0]));
        let output = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("failed to write {}", log.display()))?;
        let own = std::env::current_exe().context("failed to find the path of xtask")?;
        // It dies with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nice", "-n", "19"])
            .arg(own)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("failed to start `{line}`"))?;
        println!("$ {line}    (in the background)");
        Ok(Background { line, child, log })
    }

    /// Waits for its end, and prints its output.
    ///
    /// # Errors
    ///
    /// Fails if the task failed.
    pub(super) fn end(mut self) -> Result<()> {
        let status = self.child.wait().with_context(|| format!("failed to wait for `{}`", self.line))?;
        let text = fs::read(&self.log).with_context(|| format!("failed to read {}", self.log.display()))?;
        println!("$ {}\n{}", self.line, String::from_utf8_lossy(&text));
        ensure!(status.success(), "`{}` failed ({status})", self.line);
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // After `end` both do nothing.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("failed to end `{}`: {error}", self.line);
        }
    }
}
