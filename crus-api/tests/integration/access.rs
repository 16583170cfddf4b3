//! Who may do what, and who is told of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use crus_api::access::{Access, Audit, Caller, Deed, Refusal, Refused, Remote, Role};
use crus_api::{ApiLimits, Site};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Method};
use serde_json::json;

use crate::document::{DOCUMENT, documented_answer};
use crate::service::{Answer, Api, example, request};

const ID: &str = "c926acf6-b5c6-411e-ba6c-ea0448cab2ee";

/// Knows one caller, whose token is `good`.
pub(crate) struct Known(Arc<Caller>);

impl Known {
    pub(crate) fn of(name: &str, role: Option<Role>) -> Self {
        Known(Arc::new(Caller { name: name.parse().unwrap(), role, source: "a test".into() }))
    }
}

#[async_trait]
impl Access for Known {
    async fn caller(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused> {
        match authorization.map(|value| value.as_bytes()) {
            None => Err(Refused::NoToken),
            Some(b"Bearer good") => Ok(Some(Arc::clone(&self.0))),
            Some(b"Bearer later") => Err(Refused::CannotTell("its issuer does not answer")),
            Some(_) => Err(Refused::BadToken("is not known")),
        }
    }
}

/// Takes every token for the name of who sends it.
struct Named;

#[async_trait]
impl Access for Named {
    async fn caller(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused> {
        let name = authorization.ok_or(Refused::NoToken)?.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let name = name.parse().unwrap();
        Ok(Some(Arc::new(Caller { name, role: Some(Role::Read), source: "a test".into() })))
    }
}

#[test]
fn one_caller_leaves_others_room_to_follow() {
    let limits = ApiLimits { max_streams: 4, ..ApiLimits::default() };
    let api = Api::built(Site::default(), Arc::new(Named), |api| api.limits(limits));
    let path = format!("/session/{}/events", api.add_example());
    let open = |name: &str| {
        let request = request("GET", &path).header("accept", "text/event-stream");
        api.open(request.header("authorization", format!("Bearer {name}")).body(Body::empty()).unwrap())
    };
    let mut ada = vec![open("ada"), open("ada")];
    let refused = open("ada");
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "30"));
    let grace = [open("grace"), open("grace")];
    assert!(ada.iter().chain(&grace).all(|stream| stream.status().as_u16() == 200));
    ada.pop();
    assert_eq!(open("ada").status().as_u16(), 200, "what has ended counts no more");
}

/// The role that an operation needs, by the document.
pub(crate) fn documented_role(path: &str, method: &Method) -> Option<Role> {
    let answer = &DOCUMENT["paths"][path][method.as_str().to_lowercase()]["responses"]["403"]["$ref"];
    match answer.as_str() {
        None => None,
        Some("#/components/responses/MayNotRead") => Some(Role::Read),
        Some("#/components/responses/MayNotOperate") => Some(Role::Operate),
        Some(other) => panic!("{method} {path} is refused by {other}"),
    }
}

/// All operations of the document.
fn operations() -> Vec<(&'static str, Method)> {
    let mut operations = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|name| *name != "parameters");
        operations.extend(methods.map(|method| (path.as_str(), method.to_uppercase().parse().unwrap())));
    }
    operations
}

fn known(role: Option<Role>) -> Api {
    Api::built(Site::default(), Arc::new(Known::of("alice", role)), |api| api)
}

fn send(api: &Api, method: &str, path: &str, token: &str) -> Answer {
    let request = request(method, path).header("authorization", format!("Bearer {token}"));
    api.call(request.body(Body::empty()).unwrap())
}

