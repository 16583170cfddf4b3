//! Pause, resume and retry, given to any of several replicas on one store: they reach the owner, hold, and happen once.

use crus_api::{ServiceError, SessionState, Sessions as _};
use crus_core::UpgradeId;
use crus_core::commands::NotNow;
use crus_core::history::Happening;
use crus_core::model::{Command, Counts, NodeState, Phase};
use crus_core::ports::{DriverStore as _, SessionStore as _, StoreError};
use crus_sim::config::BootBehaviour;
use uuid::Uuid;

use crate::support::replicas::{HOUR_MS, Site, busy, config, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ordered_of_one_replica_reaches_the_owner_at_once_however_long_it_sleeps() {
    let site = Site::new(config());
    let owner = site.replica(HOUR_MS).await;
    let id = owner.create().await;
    eventually("its own", async || owner.store.owns(id)).await;
    let other = site.replica(HOUR_MS).await;
    eventually("its nodes are known", async || site.phase(id).await == Phase::Rolling).await;
    assert!(owner.store.owns(id) && !other.store.owns(id));

    other.order(id, Command::Pause).await;
    eventually("paused", async || site.is_paused(id).await).await;
    other.order(id, Command::Pause).await;
    other.order(id, Command::Resume).await;
    eventually("resumed", async || !site.is_paused(id).await).await;
    owner.order(id, Command::Resume).await;
    owner.order(id, Command::Pause).await;
    eventually("paused", async || site.is_paused(id).await).await;
    eventually("all is taken in", async || site.store.commands(id).await.unwrap().is_empty()).await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Paused { .. })).await, 2);
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Resumed { .. })).await, 1);
    assert!(owner.store.owns(id), "nobody else took it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_finished_session_is_retried_at_any_replica_and_after_a_restart() {
    let site = Site::new(config());
    let first = site.replica(10).await;
    let id = first.create().await;
    eventually("done", async || site.phase(id).await == Phase::Done).await;
    assert_eq!(site.counts(id).await, Counts { upgraded: 3, failed: 1, ..Counts::default() });
    let second = site.replica(10).await;
    first.crash().await;

    assert_eq!(second.state(id).await, SessionState::Ready);
    assert_eq!(second.refuses(id, Command::Pause).await, NotNow::Done(Command::Pause));
    let third = site.replica(10).await;
    // Both are asked at once: it is one retry, or the later comes when it works again.
    let at_once = tokio::join!(
        second.controller.command(id, Command::Retry, None),
        third.controller.command(id, Command::Retry, None)
    );
    let refused = |answer: &Result<_, ServiceError>| answer.is_err();
    assert!(!refused(&at_once.0) || !refused(&at_once.1), "{at_once:?}");
    for error in [at_once.0.err(), at_once.1.err()].into_iter().flatten() {
        assert_eq!(error, ServiceError::NotNow { reason: NotNow::Working });
    }
    eventually("it works again", async || {
        second.state(id).await == SessionState::Updating && third.state(id).await == SessionState::Updating
            || site.happened(id, |what| matches!(what, Happening::Finished { .. })).await > 1
    })
    .await;
    eventually("done again", async || {
        site.phase(id).await == Phase::Done
            && second.state(id).await == SessionState::Ready
            && third.state(id).await == SessionState::Ready
    })
    .await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Retried { .. })).await, 1);
    let session = site.store.load(id).await.unwrap().unwrap().0;
    assert_eq!(session.nodes[1].attempt, 1);
    assert!(matches!(session.nodes[1].state, NodeState::Failed(_)), "nobody mended it");
    for (xname, names) in site.reboots() {
        let expected = if xname == session.nodes[1].xname { 2 } else { 1 };
        assert_eq!(names.len(), expected, "{xname}: {names:?}");
    }
    eventually("who is done is nobody's", async || !second.store.owns(id) && !third.store.owns(id)).await;

    // Once more, and now it boots.
    let broken = session.nodes[1].xname;
    site.cluster.with(|cluster| cluster.set_boot_behaviour(broken, BootBehaviour::Normal));
    third.order(id, Command::Retry).await;
    eventually("all upgraded", async || site.counts(id).await.upgraded == 4).await;
    eventually("done for good", async || second.state(id).await == SessionState::Ready).await;
    assert_eq!(second.refuses(id, Command::Retry).await, NotNow::NothingFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_noted_right_before_a_crash_is_neither_lost_nor_done_twice() {
    let site = Site::new(config());
    let owner = site.replica(10).await;
    let id = owner.create().await;
    eventually("at work", async || site.phase(id).await == Phase::Rolling).await;
    // Noted, and nobody has heard of it: who owns the session is gone.
    owner.store.cut_off();
    let handle = site.store.another_replica();
    handle.command(id, Command::Pause, None).await.unwrap().unwrap();
    owner.crash().await;
    let heir = site.replica(10).await;
    eventually("paused", async || site.is_paused(id).await).await;
    // An heir of the heir finds it taken in.
    heir.crash().await;
    let last = site.replica(10).await;
    eventually("its own", async || last.store.owns(id)).await;
    last.order(id, Command::Resume).await;
    eventually("done", async || site.phase(id).await == Phase::Done).await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Paused { .. })).await, 1);
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Resumed { .. })).await, 1);

    // Likewise a retry of a session that is done, which nobody runs.
    last.crash().await;
    handle.command(id, Command::Retry, None).await.unwrap().unwrap();
    let _service = site.replica(10).await;
    eventually("retried", async || {
        site.happened(id, |what| matches!(what, Happening::Finished { .. })).await == 2
    })
    .await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Retried { .. })).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_the_reason_and_changes_nothing() {
    let site = Site::new(busy());
    let replica = site.replica(10).await;
    let nowhere = UpgradeId(Uuid::new_v4());
    assert_eq!(replica.controller.command(nowhere, Command::Pause, None).await, Ok(None));
    let id = replica.create().await;
    eventually("nodes are drained", async || site.counts(id).await.draining > 0).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::Working);
    replica.order(id, Command::Pause).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::StepInFlight(0));
    eventually("paused", async || site.is_paused(id).await).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::StepInFlight(0));
    assert_eq!(site.store.commands(id).await, Ok(Vec::new()), "nothing of it was noted");

    site.store.fail(Some("no quorum"));
    let failed = ServiceError::Store(StoreError::Failed("no quorum".to_owned()));
    assert_eq!(replica.controller.command(id, Command::Resume, None).await, Err(failed));
    site.store.fail(None);
    replica.controller.delete(id, None).await.unwrap().unwrap();
    for command in [Command::Pause, Command::Resume, Command::Retry] {
        match replica.controller.command(id, command, None).await {
            Err(ServiceError::NotNow { reason: NotNow::Deleting }) | Ok(None) => {}
            other => panic!("{command:?} ended as {other:?}"),
        }
    }
}
