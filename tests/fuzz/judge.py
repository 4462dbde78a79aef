"""What is wrong with an answer, beside what schemathesis knows; and what was asked and answered, for the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.checks import CheckResult
from schemathesis.core.parameters import ParameterLocation

from tests.daemon_process import Json
from tests.fuzz.world import INPUTS, World

REAL = 0.8
"""How often an id that really exists stands in the place of an invented one."""
REFRESH_EVERY = 40
ABOUT_THE_WORLD = {"$.at", "$.updated_input", "$.rule", "$.remember", "$.resolutions"}
"""Where `invalid_request` speaks of what the request is about, which a schema cannot know."""


class Judge:
    """Registers itself with schemathesis."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: dict[str, Counter[int]] = defaultdict(Counter)
        self.codes: dict[str, Counter[str]] = defaultdict(Counter)
        self.findings: Counter[str] = Counter()

        @schemathesis.hook
        def before_call(context: HookContext, case: Case, **kwargs: Any) -> None:
            self.give_real_ids(case)

        @schemathesis.hook
        def after_call(context: HookContext, case: Case, response: Response) -> None:
            self.count(case, response)

        @schemathesis.hook
        def after_validate(context: HookContext, case: Case, response: Response, results: list[CheckResult]) -> None:
            self.findings[_name(case)] += sum(result.failure is not None for result in results)

        @schemathesis.check
        def acceptance_of_what_is_described(ctx: CheckContext, response: Response, case: Case) -> None:
            check_acceptance(response, case)

        @schemathesis.check
        def end_of_a_replay(ctx: CheckContext, response: Response, case: Case) -> None:
            check_stream(response, case)

    # -- before ---------------------------------------------------------------------------------------------------

    def give_real_ids(self, case: Case) -> None:
        """In the place of what was made to have the form of an id. What was made to be wrong stays so."""
        asked = sum(counter.total() for counter in self.answers.values())
        if asked % REFRESH_EVERY == 0:
            self.world.refresh()
        random = self.world.random
        path = case.operation.path
        chosen = self._choose(path)
        if "" in case.path_parameters.values():  # taken from an answer that has none; it would be another path
            case.path_parameters = {name: chosen.get(name, "0") for name in case.path_parameters}
        if case.meta is None:
            return

        def is_sound(place: ParameterLocation) -> bool:
            info = case.meta.components.get(place)
            return info is not None and info.mode is GenerationMode.POSITIVE

        if is_sound(ParameterLocation.BODY) and isinstance(case.body, dict):
            case.body = keep_at_home(path, dict(case.body))
        if case.meta.phase.name.value == "stateful" or random.random() > REAL:
            return
        if chosen and is_sound(ParameterLocation.PATH):
            case.path_parameters |= {name: chosen[name] for name in case.path_parameters if name in chosen}
        if is_sound(ParameterLocation.BODY) and isinstance(case.body, dict):
            case.body = self._with_real_things(path, dict(case.body), chosen)
        if is_sound(ParameterLocation.QUERY) and "session_id" in (case.query or {}):
            case.query["session_id"] = random.choice(self.world.sessions)["session_id"]

    def _choose(self, path: str) -> Json:
        """The parts of the path, and the approval or question that it is about."""
        world, random = self.world, self.world.random
        approval = random.choice(world.approvals) if world.approvals and "approval" in path else {}
        question = random.choice(world.questions) if world.questions and "question" in path else {}
        about = approval or question
        word = path.removeprefix("/v1").split("/")[1]
        if "{run_id}" in path and world.queued:
            queued = random.choice(world.queued)
            return {"id": queued["session_id"], "run_id": queued["run_id"]}
        if path.endswith("/input"):  # which is waited for
            own = [s["session_id"] for s in world.sessions if s["session_id"].startswith("real-")]  # no fork
            return {"id": random.choice([id_ for id_ in own if id_ not in world.hanging])}
        if word == "sessions" and world.sessions:
            return {"id": (about or random.choice(world.sessions))["session_id"], **about, "run_id": "run_0"}
        if word == "runs" and world.runs:
            run_id = (about or random.choice(world.runs))["run_id"]
            return {**about, "id": random.choice((run_id, run_id, run_id.removeprefix("run_"), run_id[:22]))}
        if about:
            return {**about, "id": about["request_id"]}
        if word == "blobs" and world.blobs:
            return {"sha256": random.choice(world.blobs)}
        return {}

    def _with_real_things(self, path: str, body: Json, about: Json) -> Json:
        random = self.world.random
        if path == "/v1/sessions":
            body["cwd"] = str(self.world.daemon.work)
        if path.endswith(("/runs", "/input")):
            body["content"] = random.choice((body["content"], *INPUTS)) if "content" in body else "go"
            body.pop("model", None)
        if body.get("session_id") and "permissions" in path:
            body["session_id"] = random.choice(self.world.sessions)["session_id"]
        if "request_id" not in about:
            return body
        item: Json = body
        if isinstance(body.get("resolutions"), list) and body["resolutions"]:
            item = dict(body["resolutions"][0])
            body["resolutions"] = [item]
        elif isinstance(body.get("resolution"), dict):
            item = body["resolution"] = dict(body["resolution"])
        if item is not body:
            item["request_id"] = about["request_id"]
        if "digest" in about and random.random() < 0.8:
            item["if_digest"] = random.choice(("", about["digest"], about["digest"][:8]))
            item["resolution"] = random.choice(about["choices"])
        if "updated_input" in item and random.random() < 0.5:
            item["updated_input"] = {"path": "a"}
        if "questions" in about and random.random() < 0.6:
            item["declined"] = False
            item["answers"] = [
                {"question_id": q["id"], "selected_option_ids": [q["options"][0]["id"]]}
                if q["options"]
                else {"question_id": q["id"], "freeform_answer": "because"}
                for q in about["questions"]
            ]
        return body

    # -- after ----------------------------------------------------------------------------------------------------

    def count(self, case: Case, response: Response) -> None:
        operation = _name(case)
        self.answers[operation][response.status_code] += 1
        if response.headers.get("content-type") == ["application/problem+json"]:
            self.codes[operation][f"{response.status_code} {response.json()['code']}"] += 1

    # -- the report -------------------------------------------------------------------------------------------------

    def report(self) -> str:
        statuses = sorted({status for counter in self.answers.values() for status in counter})
        width = max(map(len, self.answers), default=0)
        lines = [f"{'operation':{width}} requests {' '.join(f'{s:>6}' for s in statuses)} findings"]
        for operation, counter in sorted(self.answers.items(), key=lambda item: item[0].split()[::-1]):
            cells = " ".join(f"{counter[status] or '':>6}" for status in statuses)
            lines.append(f"{operation:{width}} {counter.total():8} {cells} {self.findings[operation] or '':>8}")
        total: Counter[int] = sum(self.answers.values(), Counter())
        cells = " ".join(f"{total[status]:>6}" for status in statuses)
        lines.append(f"{'all':{width}} {total.total():8} {cells} {self.findings.total():8}")
        return "\n".join(lines)