/// What every operation needs, told once more, so that a change of it is seen.
#[test]
fn every_operation_needs_a_role_but_those_that_tell_nothing_of_sessions() {
    let needs = |role: Role| {
        operations()
            .into_iter()
            .filter(|(path, method)| documented_role(path, method) == Some(role))
            .map(|(path, method)| format!("{method} {}", path.replace("/session/{upgrade_id}", "…")))
            .collect::<Vec<_>>()
    };
    let changes = ["POST /session", "DELETE …", "POST …/pause", "POST …/resume", "POST …/retry"];
    let mut operate = needs(Role::Operate);
    operate.sort_by_key(|operation| changes.iter().position(|known| known == operation));
    assert_eq!(operate, changes);
    for operation in needs(Role::Read) {
        assert!(operation.starts_with("GET ") || operation == "POST /plan", "{operation}");
    }
    for (path, method) in operations() {
        let is_open = documented_role(path, &method).is_none();
        let operation = &DOCUMENT["paths"][path][method.as_str().to_lowercase()];
        let schemes = operation["security"].as_array();
        let needs_none = schemes.is_none_or(|schemes| schemes.contains(&json!({})));
        assert_eq!(needs_none, is_open, "{method} {path}");
        assert_eq!(operation["responses"]["401"].is_null(), is_open, "{method} {path}");
        assert!(!(is_open && path.starts_with("/session")), "{method} {path}");
        assert!(!is_open || method == Method::GET, "{method} {path}");
        assert!(is_open || documented_answer(path, &method, 503).is_some(), "{method} {path}");
    }
}

/// The routes ask for what the document says, under both prefixes, and look at the token before all else.
#[test]
fn each_role_is_let_in_where_the_document_says_so_and_nowhere_else() {
    for (path, method) in operations() {
        let needed = documented_role(path, &method);
        for prefix in ["", "/apis/crus"] {
            let path = format!("{prefix}{}", path.replace("{upgrade_id}", ID));
            for has in [None, Some(Role::Read), Some(Role::Operate)] {
                let status = send(&known(has), method.as_str(), &path, "good").status.as_u16();
                let is_refused = needed.is_some_and(|needed| has.is_none_or(|has| has < needed));
                assert_eq!(status == 403, is_refused, "{method} {path} for {has:?}: {status}");
                assert_ne!(status, 401, "{method} {path}");
            }
            let without = known(Some(Role::Operate)).send(method.as_str(), &path).status.as_u16();
            assert_eq!(without == 401, needed.is_some(), "{method} {path}");
        }
    }
}

#[test]
fn without_a_good_token_it_is_told_what_would_do() {
    let api = known(Some(Role::Operate));
    let answer = api.get("/session").expect(401);
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"crus\"");
    assert!(answer.detail().contains("Authorization: Bearer TOKEN"), "{}", answer.text());

    let answer = send(&api, "GET", "/session", "s3cret").expect(401);
    let told = "Bearer realm=\"crus\", error=\"invalid_token\", error_description=\"The token is not known\"";
    assert_eq!(answer.header("www-authenticate"), told);
    assert_eq!(answer.detail(), "The token is not known. Send another.");

    let answer = send(&known(Some(Role::Read)), "DELETE", &format!("/session/{ID}"), "good").expect(403);
    let told = "Bearer realm=\"crus\", error=\"insufficient_scope\", scope=\"operate\"";
    assert_eq!(answer.header("www-authenticate"), told);
    assert_eq!(answer.detail(), "This needs the role operate; the token of alice has read.");
}

#[test]
fn a_token_that_cannot_be_checked_now_is_not_called_bad() {
    let answer = send(&known(Some(Role::Operate)), "GET", "/session", "later").expect(503);
    assert_eq!(answer.header("retry-after"), "5");
    assert!(answer.detail().contains("its issuer does not answer"), "{}", answer.text());
}

