"""Every command of `kheish`. A new one is a row here and a function in the module of its noun."""

from __future__ import annotations

from kheish.cli.command import REQUIRED, Command, Param

MODES = ("default", "accept_edits", "plan", "dont_ask", "bypass")

JSON = Param("as_json", "--json", kind=bool, help="Print JSON.")
SESSION = Param("session", "-s", "--session", help="The session; default: the one of this directory.")
ONLY_SESSION = Param("session", "-s", "--session", "--session-id", metavar="SESSION", help="Only of this session.")
LIMIT = Param("limit", "--limit", kind=int, default=100, at_least=1, help="How many at most.")
JSON_LINES = Param("as_json", "--json", kind=bool, help="JSON lines, as without it.")
_BY = Param("by", "--by", default="model", choices=("model", "route", "session", "day"), help="What makes a row.")
_PIN = Param("pin", "--pin", kind=bool, help="Models are shown this input whatever is left out later.")
MESSAGE = Param("message", "-m", "--message", default="", help="Why; the model is told.")
REASON = Param("reason", "-m", "--reason", default="", help="Why; kept in the journal.")


def _arg(name: str, help: str, *, default: object = REQUIRED, many: bool = False) -> Param:
    return Param(name, help=help, default=default, many=many)


_ANSWER = (
    _arg("request_id", "The question, or the beginning of its id."),
    _arg("text", "The answer in your own words.", default=None, many=True),
    Param(
        "option",
        "--option",
        many=True,
        metavar="N|LABEL",
        help="Choose; QUESTION=CHOICE where there are several questions. May be repeated.",
    ),
    Param("decline", "--decline", kind=bool, help="Refuse to answer."),
    MESSAGE,
    JSON,
)

_COMPLETED = (
    "bash", "zsh", "fish", "man", "sessions", "runs", "approvals", "questions", "targets", "models", "routes",
    "secrets",
)  # fmt: skip
_IF_REVISION = Param("if_revision", "--if-revision", kind=int, metavar="N",
                     help="Refuse unless this is the settings' revision; see `kheish runtime get`.")  # fmt: skip
_DRIVERS = (
    "anthropic", "openai", "openai_compatible", "google", "openrouter", "xai", "ollama", "llama_cpp", "scripted",
    "rehearsal",
)  # fmt: skip
_ROUTE = (
    Param("model", "--model", metavar="MODEL", help="Its default model."),
    Param("base_url", "--base-url", metavar="URL", help="Another server than the driver's own."),
    Param("auth_ref", "--auth-ref", metavar="SECRET", help="The secret that is the key; see `kheish secrets set`."),
    Param("key_env", "--key-env", metavar="VARIABLE", help="The variable of the daemon that holds the key."),
    Param("multimodal", "--multimodal", kind=bool, help="The model is shown images and documents."),
    Param("text_only", "--text-only", kind=bool, help="It is not."),
    Param("price", "--price", metavar="IN/OUT", help="Dollars a million tokens cost; 3/15/0.3: also from a cache."),
    Param("context_tokens", "--context-tokens", kind=int, metavar="N", help="How many tokens the model takes."),
    _IF_REVISION, JSON,
)  # fmt: skip
_APPROVAL = _arg("request_id", "The approval, or the beginning of its id.")
_IF_DIGEST = Param("if_digest", "--if-digest", metavar="D", help="Refuse unless the call's digest begins with this.")

_RAISE = Param("raise_by", "--raise", metavar="AMOUNT",
               help="Budget: by how much, such as 1.00 (dollars), 200k, 10m, or cost=1,steps=10.")  # fmt: skip

