//! `crus demo`: one upgrade from the request to the end, watched.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use crus_core::model::{Failure, NodeState};
use crus_core::ports::SessionStore;
use crus_core::progress::waits_for;
use crus_core::promises::{Audit, NodeView, Outcome, Violation};
use crus_core::{Session, UpgradeId, Xname};
use crus_sim::config::{DEMO_BROKEN, DEMO_DRAINED, DEMO_REASON};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::{DemoCluster, SPEC, Scratch, kept_beside, members, table};
use crate::auth::AuthMode;
use crate::http::HttpOptions;
use crate::serve::{self, Service};
use crate::settings::{Config, EtcdOptions};

/// How often the terminal is brought up to date.
const GLANCE: Duration = Duration::from_millis(100);

/// The longest that the demo may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Options of the demo.
#[derive(Debug, Clone, Args)]
pub struct DemoFlags {
    /// Keep the sessions in this file, and the cluster beside it; an upgrade that was killed goes on. Without it both
    /// are gone at the end.
    #[arg(long, value_name = "PATH")]
    store: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// When it cannot run, and when the outcome is not what it should be.
pub fn run(flags: &DemoFlags, mut config: Config) -> anyhow::Result<()> {
    let scratch = Scratch::unless(flags.store.clone());
    config.store = scratch.store().to_owned();
    config.etcd = EtcdOptions::default();
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.auth.mode = AuthMode::Demo;
    config.http = HttpOptions::default();
    let kept = flags.store.as_deref().map(kept_beside);
    let result = serve::on_runtime(&config.clone(), upgrade(&mut config, kept.as_deref()));
    scratch.remove()?;
    result
}

async fn upgrade(config: &mut Config, kept_in: Option<&Path>) -> anyhow::Result<()> {
    let cluster = DemoCluster::start(kept_in).await?;
    cluster.configure(config)?;
    let service = Service::start(config).await?;
    let store = service.store();
    let address = service.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(service.run(async move {
        // Dropped or told: both mean that the demo is over.
        stopped.await.unwrap_or_default();
    }));
    let outcome = watch(&cluster, store, address).await;
    drop(stop);
    serving.await.context("the service panicked")?;
    outcome
}

/// Asks for the upgrade, shows its course, and judges its end.
async fn watch(
    cluster: &DemoCluster,
    store: Arc<dyn SessionStore>,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let screen = Screen::new();
    screen.line(&format!(
        "64 simulated nodes with jobs on most; {DEMO_BROKEN} will not boot, {DEMO_DRAINED} is drained by an \
         admin."
    ));
    let client = reqwest::Client::new();
    let url = format!("http://{address}/session");
    let under_way = unfinished(store.as_ref()).await?;
    let id = match under_way {
        Some(id) => {
            screen.line(&format!("Going on with session {id}\n"));
            id
        }
        None => {
            screen.line(&format!("POST {url} {SPEC}\n"));
            let request = client.post(&url).header("content-type", "application/json").body(SPEC);
            let created: Value = request.send().await?.error_for_status()?.json().await?;
            let id = created["upgrade_id"].as_str().context("the answer has no upgrade_id")?;
            id.parse().context("the answer's upgrade_id is no UUID")?
        }
    };

    let started = tokio::time::Instant::now();
    let mut told = 0;
    let session = loop {
        let Some((session, _)) = store.load(id).await? else { bail!("the session is gone") };
        for message in session.messages.iter().skip(told) {
            screen.line(&format!("{:>5.1} s  {message}", started.elapsed().as_secs_f32()));
        }
        told = session.messages.len();
        screen.show(&session);
        if session.is_done() {
            break session;
        }
        ensure!(started.elapsed() < PATIENCE, "the upgrade took more than {} s", PATIENCE.as_secs());
        tokio::time::sleep(GLANCE).await;
    };
    screen.clear();

    screen.line(&format!("\n{}", table::of(&session, cluster.live())));
    let answer: Value = client.get(format!("{url}/{id}")).send().await?.error_for_status()?.json().await?;
    screen.line(&format!("\nGET /session/{id}\n{}", serde_json::to_string_pretty(&answer)?));
    // What happened before this process began has no witness.
    let wrong = judge(&session, cluster, under_way.is_none());
    ensure!(wrong.is_empty(), "the outcome is not what it should be: {}", wrong.join("; "));
    let witnessed = if under_way.is_none() { "no job was harmed, no node rebooted twice, " } else { "" };
    screen.line(&format!(
        "\nAs it should be: {witnessed}63 nodes upgraded, the broken one is down and listed, the admin's drain is \
         intact."
    ));
    Ok(())
}

/// A session that an earlier process left.
async fn unfinished(store: &dyn SessionStore) -> anyhow::Result<Option<UpgradeId>> {
    for id in store.ids().await? {
        if store.load(id).await?.is_some_and(|(session, _)| !session.is_done()) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// What is not as it should be.
fn judge(session: &Session, cluster: &DemoCluster, witnessed: bool) -> Vec<String> {
    let live = cluster.live();
    let own = session.nodes.iter().map(|node| node.xname).collect();
    let (audit, mut wrong) = live.with(|cluster| Audit::of(session, own, cluster.facts()));
    let views = views(session, cluster);
    let spec = &session.head.spec;
    let outcome = Outcome {
        nodes: views.clone(),
        upgrading: members(live, &spec.upgrading),
        failed: members(live, &spec.failed),
    };
    if witnessed {
        wrong.extend(audit.at_end(session, &outcome));
    }
    let mut wrong: Vec<String> = wrong.iter().map(Violation::to_string).collect();
    for node in &session.nodes {
        let broken = node.xname.to_string() == DEMO_BROKEN;
        let as_expected = match &node.state {
            NodeState::Upgraded => !broken,
            NodeState::Failed(Failure::Boot(_)) => broken,
            _ => false,
        };
        if !as_expected {
            wrong.push(format!("{} ended as {:?}", node.xname, node.state));
        }
        let reason = views.get(&node.xname).and_then(|view| view.reason.as_deref());
        if node.xname.to_string() == DEMO_DRAINED && reason != Some(DEMO_REASON) {
            wrong.push(format!("{DEMO_DRAINED} has the reason {reason:?}, not the admin's"));
        }
    }
    wrong
}

fn views(session: &Session, cluster: &DemoCluster) -> BTreeMap<Xname, NodeView> {
    cluster.live().with(|cluster| {
        let named = session.nodes.iter().filter_map(|node| Some((node.xname, node.name.clone()?)));
        let seen = named.filter_map(|(xname, name)| Some((xname, table::seen(cluster, &name)?)));
        seen.map(|(xname, node)| (xname, NodeView { held: node.is_held(), reason: node.reason })).collect()
    })
}

/// The terminal: lines that stay, and below them a bar that moves, if somebody looks.
struct Screen {
    bar: ProgressBar,
}

impl Screen {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if !io::stdout().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        // The template is fixed and tried by every run on a terminal; without it the plain bar does.
        if let Ok(style) = ProgressStyle::with_template("{bar:16.green} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Screen { bar }
    }

    /// A line that stays. That nobody reads it any more is no failure of the demo.
    fn line(&self, text: &str) {
        self.bar.suspend(|| writeln!(io::stdout(), "{text}").unwrap_or_default());
    }

    fn show(&self, session: &Session) {
        let counts = session.head.counts;
        self.bar.set_length(session.nodes.len() as u64);
        self.bar.set_position((counts.upgraded + counts.failed) as u64);
        let waits = waits_for(&session.head, session.batch())
            .map(|what| format!(", waiting for {what}"))
            .unwrap_or_default();
        let head = &session.head;
        self.bar.set_message(format!("step {} {}: {counts}{waits}", head.step, head.stage));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