def keep_at_home(path: str, body: Json) -> Json:
    """No route leads out of the script, and runs go on taking one that answers."""
    if path.startswith("/v1/runtime/routes") and body.get("driver"):
        body |= {"driver": "scripted", "default_model": "script.json"}
    if path.endswith("/model") and "model" in body:
        body["model"] = ""
    return body


def _name(case: Case) -> str:
    return f"{case.operation.method.upper()} {case.operation.path}"


def check_acceptance(response: Response, case: Case) -> None:
    """What has the form that the description asks for is not refused for its form."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or response.status_code != 400:
        return
    problem = response.json()
    if "Expected `int" in problem["detail"] and "got `float`" in problem["detail"]:
        return  # JSON Schema calls 5.0 an integer
    if problem["code"] in ("invalid_request", "malformed_json") and problem.get("path") not in ABOUT_THE_WORLD:
        raise AssertionError(f"refused, though it is as described: {problem['detail']}")


def check_stream(response: Response, case: Case) -> None:
    """The first events of a stream come, the end of its replay among them."""
    if response.headers.get("content-type") != ["text/event-stream"] or case.method == "HEAD":
        return
    seen = [line[7:] for line in response.content.decode().split("\n") if line.startswith("event: ")]
    assert {"sync", "error"} & {*seen}, f"the replay did not end: {seen}"
