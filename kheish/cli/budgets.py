"""`kheish sessions budget`, and how budgets are shown."""

from __future__ import annotations

from kheish.amounts import read_budget, say_account, unpriced_note, used_of
from kheish.cli.output import print_json, say
from kheish.cli.targets import connect, find_session
from kheish.errors import Invalid
from kheish.terminal import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import BudgetView


def budget(
    session_id: str | None,
    cost: str | None,
    tokens: str | None,
    steps: str | None,
    time: str | None,
    clear: bool,
    as_json: bool,
) -> int:
    client = connect()
    given = read_budget(cost=cost, tokens=tokens, steps=steps, time=time)
    if given and clear:
        raise Invalid("cannot both set a budget and clear it")
    id_ = find_session(client, session_id)
    view = client.sessions.set_budget(id_, **(given or {})) if given or clear else client.sessions.get(id_)
    above = client.daemon.budgets()
    if as_json:
        print_json({"session": view["budget"], "daemon": above})
        return 0
    found = [view["budget"], *above] if view["budget"] else above
    if not found:
        say("there is no budget")
    for one in found:
        print(line(one))
    return 0


def line(view: BudgetView) -> str:
    return clean(f"{say_account(view['account'])}: {used_of(view)}, set by {view['by']}")


def warn_unpriced(view: BudgetView | None) -> None:
    if view and (note := unpriced_note(view)):
        say(clean(note), "yellow")
