"""Every action of the application: its key, its words, and where it is valid.

One table makes the key bindings, the footer, the command palette, the help screen and the names in `config.toml`
(`[tui.keys]` maps `where.name` to keys). A new action is a row here and a method `action_<name>` on its screen, or on
the application for `app`. Which are valid at the moment says the screen's `check_action`.
"""

from __future__ import annotations

from typing import NamedTuple

from textual.binding import Binding, BindingType


class Action(NamedTuple):
    """`keys` are alternatives, separated by commas; the first one is shown. `is_shown`: in the footer. `is_priority`:
    the key works while a text field has the focus."""

    where: str
    name: str
    keys: str
    title: str
    help: str
    is_shown: bool = False
    is_priority: bool = False

    @property
    def id(self) -> str:
        return f"{self.where}.{self.name}"


ACTIONS: tuple[Action, ...] = (
    Action("app", "command_palette", "ctrl+p", "Palette", "Find any action or session", True, True),
    Action("app", "help", "f1", "Help", "Show the keys that are valid here and now", True, True),
    Action("app", "inbox", "f2", "Inbox", "Show what waits for you in all sessions", False, True),
    Action("app", "status", "f3", "Status", "Show the daemon and what is wrong with it", False, True),
    Action("app", "settings", "f4", "Settings", "Change theme, keys and notifications", False, True),
    Action("app", "home", "f5", "Home", "Show all sessions", False, True),
    Action("app", "start_daemon", "ctrl+r", "Start daemon", "Start the daemon again, or the newer one", False, True),
    Action("app", "quit", "ctrl+q", "Leave", "Leave; everything goes on", False, True),
    Action("app", "help_quit", "ctrl+c", "Break off", "Copy what is marked, clear what is written, or, twice, leave"),
    Action("app", "suspend_process", "ctrl+z", "Suspend", "Back to the shell, until `fg`", False, True),
    # Home
    Action("home", "open", "enter,l,right", "Open", "Attach to the session", True),
    Action("home", "new", "n", "New", "Create a session in this directory", True),
    Action("home", "reply", "r,space", "Reply", "Answer what the session asks, or write to it, from here", True),
    Action("home", "filter", "slash", "Filter", "Type to filter the list", True),
    Action("home", "scope", "ctrl+a", "Here/all", "Only this directory's sessions, or all", True),
    Action("home", "named", "N", "Named", "Only sessions with a name or a title, or all"),
    Action("home", "sort", "s", "Sort", "Change the order: need, time, name"),
    Action("home", "rename", "R", "Rename", "Give the session a title"),
    Action("home", "end", "x", "End", "End the session for good; its journal stays"),
    Action("home", "timeline", "t", "Timeline", "Show every record of the session"),
    Action("home", "down", "j", "Down", "Go down"),
    Action("home", "up", "k", "Up", "Go up"),
    Action("home", "first", "g", "First", "Go to the first"),
    Action("home", "last", "G", "Last", "Go to the last"),
    Action("home", "leave", "q", "Leave", "Leave; everything goes on"),
    # Session
    Action("session", "answer", "ctrl+y", "Answer", "Open what waits for you", True, True),
    Action("session", "queue", "enter", "Send", "Send; while a run is active it is queued", True),
    Action("session", "steer", "ctrl+enter,ctrl+s", "Steer", "Hand it to the active run", True, True),
    Action("session", "newline", "shift+enter,ctrl+j,alt+enter", "New line", "Begin a new line"),
    Action("session", "interrupt", "escape", "Interrupt", "Twice: interrupt the active run", True),
    Action("session", "plan", "ctrl+l", "Plan", "Hide the plan of the run, or show it", True, True),
    Action("session", "back", "left", "Sessions", "With nothing written: back to all sessions", True),
    Action("session", "editor", "ctrl+o", "Editor", "Write in $VISUAL or $EDITOR", False, True),
    Action("session", "aside", "ctrl+b", "Side question", "Ask something beside the work, which goes on", False, True),
    Action("session", "expand", "ctrl+e", "Expand", "Show tool output and reasoning whole, or collapsed", False, True),
    Action("session", "timeline", "ctrl+t", "Timeline", "Show every record with its time", False, True),
    Action("session", "run", "ctrl+d", "Run", "Show the run's attempts, usage and permissions", False, True),
    Action("session", "mode", "shift+tab", "Mode", "Change the permission mode", False, True),
    Action("session", "compact", "ctrl+g", "Compact", "Have what was said summed up before the next call", False, True),
    Action("session", "queue_focus", "ctrl+u", "Queue", "Edit, order or withdraw what is queued", False, True),
    Action("session", "pause", "alt+p", "Pause", "Let nothing of the queue start, or let it go on", False, True),
    Action("session", "page_up", "pageup", "Page up", "Scroll the transcript up", False, True),
    Action("session", "page_down", "pagedown", "Page down", "Scroll the transcript down", False, True),
    Action("session", "previous_input", "alt+up", "Input before", "Go to the input before what one sees", False, True),
    Action("session", "next_input", "alt+down", "Next input", "Go to the next input, at last to the end", False, True),
    Action("session", "top", "ctrl+home", "Top", "Go to the first entry", False, True),
    Action("session", "bottom", "ctrl+end", "Bottom", "Go to the newest entry and stay there", False, True),
    Action("composer", "search", "ctrl+r", "Search", "Search what you wrote before"),
    Action("composer", "undo", "ctrl+underscore", "Undo", "Take back what was typed last"),
    Action("queue", "edit", "enter,e", "Edit", "Edit the queued input in the composer", True),
    Action("queue", "withdraw", "x,delete", "Withdraw", "Take the queued input back", True),
    Action("queue", "go_first", "f", "First", "Let the queued input go first", True),
    Action("queue", "leave_queue", "escape,tab", "Back", "Back to the composer", True),
    Action("aside_question", "close", "escape", "Back", "Back to the session", True, True),
    # Inbox
    Action("inbox", "open", "enter,l,right", "Open", "Decide or answer what the chosen line asks", True),
    Action("inbox", "session", "s", "Session", "Attach to the session that asks", True),
    # Timeline
    Action("timeline", "open", "enter,l,right", "Details", "Show the record, and the state at that point", True),
    Action("timeline", "part", "tab", "Other part", "Go to the details, to scroll them, or back to the list", True),
    Action("timeline", "find", "slash", "Find", "Go to a seq or a time, or search the records", True),
    Action("timeline", "next", "n", "Next", "Go to the next record that was searched for"),
    Action("timeline", "previous", "N", "Previous", "Go to the one before"),
    Action("timeline", "filter", "f", "Filter", "Show all records, no tools, only mine, decisions, or labelled", True),
    Action("timeline", "label", "m", "Label", "Give the record a label, change it, or take it away", True),
    Action("timeline", "next_label", "right_square_bracket", "Next label", "Go to the next record with a label"),
    Action("timeline", "previous_label", "left_square_bracket", "Label before", "Go to the one before"),
    Action("timeline", "fork", "F", "Fork", "Go on from here in a session of its own; this one stays as it is", True),
    Action("timeline", "oldest", "ctrl+home", "Oldest", "Go to the first record of the session"),
    Action("timeline", "newest", "ctrl+end", "Newest", "Go to the newest record and stay there", True),
    # Run
    Action("run", "cancel", "x", "Cancel", "Twice: cancel this run; its session goes on", True),
    Action("run", "copy", "y", "Copy id", "Copy the run's id", True),
    Action("run", "session", "s", "Session", "Attach to the run's session", True),
    Action("run", "timeline", "t", "Timeline", "Show every record of the session"),
    # Status
    Action("status", "check", "r", "Check", "Look again", True),
    # Help
    Action("help", "down", "down", "Down", "Scroll down"),
    Action("help", "up", "up", "Up", "Scroll up"),
    Action("help", "half_down", "pagedown", "Half down", "Half a page down"),
    Action("help", "half_up", "pageup", "Half up", "Half a page up"),
    Action("help", "close", "escape,f1", "Back", "Back to where you were", True, True),
    # Settings
    Action("settings", "change", "enter,space", "Change", "Choose, switch, or press a new key for it", True),
    Action("settings", "reset", "delete,backspace", "Default", "Back to what it is without a setting", True),
    Action("settings", "part", "tab", "Next part", "Go to the next part of the settings", True),
    # Approval; its choices stand above the footer
    Action("approval", "once", "a", "Once", "Allow this call, and nothing else"),
    Action("approval", "comment", "c", "Comment", "Allow this call, and tell the model something with its result"),
    Action("approval", "session", "s", "Session", "Allow it, with a rule for this session; shows the rule first"),
    Action("approval", "always", "A", "Always", "Allow it, with a rule for every session; shows the rule first"),
    Action("approval", "edit", "e", "Edit", "Change the arguments, then decide"),
    Action("approval", "deny", "r", "Deny", "Deny this call, and tell the model why"),
    Action("approval", "never", "R", "Never", "Deny it, with a rule for every session; shows the rule first"),
    Action("approval", "confirm", "y", "Make it", "Make the rule that is shown, and decide by it"),
    Action("approval", "widen", "w", "Change it", "Change the rule that is shown"),
    Action("approval", "take", "ctrl+s", "Take", "Take the arguments as they are written now"),
    Action("approval", "view", "v", "View", "Show the change in one column, in two, or as the width allows", True),
    Action("approval", "next", "n,right_square_bracket", "Next", "Go to the next change", True),
    Action("approval", "previous", "p,left_square_bracket", "Previous", "Go to the change before", True),
    Action("approval", "later", "escape,q", "Later", "Leave it waiting"),
    # Approval of a call whose outcome is unknown
    Action("uncertain", "verify", "v", "Verify", "Let the model find out whether it took effect"),
    Action("uncertain", "retry", "r", "Run again", "Run the call again"),
    Action("uncertain", "mark_done", "m", "It is done", "Go on as if the call had taken effect"),
    Action("uncertain", "give_up", "g", "Give up", "Let the run fail"),
    # Approval of a budget that is used up
    Action("budget", "grant", "r", "Raise", "Raise the budget; asks by how much"),
    Action("budget", "halt", "s", "Stop", "Let the run say what is left to do, and stop"),
    # Question
    Action("question", "down", "j,down", "Down", "Go to the next choice"),
    Action("question", "up", "k,up", "Up", "Go to the choice before"),
    Action("question", "mark", "space", "Mark", "Mark the choice, or take the mark away"),
    Action("question", "go_on", "enter", "Next", "Take this answer and go on; at the end, send all"),
    Action("question", "words", "t", "Own words", "Answer in your own words"),
    Action("question", "before", "h,left,backspace", "Back", "Back to the question before"),
    Action("question", "decline", "D", "Decline", "Answer nothing, and tell the model why"),
    Action("question", "later", "escape,q", "Later", "Leave it waiting"),
    # Lists, and the screens beside those of sessions
    Action("list", "down", "j", "Down", "Go down"),
    Action("list", "up", "k", "Up", "Go up"),
    Action("list", "first", "g", "First", "Go to the first"),
    Action("list", "last", "G", "Last", "Go to the last"),
    Action("list", "half_down", "d", "Half down", "Half a page down"),
    Action("list", "half_up", "u", "Half up", "Half a page up"),
    Action("aside", "close", "escape,q,left", "Back", "Back to where you were", True),
)  # fmt: skip


def bindings(*places: str) -> list[BindingType]:
    """The bindings of a screen or widget; their ids are what `config.toml` may re-bind."""
    return [
        Binding(
            action.keys, action.name, action.title, show=action.is_shown, id=action.id, tooltip=action.help,
            priority=action.is_priority,
        )
        for action in ACTIONS
        if action.where in places
    ]  # fmt: skip
