//! Requests are answered while a call to a peer hangs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crus_core::promises::What;
use serde_json::{Value, json};

use crate::support::simulated::{self, Simulated};
use crate::support::{Service, spec, until};

/// Puts a program before the simulated `scontrol` whose updates hang until they are let go. It notes each call
/// that begins to hang by a line with its process id.
struct Turnstile {
    hanging: PathBuf,
    open: PathBuf,
}

impl Turnstile {
    fn before_scontrol(site: &Simulated) -> Turnstile {
        let folder = site.folder();
        let [scontrol, inner, hanging, open] =
            ["scontrol", "scontrol.inner", "hanging", "open"].map(|name| folder.join(name));
        fs::rename(&scontrol, &inner).unwrap();
        // When the test goes away, so does the folder, and with it whatever hangs.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *update*)\n  echo $$ >> {hanging}\n  \
             while [ -d {folder} ] && [ ! -e {open} ]; do sleep 0.02; done;;\nesac\nexec {inner} \"$@\"\n",
            hanging = hanging.display(),
            folder = folder.display(),
            open = open.display(),
            inner = inner.display(),
        );
        fs::write(&scontrol, script).unwrap();
        fs::set_permissions(&scontrol, fs::Permissions::from_mode(0o755)).unwrap();
        Turnstile { hanging, open }
    }

    /// The processes that hang now.
    fn hanging(&self) -> Vec<String> {
        let pids = fs::read_to_string(&self.hanging).unwrap_or_default();
        let alive = |pid: &&str| fs::exists(format!("/proc/{pid}")).unwrap();
        if self.open.exists() { Vec::new() } else { pids.lines().filter(alive).map(str::to_owned).collect() }
    }

    fn open(&self) {
        fs::write(&self.open, "").unwrap();
    }
}

/// 12. A DELETE waited 30 s for a lock that a hanging call held, then got an empty reply; other requests waited with
///     it. P7: what the hanging call was about is undone once it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_p7_requests_are_answered_while_a_call_to_slurm_hangs() {
    let site = Simulated::start(simulated::nodes(4), 12, 60.0).await;
    let turnstile = Turnstile::before_scontrol(&site);
    let service = Service::start(site.serve());
    let path = service.create(&spec(2)).await;
    until("a hanging drain", async || !turnstile.hanging().is_empty()).await;
    let hanging = turnstile.hanging();

    let (code, found) = service.get(&path).await;
    assert_eq!((code, &found["state"]), (200, &json!("UPDATING")));
    for _ in 0..2 {
        let (code, deleting) = service.delete(&path).await;
        assert_eq!((code, &deleting["state"]), (200, &json!("DELETING")), "as often as asked");
    }
    let (code, all) = service.get("/session").await;
    assert_eq!((code, all.as_array().unwrap().len()), (200, 1));
    let second = service.create(&spec(2)).await;
    let (code, _) = service.delete(&second).await;
    assert_eq!(code, 200);
    // All of this was answered while one and the same call was under way.
    assert_eq!(turnstile.hanging(), hanging);
    assert_eq!(service.get(&path).await.1["state"], "DELETING");

    turnstile.open();
    until("the sessions gone", async || service.get("/session").await.1 == Value::Array(Vec::new())).await;
    for name in site.names().values() {
        let node = site.node(name);
        assert!(!node.is_held(), "{node:?}");
    }
    let facts = site.facts();
    let drained = facts.iter().filter(|fact| matches!(fact.what, What::NodeChanged { held: true, .. }));
    assert_eq!(drained.count(), 2, "the drain came through, once for each node of the step");
    assert!(!facts.iter().any(|fact| matches!(fact.what, What::PowerCut { .. })), "nothing was rebooted");
}
