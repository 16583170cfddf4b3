//! Locks: a locked node is left out of boot sessions.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use crus_core::Xname;
use serde::{Deserialize, Serialize};

use super::super::answer;
use super::super::live::LiveCluster;
use super::components::filtered;
use super::{Answer, Filters, Refusal, passes, read};
use crate::cluster::hsm::Component;

/// A request about the locks of components. *Rigid*, which is the default, does all or nothing.
#[derive(Deserialize)]
struct Locking {
    #[serde(rename = "ComponentIDs", default)]
    ids: Vec<String>,
    #[serde(rename = "ProcessingModel", default)]
    model: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LockingDone {
    counts: Counts,
    success: Changed,
    failure: Vec<Unchanged>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Counts {
    total: usize,
    success: usize,
    failure: usize,
}

#[derive(Serialize)]
struct Changed {
    #[serde(rename = "ComponentIDs")]
    ids: Vec<String>,
}

#[derive(Serialize)]
struct Unchanged {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Reason")]
    reason: &'static str,
}

pub(super) async fn lock(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    set_locks(&live, &body, true)
}

pub(super) async fn unlock(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    set_locks(&live, &body, false)
}

fn set_locks(live: &LiveCluster, body: &[u8], locked: bool) -> Answer {
    let Locking { ids, model } = read(body)?;
    let flexible = model.eq_ignore_ascii_case("flexible");
    if !flexible && !model.is_empty() && !model.eq_ignore_ascii_case("rigid") {
        return Err(Refusal::bad_request("Invalid Processing Model"));
    }
    live.with(|cluster| {
        let mut done = Vec::new();
        let mut failure = Vec::new();
        for id in &ids {
            let component = match Xname::new(id) {
                Ok(xname) => cluster.component(xname)?,
                Err(_) => None,
            };
            match component {
                Some(component) if component.locked != locked => done.push(component.xname),
                Some(_) => failure
                    .push(Unchanged { id: id.clone(), reason: if locked { "Locked" } else { "Unlocked" } }),
                None => failure.push(Unchanged { id: id.clone(), reason: "NotFound" }),
            }
        }
        if let (false, Some(first)) = (flexible, failure.first()) {
            return Err(Refusal::bad_request(match first.reason {
                "NotFound" => "Component not found",
                "Locked" => "Component is Locked",
                _ => "Component is Unlocked",
            }));
        }
        for xname in &done {
            cluster.set_locked(*xname, locked)?;
        }
        let counts = Counts { total: ids.len(), success: done.len(), failure: failure.len() };
        let success = Changed { ids: done.iter().map(ToString::to_string).collect() };
        Ok(answer::json(StatusCode::OK, &LockingDone { counts, success, failure }))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LockOut {
    #[serde(rename = "ID")]
    id: String,
    locked: bool,
    reserved: bool,
    reservation_disabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LocksOut {
    components: Vec<LockOut>,
    not_found: Option<Vec<String>>,
}

fn lock_out(component: &Component) -> LockOut {
    LockOut {
        id: component.xname.to_string(),
        locked: component.locked,
        reserved: false,
        reservation_disabled: false,
    }
}

pub(super) async fn all(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
    let components = filtered(&live, &filters)?;
    let components = components
        .iter()
        .filter(|component| passes(&filters, "locked", |value| value == component.locked.to_string()))
        .map(lock_out)
        .collect();
    Ok(answer::json(StatusCode::OK, &LocksOut { components, not_found: None }))
}

pub(super) async fn some(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    let asked: Locking = read(&body)?;
    live.with(|cluster| {
        let mut components = Vec::new();
        let mut not_found = Vec::new();
        for id in asked.ids {
            let component = match Xname::new(&id) {
                Ok(xname) => cluster.component(xname)?,
                Err(_) => None,
            };
            match component {
                Some(component) => components.push(lock_out(&component)),
                None => not_found.push(id),
            }
        }
        Ok(answer::json(StatusCode::OK, &LocksOut { components, not_found: Some(not_found) }))
    })
}