/// Whoever asks is told what is wrong, and who may look at sessions also in which words: these may name what is internal.
#[test]
fn what_other_services_say_is_shown_to_who_may_look_at_sessions() {
    let shown = |answer: Answer| {
        let readiness = answer.json();
        let bos = &readiness["checks"][1];
        assert_eq!((&bos["name"], &bos["state"]), (&json!("bos"), &json!("failing")));
        bos["detail"].as_str().map(str::to_owned)
    };
    let words = Some("the Boot Orchestration Service is unreachable: connection refused".to_owned());
    for prefix in ["", "/apis/crus"] {
        let path = format!("{prefix}/readyz");
        for (role, token, wanted) in [
            (Some(Role::Read), "good", &words),
            (Some(Role::Operate), "good", &words),
            (None, "good", &None),
            (Some(Role::Operate), "s3cret", &None),
            (Some(Role::Operate), "later", &None),
        ] {
            let answer = send(&known(role), "GET", &path, token).expect(200);
            assert_eq!(shown(answer), *wanted, "{role:?} {token}");
        }
        assert_eq!(shown(known(Some(Role::Operate)).get(&path).expect(200)), None, "without a token");
        assert_eq!(shown(Api::new().get(&path).expect(200)), words, "where nobody is asked who they are");
    }
    let full = known(Some(Role::Operate));
    full.health.set_ready(false);
    let store = |answer: Answer| answer.expect(503).json()["checks"][0].clone();
    let hidden = store(full.get("/readyz"));
    assert_eq!((&hidden["state"], &hidden["detail"]), (&json!("failing"), &json!(null)));
    assert_eq!(
        store(send(&full, "GET", "/readyz", "good"))["detail"],
        "the store failed: no space left on device"
    );
}

#[test]
fn of_two_tokens_neither_counts() {
    let request = request("GET", "/session").header("authorization", "Bearer good");
    let request = request.header("authorization", "Bearer good").body(Body::empty()).unwrap();
    known(Some(Role::Operate)).call(request).expect(401);
}

#[test]
fn paths_and_methods_that_are_not_there_are_told_so_without_a_token() {
    let api = known(Some(Role::Operate));
    api.get("/nowhere").expect(404);
    api.get("/session/").expect(404);
    api.send("PUT", "/session").expect(405);
    api.send("GET", &format!("/session/{ID}/pause")).expect(405);
    assert_eq!(api.send("OPTIONS", "/session").expect(204).header("allow"), "GET, HEAD, OPTIONS, POST");
    // HEAD is GET.
    api.send("HEAD", "/session").expect(401);
    send(&api, "HEAD", "/session", "good").expect(200);
}

#[test]
fn nothing_of_a_body_is_read_for_one_who_may_not() {
    let read = Arc::new(AtomicUsize::new(0));
    let body = || {
        let read = Arc::clone(&read);
        let chunks = stream::iter(0..3).map(move |_| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(" ")
        });
        Body::from_stream(chunks)
    };
    let post = || request("POST", "/session").header("content-type", "application/json");
    let api = known(Some(Role::Read));
    api.call(post().body(body()).unwrap()).expect(401);
    api.call(post().header("authorization", "Bearer good").body(body()).unwrap()).expect(403);
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

/// Is asked about one token, and says something else each time.
struct Changing(Mutex<VecDeque<Result<Option<Role>, Refused>>>);

