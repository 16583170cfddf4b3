//! HSM v2: groups, members, components, locks.

use super::*;

#[tokio::test]
async fn a_group_is_shown_with_what_it_has() {
    let routes = router(&still());
    let empty = get(&routes, "/hsm/v2/groups/upgrading").await;
    assert_eq!((empty.status, empty.content_type.as_str()), (200, "application/json"));
    assert_eq!(empty.text, "{\"label\":\"upgrading\",\"description\":\"\",\"members\":{\"ids\":[]}}\n");
    let blue = get(&routes, "/hsm/v2/groups/BLUE").await.json();
    assert_eq!(blue["exclusiveGroup"], "colours", "upper case in a label is lowered");
    is_problem(&get(&routes, "/hsm/v2/groups/none").await, 404, "No such group: none");
    is_problem(&get(&routes, "/hsm/v2/groups/a%20b").await, 400, "Invalid group label.");
    let labels = get(&routes, "/hsm/v2/groups/labels").await.json();
    assert_eq!(labels, json!(["all", "blue", "red", "upgrading"]));
    let some = get(&routes, "/apis/smd/hsm/v2/groups?group=red&group=blue").await.json();
    assert_eq!(some.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_member_is_added_once() {
    let routes = router(&still());
    let path = "/hsm/v2/groups/upgrading/members";
    let added = post(&routes, path, json!({"id": "X1000C0S1B0N0"})).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.json(), json!([{"URI": "/hsm/v2/groups/upgrading/members/x1000c0s1b0n0"}]));
    assert_eq!(get(&routes, path).await.json(), json!({"ids": ["x1000c0s1b0n0"]}));
    let again = post(&routes, path, json!({"id": "x1000c0s1b0n0"})).await;
    is_problem(&again, 409, "operation would conflict with an existing member in the same group.");
    let unknown = post(&routes, path, json!({"id": "x9c0s0b0n0"})).await;
    is_problem(&unknown, 400, "linked component does not exist");
    is_problem(&post(&routes, path, json!({"id": "nid000001"})).await, 400, "invalid xname ID");
    let nowhere = post(&routes, "/hsm/v2/groups/none/members", json!({"id": "x1000c0s1b0n0"})).await;
    is_problem(&nowhere, 404, "No such group: none");
    let garbage = post(&routes, path, json!("{")).await;
    assert_eq!(garbage.status, 500);
    assert!(garbage.json()["detail"].as_str().unwrap().starts_with("error decoding JSON "));
}

#[tokio::test]
async fn a_node_is_in_one_group_of_an_exclusive_one_at_most() {
    let routes = router(&still());
    assert_eq!(post(&routes, "/hsm/v2/groups/red/members", json!({"id": xname(1)})).await.status, 201);
    let other = post(&routes, "/hsm/v2/groups/blue/members", json!({"id": xname(1)})).await;
    is_problem(&other, 409, "operation would conflict with an existing member in another exclusive group.");
}

#[tokio::test]
async fn a_member_is_removed_once() {
    let routes = router(&still());
    let removed = delete(&routes, "/hsm/v2/groups/all/members/x1000c0s1b0n0").await;
    assert_eq!(
        (removed.status, removed.text.as_str()),
        (200, "{\"code\":0,\"message\":\"deleted 1 entry\"}\n")
    );
    let again = delete(&routes, "/hsm/v2/groups/all/members/x1000c0s1b0n0").await;
    is_problem(&again, 404, "group has no such member.");
    let nowhere = delete(&routes, "/hsm/v2/groups/none/members/x1000c0s1b0n0").await;
    is_problem(&nowhere, 404, "No such group: none");
}

#[tokio::test]
async fn there_is_no_call_that_sets_all_members() {
    let routes = router(&still());
    let put = ask(&routes, "PUT", "/hsm/v2/groups/all/members", json!({"ids": []})).await;
    assert_eq!((put.status, put.text.as_str()), (404, "404 page not found\n"));
}

#[tokio::test]
async fn a_group_is_created_with_its_members_patched_and_deleted() {
    let routes = router(&still());
    let group =
        json!({"label": "New", "description": "d", "tags": ["t"], "members": {"ids": [xname(1), xname(2)]}});
    let created = post(&routes, "/hsm/v2/groups", group.clone()).await;
    assert_eq!((created.status, created.json()), (201, json!([{"URI": "/hsm/v2/groups/new"}])));
    let again = post(&routes, "/hsm/v2/groups", group).await;
    is_problem(&again, 409, "operation would conflict with an existing group that has the same label.");
    let bad = post(&routes, "/hsm/v2/groups", json!({"label": "a b"})).await;
    is_problem(&bad, 400, "couldn't validate group: group or partition field has invalid characters");
    let long = post(&routes, "/hsm/v2/groups", json!({"label": "a".repeat(300)})).await;
    is_problem(&long, 500, "operation 'POST' failed during store.");

    let patched = ask(&routes, "PATCH", "/hsm/v2/groups/new", json!({"description": "e"})).await;
    assert_eq!((patched.status, patched.text.as_str()), (204, ""));
    let shown = get(&routes, "/hsm/v2/groups/new").await.json();
    assert_eq!((&shown["description"], &shown["tags"]), (&json!("e"), &json!(["t"])));
    let nothing = ask(&routes, "PATCH", "/hsm/v2/groups/new", json!({})).await;
    assert_eq!((nothing.status, nothing.text.lines().count()), (400, 2), "two objects in one body");

    assert_eq!(delete(&routes, "/hsm/v2/groups/new").await.json()["message"], "deleted 1 entry");
    is_problem(&delete(&routes, "/hsm/v2/groups/new").await, 404, "no such group.");
}

#[tokio::test]
async fn components_are_found_by_type_role_group_and_id() {
    let routes = router(&still());
    let count = async |query: &str| {
        let found = get(&routes, &format!("/hsm/v2/State/Components{query}")).await.json();
        found["Components"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 12);
    assert_eq!(count("?type=Node&role=Compute").await, 11);
    assert_eq!(count("?type=node&role=compute&role=application").await, 12);
    assert_eq!(count("?type=NodeBMC").await, 0);
    assert_eq!(count("?group=all&arch=ARM").await, 1);
    assert_eq!(count("?group=upgrading").await, 0);
    assert_eq!(count("?group=none").await, 0);
    assert_eq!(count("?enabled=false").await, 1);

    let asked = json!({"ComponentIDs": [xname(1), xname(2), "x9c0s0b0n0"]});
    let found = post(&routes, "/hsm/v2/State/Components/Query", asked).await;
    assert_eq!(
        found.text,
        "{\"Components\":[{\"ID\":\"x1000c0s1b0n0\",\"Type\":\"Node\",\"State\":\"Ready\",\"Flag\":\"OK\",\
         \"Enabled\":true,\"Role\":\"Compute\",\"NID\":1,\"NetType\":\"Sling\",\"Arch\":\"X86\",\
         \"Class\":\"Mountain\"},{\"ID\":\"x1000c0s2b0n0\",\"Type\":\"Node\",\"State\":\"Ready\",\"Flag\":\"OK\",\
         \"Enabled\":true,\"Role\":\"Compute\",\"NID\":2,\"NetType\":\"Sling\",\"Arch\":\"X86\",\
         \"Class\":\"Mountain\",\"Locked\":true}]}\n",
        "unknown ids are left out without an error"
    );
    let none = post(&routes, "/hsm/v2/State/Components/Query", json!({"ComponentIDs": []})).await;
    is_problem(&none, 400, "Missing IDs");
    assert_eq!(get(&routes, "/hsm/v2/State/Components/X1000C0S4B0N0").await.json()["Arch"], "ARM");
    is_problem(&get(&routes, "/hsm/v2/State/Components/x9c0s0b0n0").await, 404, "no such xname.");
    assert_eq!(delete(&routes, "/hsm/v2/State/Components/x1000c0s1b0n0").await.status, 200);
    assert_eq!(count("?group=all").await, 11);
}

#[tokio::test]
async fn components_are_disabled_and_locked() {
    let routes = router(&still());
    let path = format!("/hsm/v2/State/Components/{}/Enabled", xname(1));
    assert_eq!(ask(&routes, "PATCH", &path, json!({"Enabled": false})).await.status, 204);
    is_problem(&ask(&routes, "PATCH", &path, json!({})).await, 400, "Missing Enabled field");
    let bulk = json!({"ComponentIDs": [xname(1), xname(3)], "Enabled": true});
    let bulk = ask(&routes, "PATCH", "/hsm/v2/State/Components/BulkEnabled", bulk).await;
    assert_eq!(bulk.status, 204);
    let disabled = get(&routes, "/hsm/v2/State/Components?enabled=false").await.json();
    assert_eq!(disabled["Components"], json!([]));

    let locked = post(&routes, "/hsm/v2/locks/lock", json!({"ComponentIDs": [xname(1)]})).await;
    assert_eq!(
        (locked.status, locked.json()),
        (
            200,
            json!({
                "Counts": {"Total": 1, "Success": 1, "Failure": 0},
                "Success": {"ComponentIDs": [xname(1)]},
                "Failure": [],
            })
        )
    );
    let both = json!({"ComponentIDs": [xname(1), xname(4)]});
    is_problem(&post(&routes, "/hsm/v2/locks/lock", both).await, 400, "Component is Locked");
    let flexible = json!({"ComponentIDs": [xname(1), xname(4), "x9"], "ProcessingModel": "flexible"});
    let flexible = post(&routes, "/hsm/v2/locks/lock", flexible).await.json();
    assert_eq!(flexible["Success"]["ComponentIDs"], json!([xname(4)]));
    assert_eq!(
        flexible["Failure"],
        json!([{"ID": xname(1), "Reason": "Locked"}, {"ID": "x9", "Reason": "NotFound"}])
    );
    let unlocked = post(&routes, "/hsm/v2/locks/unlock", json!({"ComponentIDs": [xname(4)]})).await;
    assert_eq!(unlocked.status, 200);
    let status =
        post(&routes, "/hsm/v2/locks/status", json!({"ComponentIDs": [xname(1), "x9"]})).await.json();
    assert_eq!((&status["Components"][0]["Locked"], &status["NotFound"]), (&json!(true), &json!(["x9"])));
    let all = get(&routes, "/hsm/v2/locks/status?locked=true").await.json();
    assert_eq!(all["Components"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_its_database_every_call_fails_and_ready_says_why() {
    let live = still();
    let routes = router(&live);
    let ready = get(&routes, "/hsm/v2/service/ready").await;
    assert_eq!((ready.status, ready.text.as_str()), (200, "{\"code\":0,\"message\":\"HSM is healthy\"}\n"));
    assert_eq!(post(&routes, "/sim/hsm/down", Value::Null).await.status, 204);
    assert_eq!(get(&routes, "/hsm/v2/service/ready").await.status, 503);
    assert_eq!(get(&routes, "/hsm/v2/service/liveness").await.status, 204);
    is_problem(&get(&routes, "/hsm/v2/groups/all").await, 500, "failed to query DB.");
    is_problem(&get(&routes, "/hsm/v2/State/Components").await, 500, "failed to query DB.");
    assert_eq!(post(&routes, "/sim/hsm/up", Value::Null).await.status, 204);
    assert_eq!(get(&routes, "/hsm/v2/groups/all").await.status, 200);
}