DAILY = (
    Command(
        "run", "run:run",
        "Submit TEXT to the session of this directory and follow the run.\n\n"
        "Ctrl-C leaves it running; a second Ctrl-C cancels it. Exit status: 0 completed, 20 failed, 21 cancelled or "
        "interrupted, 22 waiting for a human.\n\n"
        "Examples:\n\n"
        "  kheish run fix the failing test\n\n"
        "  git diff | kheish run -s review 'what is wrong here?' -\n\n"
        "  kheish run --detach --json 'nightly check' | jq -r .run_id\n\n"
        "  kheish run --budget 0.50 --on-budget stop 'tidy the docs'",
        _arg("text", "What to do; a `-` at its end stands for standard input.", many=True),
        Param("session", "-s", "--session", help="Its whole name, new or known; default: the one of this directory."),
        Param("model", "--model", help="[route/]model; see `kheish routes list`."),
        Param("mode", "--mode", help="Permission mode of the session from now on.", choices=MODES),
        Param("detach", "-d", "--detach", kind=bool, help="Submit, print the run's id and return."),
        Param("steer", "--steer", kind=bool, help="Hand the text to the active run instead of queueing it."),
        Param("interrupt", "--interrupt", kind=bool,
              help="Stop the active run and go first, also where the queue is paused."),
        Param("attach", "--attach", many=True, metavar="FILE", help="Hand in a file; may be repeated."), _PIN,
        Param("cwd", "--cwd", metavar="DIR", help="The workspace of a new session; default: this directory."),
        Param("key", "--key", help="Idempotency key: the same key submits once."),
        Param("budget", "--budget", metavar="USD", help="What the run may cost, such as 0.50."),
        Param("budget_tokens", "--budget-tokens", metavar="N", help="How many tokens it may use, such as 200k."),
        Param("budget_steps", "--budget-steps", metavar="N", help="How many model calls it may make."),
        Param("budget_time", "--budget-time", metavar="SPAN", help="How long it may be at work, such as 10m."),
        Param("on_budget", "--on-budget", default="ask", choices=("ask", "stop"),
              help="At the limit of a budget: wait for a human, or stop with a last word."),
        Param("as_json", "--json", kind=bool, help="Print the stream as JSON lines."),
    ),
    Command("tui", "tui:tui",
            "Open the terminal application; `kheish` alone does too.\n\nLeaving it stops nothing."),
    Command("attach", "tui:attach", "Open the terminal application at a session.\n\nExample: kheish attach review",
            _arg("session_id", "The session, or the beginning of its name; default: that of this directory.",
                 default=None)),
    Command(
        "ps", "sessions:show_active",
        "List sessions that are at work or wait for somebody.\n\nExample: kheish ps --json | jq -r '.[].session_id'",
        Param("all", "-a", "--all", kind=bool, help="Idle and ended ones too."), LIMIT, JSON, hot=True,
    ),
    Command(
        "logs", "logs:logs",
        "Print what happened in a session or run, oldest first.\n\nExamples:\n\n  kheish logs -f\n\n"
        "  kheish logs run_01KB --json | jq -c .events[]",
        _arg("target", "A run or a session; default: the session of this directory.", default=None),
        Param("follow", "-f", "--follow", kind=bool, help="Go on as it happens."),
        Param("lines", "-n", "--lines", kind=int, default=0, metavar="N", help="Only the last N records; 0: all."),
        JSON, hot=True,
    ),
    Command(
        "inbox", "inbox:inbox",
        "List what waits for you: approvals and questions, oldest first.\n\nExample: kheish inbox --count",
        Param("count", "--count", kind=bool, help="Print only how many there are."), JSON, hot=True,
    ),
    Command(
        "approve", "approvals:approve",
        "Allow a tool call that waits for approval, or raise a budget that is used up.\n\n"
        "A call whose outcome is unknown after a crash takes --retry, --verify, --mark-done or --give-up instead.\n\n"
        "Examples:\n\n  kheish approve 01KB3 --if-digest 5f0c2a\n\n  kheish approve 01KB3 -m 'only on staging'\n\n"
        "  kheish approve 01KB3 --always\n\n  kheish approve 01KB3 --raise 1.00",
        _APPROVAL, _IF_DIGEST,
        Param("edit", "--edit", metavar="JSON", help="Run it with these arguments instead."),
        Param("session", "--session", kind=bool, help="Allow this very call for the rest of the session."),
        Param("always", "--always", kind=bool, help="Allow this very call in every session from now on."),
        Param("rule", "--rule", help="With --session or --always: this pattern, such as 'bash(git status*)'."),
        Param("verify", "--verify", kind=bool, help="Unknown outcome: let the model check."),
        Param("retry", "--retry", kind=bool, help="Unknown outcome: run it again."),
        Param("mark_done", "--mark-done", kind=bool, help="Unknown outcome: it took effect."),
        Param("give_up", "--give-up", kind=bool, help="Unknown outcome: fail the run."),
        _RAISE, MESSAGE, JSON,
    ),
    Command(
        "deny", "approvals:deny",
        "Deny a tool call; the model is told why. A run whose budget is not raised stops with a last word."
        "\n\nExample: kheish deny 01KB3 -m 'not on a Friday'",
        _APPROVAL, _IF_DIGEST, MESSAGE, JSON,
    ),
    Command(
        "answer", "questions:answer",
        "Answer a question, with options (by number or label) or in your own words.\n\n"
        "Examples:\n\n  kheish answer 01KB3 --option 2\n\n  kheish answer 01KB3 'after the release'\n\n"
        "  kheish answer 01KB3 --option 1=2 --option 2=no",
        *_ANSWER,
    ),
    Command(
        "wait", "wait:wait",
        "Wait for a run or a session. Exit status: 0 as asked for (a run: completed), 20 failed, 21 cancelled or "
        "interrupted, 22 it waits for a human, 124 the time is over.\n\n"
        "Example: kheish wait run_01KB --until blocked --timeout 600",
        _arg("target", "A run or a session; default: the session of this directory.", default=None),
        Param("until", "--until", default="done", choices=("done", "blocked", "idle"),
              help="done: over. blocked: over or waiting for a human. idle: nothing active or queued."),
        Param("timeout", "--timeout", kind=float, metavar="SECONDS", help="Give up after this long; 0: only look."),
        JSON, hot=True,
    ),
    Command("cancel", "runs:cancel", "Cancel a run, or the active run of a session.\n\n"
            "Example: kheish cancel run_01KB -m 'wrong branch'",
            _arg("target", "A run or a session; default: the session of this directory.", default=None), REASON, JSON),
    Command("interrupt", "runs:interrupt", "Stop the active run of a session; its queue goes on.",
            _arg("target", "A session; default: the one of this directory.", default=None), REASON, JSON),
    Command("usage", "usage:usage",
            "Add up, from the journals, what model calls used and cost.\n\n"
            "Example: kheish usage --by day --since 4w",
            _BY,
            Param("since", "--since", default="7d", metavar="TIME", help="Since 90m, 12h, 7d, 4w ago; or all."), JSON),
    Command("replay", "replay:replay",
            "Decide again all that was decided in a run, with the code and the rules of today, and show where they "
            "depart from its journal. Model replies, tool results and human answers are those on record; nothing acts "
            "and nothing is written. Exit status: 0 the same, 23 it departs.\n\n"
            "Example: kheish replay 01KB --until 3",
            _arg("run_id", "The run, or the beginning of its id."),
            Param("until", "--until", kind=int, metavar="STEP", at_least=1, help="Only up to this step."), JSON),
    Command("status", "daemon:status", "Show the daemon at a glance.", JSON, hot=True),
    Command("doctor", "diagnostics:doctor",
            "Check everything that Kheish needs, and say what to do. Exit status 1 where something is wrong.\n\n"
            "Example: kheish doctor routes --check-auth",
            Param("what", default="all", choices=("all", "routes"),
                  help="all | routes: only the ways to a model, each hop of each chain."),
            Param("check_auth", "--check-auth", kind=bool, help="Ask each server whether it takes the key."),
            Param("canary", "--canary", kind=bool, help="Make one tiny call of each; it may cost a little."), JSON),
    Command("completion", "completions:completion",
            "Print a completion script (bash, zsh, fish), the manual page, or the ids that the scripts complete.\n\n"
            "Example: source <(kheish completion bash)",
            Param("what", default=REQUIRED,
                  choices=_COMPLETED, help=" | ".join(_COMPLETED)), hot=True),
    Command("demo", "demo:demo",
            "Play an incident from alert to rollback on a real daemon that is killed twice, and check every claim.\n\n"
            "It needs no network and no key, and leaves nothing behind.",
            Param("interactive", "-i", "--interactive", kind=bool, help="You approve and answer."),
            Param("keep", "--keep", kind=bool, help="Keep the state root and say where it is."), JSON),
)  # fmt: skip

