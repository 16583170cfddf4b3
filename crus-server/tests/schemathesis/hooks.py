"""What the OpenAPI document cannot say about the API, for the public fuzzer."""

import collections
import json
import os
import re

import schemathesis

PROBLEM = "application/problem+json"

# A command of this name is configured.
CHECK_COMMAND = "always"

PARTITION = re.compile("[-A-Za-z0-9_.]{1,64}")

# ---- what is valid depends on the site, or on several properties ------------------------------------------


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes of a body that the document allows one that this site allows. Others are left as they are."""
    if case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        mend(case.body)


def mend(body):
    # "The three labels must differ." They do so whatever their case.
    labels = [name for name in ("failed_label", "starting_label", "upgrading_label") if name in body]
    if len({body[name].lower() for name in labels}) < len(labels):
        body.update({name: name.replace("_", "-") for name in labels})
    strategy = body.get("strategy", {})
    # "Its name in the service's configuration."
    if strategy.get("check_command") is not None:
        strategy["check_command"] = CHECK_COMMAND
    # "A name of the IANA time zone database."
    if strategy.get("window") is not None:
        strategy["window"]["time_zone"] = "Europe/Zurich"
    # "Needs `canary`."
    if strategy.get("soak_s") is not None and not strategy.get("canary"):
        strategy["canary"] = [1]
    # "Needs `drain_timeout_s`", but for `wait`.
    if strategy.get("on_drain_timeout", "wait") != "wait" and strategy.get("drain_timeout_s") is None:
        strategy["drain_timeout_s"] = 60
    # "Not together with `pack`."
    if strategy.get("order") == "pack":
        strategy.pop("max_per_domain", None)
    # "By the name of each partition", which this version of OpenAPI has no words for.
    if "min_in_service" in strategy:
        floors = strategy["min_in_service"].items()
        strategy["min_in_service"] = {name: floor for name, floor in floors if PARTITION.fullmatch(name)}


# ---- promises about several answers, or about all --------------------------------------------------------------

DELETED = set()


@schemathesis.check
def deleted_stays_deleted(context, response, case):
    """A session whose deletion was answered for is DELETING until it is gone, and never anything else again."""
    session = re.fullmatch(r".*/session/([-0-9A-Fa-f]{36})", response.request.url.split("?")[0])
    if not session or response.status_code != 200 or response.request.method == "HEAD":
        return
    session, state = session[1].lower(), response.json()["state"]
    if response.request.method == "DELETE":
        DELETED.add(session)
    if session in DELETED:
        assert state == "DELETING", f"{session} was deleted, and is {state}"


@schemathesis.check
def errors_are_problems_of_their_status(context, response, case):
    """Every error is a problem, also of paths and methods that are not there, and says its own status."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    assert response.headers["content-type"] == [PROBLEM], response.headers
    problem = response.json()
    assert problem["status"] == response.status_code, problem
    assert problem["detail"].endswith("."), problem
    assert not any(ord(c) < 0x20 or ord(c) == 0x7F for c in problem["detail"]), problem


# ---- what was tried --------------------------------------------------------------------------------------------

SEEN = collections.Counter()


@schemathesis.hook
def after_call(context, case, response):
    SEEN[f"{case.operation.definition.raw['operationId']} {response.request.method} {response.status_code}"] += 1
    with open(os.environ["CRUS_FUZZ_SEEN"], "w") as file:
        json.dump(SEEN, file, indent=1, sort_keys=True)