#[async_trait]
impl Access for Changing {
    async fn caller(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused> {
        assert_eq!(authorization.unwrap(), "Bearer good");
        let role = self.0.lock().unwrap().pop_front().unwrap()?;
        Ok(Some(Arc::new(Caller { name: "alice".parse().unwrap(), role, source: "a test".into() })))
    }
}

/// A stream may last for weeks.
#[test]
fn a_stream_ends_once_its_token_is_not_good_any_more() {
    let read = Ok(Some(Role::Read));
    let later = Err(Refused::CannotTell("its issuer does not answer"));
    // For the request, for event 16, for nothing after it, for event 17, and so on.
    let followed = |answers: &[Result<Option<Role>, Refused>]| {
        let access = Changing(Mutex::new(answers.iter().copied().collect()));
        let api = Api::built(Site::default(), Arc::new(access), |api| api);
        let path = format!("/session/{}/events", api.add_example());
        let request = request("GET", &path).header("accept", "text/event-stream");
        let request = request.header("authorization", "Bearer good").body(Body::empty()).unwrap();
        let text = api.call(request).expect(200).text().to_owned();
        text.lines().filter_map(|line| line.strip_prefix("id: ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let expired = Err(Refused::BadToken("is expired"));
    assert_eq!(followed(&[read, read, expired]), ["15", "16"], "when nothing happens");
    assert_eq!(followed(&[read, read, read, expired]), ["15", "16"], "before more is told");
    assert_eq!(followed(&[read, read, read, Ok(None)]), ["15", "16"], "the role is taken away");
    let more = Ok(Some(Role::Operate));
    assert_eq!(
        followed(&[read, later, later, more, read, later, read]),
        ["15", "16", "17", "18"],
        "what cannot be told now ends nothing"
    );
}

/// A request has no say in who sent it.
#[test]
fn who_did_it_is_kept_with_the_session() {
    let api = known(Some(Role::Operate));
    let post = request("POST", "/session").header("content-type", "application/json");
    let post = post.header("authorization", "Bearer good").body(example().to_string().into()).unwrap();
    let created = api.call(post).expect(201).json();
    assert!(created.get("created_by").is_none(), "the documented answer stays as it is");
    let path = format!("/session/{}", created["upgrade_id"].as_str().unwrap());
    let progress = || send(&api, "GET", &format!("{path}/progress"), "good").expect(200).json();
    let by = |progress: &serde_json::Value| {
        ["created_by", "paused_by", "deleted_by"]
            .map(|name| progress[name].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(by(&progress()), ["alice", "-", "-"]);
    send(&api, "POST", &format!("{path}/pause"), "good").expect(200);
    assert_eq!(by(&progress()), ["alice", "alice", "-"]);
    send(&api, "POST", &format!("{path}/resume"), "good").expect(200);
    assert_eq!(by(&progress()), ["alice", "-", "-"]);
    send(&api, "DELETE", &path, "good").expect(200);
    assert_eq!(by(&progress()), ["alice", "-", "alice"]);

    let open = Api::new();
    let created = open.post_json(&example()).expect(201).json();
    let path = format!("/session/{}/progress", created["upgrade_id"].as_str().unwrap());
    assert_eq!(by(&open.get(&path).json()), ["-", "-", "-"]);
}

// ---- who is told ------------------------------------------------------------------------------------------

/// Keeps what it was told.
#[derive(Default)]
struct Book(Mutex<Vec<String>>);

impl Audit for Book {
    fn note(&self, deed: &Deed<'_>) {
        let who = deed.caller.map_or("-", |caller| caller.name.as_str());
        let id = deed.upgrade_id.map(|id| id.to_string()).unwrap_or_default();
        let status = deed.status.map_or("-".to_owned(), |status| status.as_str().to_owned());
        let refused = deed.refused.map(|refused: Refusal| refused.to_string()).unwrap_or_default();
        let from = deed.remote.map(|remote| remote.to_string()).unwrap_or_default();
        let line = format!("{who} {} {} {id} {status} {refused} {from}", deed.method, deed.path);
        self.0.lock().unwrap().push(line.trim_end().to_owned());
    }
}

fn audited(access: impl Access) -> (Api, Arc<Book>) {
    let book = Arc::new(Book::default());
    let audit = Arc::clone(&book);
    (Api::built(Site::default(), Arc::new(access), |api| api.audit(audit)), book)
}

fn told(book: &Book) -> Vec<String> {
    std::mem::take(&mut book.0.lock().unwrap())
}

#[test]
fn what_changes_something_is_told_with_who_and_what_came_of_it() {
    let (api, book) = audited(Known::of("alice", Some(Role::Operate)));
    let post = request("POST", "/apis/crus/session").header("content-type", "application/json");
    let post = post.header("authorization", "Bearer good").body(example().to_string().into()).unwrap();
    let created = api.call(post).expect(201).json();
    let id = created["upgrade_id"].as_str().unwrap();
    send(&api, "POST", &format!("/session/{id}/pause"), "good").expect(200);
    send(&api, "GET", &format!("/session/{id}"), "good").expect(200);
    send(&api, "POST", "/plan", "good").expect(415);
    send(&api, "DELETE", &format!("/apis/crus/session/{id}"), "good").expect(200);
    send(&api, "DELETE", "/session/x", "good").expect(404);
    let expected = [
        format!("alice POST /session {id} 201"),
        format!("alice POST /session/{{upgrade_id}}/pause {id} 200"),
        format!("alice DELETE /session/{{upgrade_id}} {id} 200"),
        "alice DELETE /session/{upgrade_id}  404".to_owned(),
    ];
    assert_eq!(told(&book), expected);
}

/// The path is read as the routes read it: what they do is told of the session that they do it to.
#[test]
fn an_id_is_told_however_it_is_written_in_the_path() {
    let (api, book) = audited(Known::of("alice", Some(Role::Operate)));
    let id = api.add_example();
    assert_eq!(id, ID);
    send(&api, "DELETE", &format!("/session/%63{}", &ID[1..]), "good").expect(200);
    send(&api, "POST", &format!("/apis/crus/session/{}/pause", ID.replace('-', "%2d")), "good").expect(409);
    // What is another way to write a UUID is no id to the routes.
    send(&api, "DELETE", &format!("/session/{}", ID.replace('-', "")), "good").expect(404);
    send(&api, "DELETE", "/session/%ff", "good").expect(404);
    let expected = [
        format!("alice DELETE /session/{{upgrade_id}} {ID} 200"),
        format!("alice POST /session/{{upgrade_id}}/pause {ID} 409"),
        "alice DELETE /session/{upgrade_id}  404".to_owned(),
        "alice DELETE /session/{upgrade_id}  404".to_owned(),
    ];
    assert_eq!(told(&book), expected);
}

#[test]
fn what_is_refused_is_told_even_if_it_changes_nothing() {
    let (api, book) = audited(Known::of("bob", None));
    let mut from = request("GET", "/session").body(Body::empty()).unwrap();
    from.extensions_mut().insert(Remote(([10, 0, 0, 7], 4711).into()));
    api.call(from).expect(401);
    send(&api, "DELETE", &format!("/session/{ID}"), "good").expect(403);
    send(&api, "GET", "/session", "bad").expect(401);
    send(&api, "GET", "/session", "later").expect(503);
    let expected = [
        "- GET /session  401 there is no token 10.0.0.7:4711".to_owned(),
        format!("bob DELETE /session/{{upgrade_id}} {ID} 403 it needs the role operate"),
        "- GET /session  401 the token is not known".to_owned(),
        "- GET /session  503 the token cannot be checked now: its issuer does not answer".to_owned(),
    ];
    assert_eq!(told(&book), expected);
}

#[test]
fn where_nobody_is_asked_what_changes_something_is_told_all_the_same() {
    let (api, book) = audited(crus_api::access::Open);
    api.get("/session").expect(200);
    api.post_json(&json!({})).expect(422);
    assert_eq!(told(&book), ["- POST /session  422"]);
}

/// The request is given up while its body is awaited.
#[test]
fn an_order_that_is_given_up_is_told_as_one_that_may_have_been_done() {
    let (api, book) = audited(Known::of("alice", Some(Role::Operate)));
    let never = Body::from_stream(stream::pending::<Result<&'static str, std::io::Error>>());
    let request = request("POST", "/session").header("authorization", "Bearer good").body(never).unwrap();
    api.give_up(request);
    assert_eq!(told(&book), ["alice POST /session  -"]);
}

#[test]
fn roles_are_ordered_and_written_as_they_are_read() {
    let allows: BTreeMap<_, _> =
        Role::ALL.into_iter().map(|has| (has.name(), Role::ALL.map(|needed| has.allows(needed)))).collect();
    assert_eq!(allows, BTreeMap::from([("operate", [true, true]), ("read", [true, false])]));
    for role in Role::ALL {
        assert_eq!(role.to_string().parse(), Ok(role));
    }
    for bad in ["", "Read", "admin", "read "] {
        assert!(bad.parse::<Role>().is_err(), "{bad}");
    }
}