_ID = _arg("run_id", "The run, or the beginning of its id.")
_NAME = _arg("session_id", "The session, or the beginning of its id.")
_SECRET = _arg("name", "The secret's name: lower-case letters, digits, `.`, `_`, `-`.")
_NAME_OR_HERE = _arg(
    "session_id", "The session, or the beginning of its id; default: that of this directory.", default=None
)

GROUPS: dict[str, tuple[str, tuple[Command, ...]]] = {
    "sessions": (
        "Durable conversations.",
        (
            Command("create", "sessions:create",
                    "Create a session, or return the one of that name.\n\nExample: kheish sessions create review",
                    _arg("session_id", "Its name; default: a new id.", default=None),
                    Param("cwd", "--cwd", metavar="DIR", help="Its workspace; default: this directory."),
                    Param("mode", "--mode", choices=MODES, help="Permission mode."),
                    Param("title", "--title", help="A title for people."), JSON),
            Command("fork", "sessions:fork",
                    "Make a session whose transcript begins with another's, which stays as it is.\n\n"
                    "Example: kheish sessions fork review --at 42 --title 'the other way'", _NAME,
                    Param("at", "--at", kind=int, default=None, at_least=1, metavar="SEQ",
                          help="Up to this record; default: all."),
                    Param("name", "--name", help="The new session's name; default: a new id."),
                    Param("title", "--title", help="Its title; default: where it comes from."), JSON),
            Command("list", "sessions:list_", "List sessions, newest change first.\n\n"
                    "Example: kheish sessions list --status idle,ended",
                    Param("status", "--status", help="Only these, comma-separated: idle, running, ..."), LIMIT, JSON),
            Command("get", "sessions:get",
                    "Show a session.\n\nExample: kheish sessions get review", _NAME_OR_HERE, JSON),
            Command("input", "sessions:input_", "Submit an input and print its run's id.\n\n"
                    "Example: kheish sessions input review --wait 'and the tests?'", _NAME,
                    _arg("text", "The text; a `-` at its end stands for standard input.", many=True),
                    Param("model", "--model", help="[route/]model."), _PIN,
                    Param("wait", "--wait", kind=bool, help="Wait until it is over or needs a human."), JSON),
            Command("events", "sessions:events", "Print the journal as JSON lines.", _NAME_OR_HERE,
                    Param("cursor", "--cursor", default="", help="Go on after this seq."),
                    Param("limit", "--limit", kind=int, default=None, at_least=1,
                          help="How many at most; default: all."), JSON_LINES),
            Command("stream", "sessions:stream", "Follow a session as JSON lines.", _NAME_OR_HERE,
                    Param("cursor", "--cursor", default="", help="A seq, or `tail`."), JSON_LINES),
            Command("transcript", "sessions:transcript",
                    "Print the conversation.\n\nExample: kheish sessions transcript review --limit 5", _NAME_OR_HERE,
                    Param("limit", "--limit", kind=int, default=100, at_least=1, metavar="N",
                          help="The last N messages."), JSON),
            Command("queue", "sessions:queue", "List the queued inputs in order.", _NAME_OR_HERE, JSON),
            Command("edit", "sessions:edit",
                    "Change the text of a queued input.\n\nExample: kheish sessions edit review 01KB 'only the tests'",
                    _NAME, _ID,
                    _arg("text", "The new text.", many=True), JSON),
            Command("move", "sessions:move",
                    "Give a queued input another place in the queue.\n\nExample: kheish sessions move review 01KB 1",
                    _NAME, _ID,
                    Param("position", kind=int, default=REQUIRED, at_least=1, help="Its place, from 1."), JSON),
            Command("withdraw", "sessions:withdraw",
                    "Withdraw a queued input.\n\nExample: kheish sessions withdraw review 01KB", _NAME, _ID, JSON),
            Command("pause", "sessions:pause",
                    "Let nothing of the queue start, nor what is yet to come, until `kheish sessions resume`. The "
                    "active run goes on, and what you interrupt with runs at once.\n\n"
                    "Example: kheish sessions pause review", _NAME, JSON),
            Command("resume", "sessions:resume",
                    "Let the queue of a session go on.\n\nExample: kheish sessions resume review", _NAME, JSON),
            Command("interrupt", "runs:interrupt", "Stop the active run; the queue goes on.",
                    _arg("target", "The session; default: the one of this directory.", default=None), REASON, JSON),
            Command("rename", "sessions:rename",
                    "Give a session another title; its name stays.\n\nExample: kheish sessions rename review parser",
                    _NAME,
                    _arg("title", "The title.", many=True), JSON),
            Command("label", "sessions:label",
                    "Give a record of a session a label, a bookmark in its timeline that every client shows.\n\n"
                    "Example: kheish sessions label review 42 'before the refactoring'", _NAME,
                    Param("seq", kind=int, default=REQUIRED, at_least=1, help="The record's number."),
                    _arg("text", "The label.", many=True, default=None),
                    Param("remove", "--remove", kind=bool, help="Take its label away."), JSON),
            Command("labels", "sessions:labels",
                    "List the labels of a session's records.\n\nExample: kheish sessions labels review", _NAME_OR_HERE,
                    JSON),
            Command("compact", "sessions:compact",
                    "Have the next model call preceded by a summary of what went before, which models are shown in its "
                    "place from then on. The journal and the transcript keep everything.\n\n"
                    "Example: kheish sessions compact review", _NAME, JSON),
            Command("end", "sessions:end",
                    "End a session for good; its journal stays.\n\nExample: kheish sessions end review -m 'merged'",
                    _NAME, REASON, JSON),
            Command("set-model", "sessions:set_model",
                    "Choose what the session's later runs take that name no model.\n\n"
                    "Example: kheish sessions set-model review gpt", _NAME,
                    _arg("model", "A chain, or [route/]model.", default=None),
                    Param("reset", "--reset", kind=bool, help="What the daemon takes."), JSON),
            Command("set-mode", "sessions:set_mode",
                    "Change the permission mode.\n\nExample: kheish sessions set-mode review plan", _NAME,
                    Param("mode", default=REQUIRED, choices=MODES, help=" | ".join(MODES)), JSON),
            Command("budget", "budgets:budget",
                    "Show the budget of a session and those above it, or set it, for all its runs and their children."
                    "\n\n"
                    "Example: kheish sessions budget review --cost 5 --tokens 2M", _NAME_OR_HERE,
                    Param("cost", "--cost", metavar="USD", help="Dollars."),
                    Param("tokens", "--tokens", metavar="N", help="Tokens, such as 200k."),
                    Param("steps", "--steps", metavar="N", help="Model calls."),
                    Param("time", "--time", metavar="SPAN", help="Time at work, such as 2h."),
                    Param("clear", "--clear", kind=bool, help="Set none; the daemon's default holds."), JSON),
            Command("verify", "sessions:verify",
                    "Check journals: framing, chain, checkpoints against the fold, blobs. Works with or without a "
                    "running daemon; exit status 1 with file, line and offset of the first fault.\n\n"
                    "Example: kheish sessions verify --all",
                    _arg("session_id", "The session, or --all.", default=None),
                    Param("all", "--all", kind=bool, help="Every session."), JSON),
            Command("vacuum", "sessions:vacuum",
                    "Compress the closed parts of journals; nothing is deleted, and everything reads as before. Works "
                    "with or without a running daemon; a session that is open in one is skipped. Exit status 1 where "
                    "one is damaged.\n\nExample: kheish sessions vacuum --all",
                    _arg("session_id", "The sessions, or --all.", default=None, many=True),
                    Param("all", "--all", kind=bool, help="Every session."), JSON),
            Command("export", "sessions:export", "Write a session with its blobs as one archive.\n\n"
                    "Example: kheish sessions export review -o - | ssh other kheish sessions import -", _NAME,
                    Param("output", "-o", "--output", metavar="FILE", help="Default: NAME.kheish; - is stdout."), JSON),
            Command("import", "sessions:import_", "Take in an archive that `export` wrote.",
                    _arg("file", "The archive; `-` is standard input."), JSON),
        ),
    ),
    "runs": (
        "Executions of inputs.",
        (
            Command("list", "runs:list_", "List runs, newest first.\n\n"
                    "Example: kheish runs list --active --json | jq -r '.[].run_id'",
                    ONLY_SESSION,
                    Param("active", "--active", kind=bool, help="Only those that are not over."), LIMIT, JSON),
            Command("get", "runs:get", "Show a run.\n\nExample: kheish runs get 01KB", _ID, JSON),
            Command("why", "runs:why",
                    "Explain, from its journal, which way to a model each call took, and why: what failed, was spared, "
                    "waited, and took how long.\n\nExample: kheish runs why 01KB", _ID, JSON),
            Command("usage", "usage:of_run",
                    "Add up what the model calls of a run used and cost.\n\nExample: kheish runs usage 01KB --by route",
                    _ID, _BY, JSON),
            Command("debug", "debug:debug",
                    "Show what the model calls of a run sent and got, as far as the debug level had it kept; without "
                    "ATTEMPT, list them.\n\nExamples:\n\n  kheish runs debug 01KB\n\n  kheish runs debug 01KB 2.1\n\n"
                    "  kheish runs debug 01KB 2.1 --json | jq -r '.exchanges[].request.body'",
                    _ID, Param("artifact", default=None, metavar="ATTEMPT", help="STEP.ATTEMPT, such as 2.1."),
                    Param("raw", "--raw", kind=bool, help="As it went over the wire, but for what was redacted."),
                    JSON),
            Command("wait", "wait:wait", "Wait for a run; see `kheish wait --help`.",
                    _arg("target", "The run."),
                    Param("until", "--until", default="done", choices=("done", "blocked"), help="What to wait for."),
                    Param("timeout", "--timeout", kind=float, metavar="SECONDS", help="Give up after this long."),
                    JSON),
            Command("events", "runs:events", "Print the records that concern a run as JSON lines.", _ID, JSON_LINES),
            Command("stream", "runs:stream", "Follow a run as JSON lines.", _ID,
                    Param("cursor", "--cursor", default="", help="A seq, or `tail`."), JSON_LINES),
            Command("cancel", "runs:cancel",
                    "Cancel a run.\n\nExample: kheish runs cancel 01KB -m 'wrong branch'",
                    _arg("target", "The run."), REASON, JSON),
        ),
    ),
    "approvals": (
        "Tool calls that wait for a human.",
        (
            Command("list", "approvals:list_", "List pending approvals, oldest first.",
                    ONLY_SESSION, JSON),
            Command("show", "approvals:show",
                    "Show all of a pending approval.\n\nExample: kheish approvals show 01KB3", _APPROVAL, JSON),
            Command("allow", "approvals:allow",
                    "Allow it once; or raise the budget.\n\nExample: kheish approvals allow 01KB3 --raise 1.00",
                    _APPROVAL, _IF_DIGEST, _RAISE,
                    MESSAGE, JSON),
            Command("deny", "approvals:deny",
                    "Deny it; or leave the budget as it is.\n\nExample: kheish approvals deny 01KB3 -m 'not now'",
                    _APPROVAL, _IF_DIGEST, MESSAGE, JSON),
            Command("allow-all", "approvals:allow_all", "Allow all that wait, run by run.\n\n"
                    "Example: kheish approvals allow-all -s review -m 'read them'",
                    ONLY_SESSION, MESSAGE, JSON),
            Command("deny-all", "approvals:deny_all", "Deny all that wait, run by run.",
                    ONLY_SESSION, MESSAGE, JSON),
        ),
    ),
    "questions": (
        "Questions that wait for a human.",
        (
            Command("list", "questions:list_", "List pending questions, oldest first.",
                    ONLY_SESSION, JSON),
            Command("show", "questions:show",
                    "Show a question with its options.\n\nExample: kheish questions show 01KB3",
                    _arg("request_id", "The question."), JSON),
            Command("answer", "questions:answer", "Answer a question; see `kheish answer --help`.", *_ANSWER),
            Command("decline", "questions:decline", "Refuse to answer.",
                    _arg("request_id", "The question."), MESSAGE, JSON),
        ),
    ),
    "routes": (
        "Ways to a model.",
        (
            Command("list", "routes:list_",
                    "List the routes, and which is the default.\n\nExample: kheish routes list", JSON),
            Command("chains", "routes:chains",
                    "List the chains of routes, and which are spared now.\n\nExample: kheish routes chains", JSON),
            Command("get", "routes:get",
                    "Show a route.\n\nExample: kheish routes get claude", _arg("route_id", "The route."), JSON),
            Command("add", "routes:add",
                    "Add a route while the daemon runs. It wins over one of that name in routes.toml.\n\n"
                    "Examples:\n\n  kheish routes add claude --driver anthropic --auth-ref anthropic\n\n"
                    "  kheish routes add local --driver ollama --model qwen3",
                    _arg("route_id", "Its name: lower-case letters, digits, `.`, `_`, `-`."),
                    Param("driver", "--driver", default=REQUIRED, choices=_DRIVERS, help="What it speaks, and where."),
                    *_ROUTE),
            Command("set", "routes:set_",
                    "Change a route while the daemon runs: only what is given. One of routes.toml is then taken from "
                    "here, until it is removed.\n\nExample: kheish routes set claude --model claude-haiku-4-5",
                    _arg("route_id", "The route."),
                    Param("driver", "--driver", choices=_DRIVERS, help="What it speaks, and where."), *_ROUTE),
            Command("remove", "routes:remove",
                    "Remove a route that was added, unless a chain or the default needs it.\n\n"
                    "Example: kheish routes remove local",
                    _arg("route_id", "The route."), _IF_REVISION, JSON),
            Command("test", "routes:test",
                    "Make one tiny call of a route's model. Exit status 1 where it fails.\n\n"
                    "Example: kheish routes test claude",
                    _arg("route_id", "The route."),
                    Param("model", "--model", metavar="MODEL", help="Another model of it."),
                    Param("auth", "--auth", kind=bool, help="Only ask whether the key is taken; costs nothing."), JSON),
            Command("path", "routes:path",
                    "Print where routes.toml belongs.\n\nExample: $EDITOR \"$(kheish routes path)\"", JSON),
        ),
    ),
    "secrets": (
        "Keys and tokens that the daemon keeps sealed.",
        (
            Command("set", "secrets:set_",
                    "Set a secret: its value is asked for and not shown, or comes from standard input.\n\n"
                    "Examples:\n\n  kheish secrets set anthropic\n\n  pass show claude | kheish secrets set anthropic",
                    _SECRET, _arg("value", "Refused: arguments are seen by every process.", default=None, many=True),
                    Param("from_env", "--from-env", metavar="VARIABLE", help="Take the value of this variable."), JSON),
            Command("list", "secrets:list_",
                    "List the secrets and what uses them, without their values.\n\nExample: kheish secrets list", JSON),
            Command("get", "secrets:get",
                    "Show a secret without its value.\n\nExample: kheish secrets get anthropic", _SECRET, JSON),
            Command("delete", "secrets:delete",
                    "Delete a secret that no route uses.\n\nExample: kheish secrets delete tracker", _SECRET,
                    Param("force", "--force", kind=bool, help="Also one that routes use."), JSON),
            Command("generate", "secrets:generate",
                    "Make 32 random bytes: set NAME to them, or print them, for KHEISH_AUTH_STORE_MASTER_KEY.\n\n"
                    "Example: kheish secrets generate webhook --show",
                    _arg("name", "The secret; default: none is set.", default=None),
                    Param("show", "--show", kind=bool, help="Print what NAME was set to; nothing shows it later."),
                    JSON),
            Command("rotate-key", "secrets:rotate_key",
                    "Make another master key and seal all secrets anew with it; their values stay. It may be cut off "
                    "at any instant.\n\nExample: kheish secrets rotate-key", JSON),
            Command("import-env", "secrets:import_env",
                    "Set a secret for each provider's key in this environment: ANTHROPIC_API_KEY as `anthropic` and so "
                    "on.\n\nExample: kheish secrets import-env",
                    JSON),
        ),
    ),
    "runtime": (
        "What is set while the daemon runs.",
        (
            Command("get", "runtime:get",
                    "Show the settings, and what a run takes that says nothing.\n\nExample: kheish runtime get", JSON),
            Command("set-model", "runtime:set_model",
                    "Choose what later runs take where neither they nor their session name a model.\n\n"
                    "Examples:\n\n  kheish runtime set-model claude/claude-haiku-4-5\n\n"
                    "  kheish runtime set-model --reset",
                    _arg("model", "A chain, or [route/]model.", default=None),
                    Param("reset", "--reset", kind=bool, help="The default of the routes."), _IF_REVISION, JSON),
            Command("set-permission-mode", "runtime:set_permission_mode",
                    "Choose the permission mode of new sessions.\n\nExample: kheish runtime set-permission-mode plan",
                    Param("mode", default=REQUIRED, choices=MODES, help=" | ".join(MODES)), _IF_REVISION, JSON),
            Command("set-system-prompt", "runtime:set_system_prompt",
                    "Add to the system text of runs that are submitted from now on.\n\n"
                    "Example: kheish runtime set-system-prompt - < house-rules.md",
                    _arg("text", "The text; a `-` at its end stands for standard input.", default=None, many=True),
                    Param("reset", "--reset", kind=bool, help="Add nothing."), _IF_REVISION, JSON),
            Command("set-debug-level", "runtime:set_debug_level",
                    "Say how much is kept of the model calls that begin from now on: nothing; without images and what "
                    "looks like a secret; or all but credentials.\n\nExample: kheish runtime set-debug-level redacted",
                    Param("level", default=REQUIRED, choices=("off", "redacted", "full"), help="off | redacted | full"),
                    _IF_REVISION, JSON),
            Command("tool-limits", "runtime:tool_limits",
                    "Show the bounds that were set for tools, or set those of one, for runs that start from now on.\n\n"
                    "Example: kheish runtime tool-limits bash --timeout-ms 600000",
                    _arg("tool", "The tool; default: show all.", default=None),
                    Param("timeout_ms", "--timeout-ms", kind=int, metavar="N",
                          help="How long a call may take, and the most that one may ask for."),
                    Param("output_bytes", "--output-bytes", kind=int, metavar="N",
                          help="How much of a result the model is shown whole."),
                    Param("reset", "--reset", kind=bool, help="The tool's own."), _IF_REVISION, JSON),
            Command("revisions", "runtime:revisions",
                    "List the settings as they were, newest first.\n\nExample: kheish runtime revisions", JSON),
            Command("rollback", "runtime:rollback",
                    "Go back to the settings of an earlier revision, routes among them, as a new one.\n\n"
                    "Example: kheish runtime rollback 3",
                    Param("revision", kind=int, default=REQUIRED, help="The revision; see `kheish runtime revisions`."),
                    _IF_REVISION, JSON),
        ),
    ),
    "permissions": (
        "What tools may do.",
        (
            Command("check", "permissions:check",
                    "Ask what would be decided.\n\nExample: kheish permissions check --tool bash --arg 'git status'",
                    Param("tool", "--tool", default=REQUIRED, help="The tool."),
                    Param("arg", "--arg", help="Its main argument, such as the command."),
                    Param("input", "--input", metavar="JSON", help="All its arguments."),
                    Param("mode", "--mode", choices=MODES, help="In this mode."), SESSION, JSON),
            Command("matrix", "permissions:matrix", "What each mode does with each tool.", JSON),
            Command("rules", "permissions:rules", "List the rules that apply to a session.", SESSION,
                    Param("always", "--always", kind=bool, help="Only those made for all sessions, by answering so."),
                    JSON),
            Command("allow", "permissions:allow", "Allow a pattern in a session.\n\n"
                    "Example: kheish permissions allow 'bash(git status*)'",
                    _arg("pattern", "Such as 'bash(git status*)'."), SESSION, JSON),
            Command("ask", "permissions:ask", "Ask for a pattern in a session.",
                    _arg("pattern", "Such as 'read_file(secrets/*)'."), SESSION, JSON),
            Command("deny", "permissions:deny", "Deny a pattern in a session.",
                    _arg("pattern", "Such as 'bash(sudo *)'."), SESSION, JSON),
            Command("forget", "permissions:forget",
                    "Take back a rule that was made for all sessions.\n\n"
                    "Example: kheish permissions forget 'bash(make test)'",
                    _arg("pattern", "The rule's pattern, whole; see `kheish permissions rules --always`."), JSON),
            Command("audit", "permissions:audit", "List every decision of a session.", SESSION, JSON),
        ),
    ),
    "daemon": (
        "The process that owns everything.",
        (
            Command("start", "daemon:start", "Start it, if it is not running.", JSON),
            Command("stop", "daemon:stop", "Stop it: streams say bye, tools get a grace, nothing is lost.", JSON),
            Command("restart", "daemon:restart", "Stop it and start it; where it could not start, the old one goes on.",
                    JSON),
            Command("check", "daemon:check",
                    "Check config.toml and routes.toml before a restart; exit status 2 with file and line of a fault.",
                    JSON),
            Command("status", "daemon:daemon_status", "Show pid, generation, state root and socket.", JSON, hot=True),
            Command("run", "daemon:run", "Run it in the foreground."),
            Command("logs", "daemon:logs", "Print its log.",
                    Param("follow", "-f", "--follow", kind=bool, help="Go on as it grows."),
                    Param("lines", "-n", "--lines", kind=int, default=50, metavar="N", help="The last N lines."),
                    JSON_LINES),
            Command("install", "service:install", "Have it started with your session by systemd or launchd.",
                    Param("print_only", "--print", kind=bool, help="Only print what would be written."), JSON),
        ),
    ),
}  # fmt: skip


def find_command(argv: list[str]) -> tuple[Command, list[str]] | None:
    """The command that a line begins with, and the rest of the line."""
    for command in DAILY:
        if argv[:1] == [command.name]:
            return command, argv[1:]
    if len(argv) > 1 and argv[0] in GROUPS:
        for command in GROUPS[argv[0]][1]:
            if argv[1] == command.name:
                return command, argv[2:]
    return None
