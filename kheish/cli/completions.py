"""`kheish completion`: completion scripts for bash, zsh and fish, and the manual page, all made from the table.

The scripts know every command, option and choice by themselves; only for ids and names they call
`kheish completion KIND`, which asks a running daemon and never starts one.
"""

from __future__ import annotations

from kheish.cli.command import Command, Param
from kheish.cli.table import DAILY, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_IDS = {
    "session": "sessions",
    "session_id": "sessions",
    "run_id": "runs",
    "target": "targets",
    "model": "models",
    "route_id": "routes",
    "name": "secrets",
    "auth_ref": "secrets",
}
"""What a parameter of this name is completed with: a KIND of `kheish completion`. A `request_id` is of the noun whose
module handles the command."""
_FILES = {"attach": "files", "file": "files", "output": "files", "cwd": "directories"}


def completion(what: str) -> int:
    scripts = {"bash": bash, "zsh": zsh, "fish": fish, "man": manual}
    if what in scripts:
        print(scripts[what](), end="")
    else:
        for id_ in _ids(what):
            print(id_)
    return 0


def _ids(kind: str) -> list[str]:
    """The ids of one kind; none where no daemon answers."""
    from kheish.cli.targets import connect
    from kheish.errors import KheishError

    client = connect(start=False)
    found: list[str] = []
    try:
        if kind in ("sessions", "targets"):
            found += [row["session_id"] for row in client.sessions.list(limit=1000)]
        if kind in ("runs", "targets"):
            found += [row["run_id"] for row in client.runs.list(limit=100)]
        if kind == "approvals":
            found += [row["request_id"] for row in client.approvals.list()]
        if kind == "questions":
            found += [row["request_id"] for row in client.questions.list()]
        if kind == "routes":
            found += [route["route_id"] for route in client.daemon.routes()]
        if kind == "secrets":
            found += [secret["name"] for secret in client.secrets.list()]
        if kind == "models":
            for route in client.daemon.routes():
                found += [route["route_id"], f"{route['route_id']}/{route['default_model']}"]
            found += [chain["chain_id"] for chain in client.daemon.chains()]
    except KheishError:
        pass
    return found


def _lines() -> Iterator[tuple[tuple[str, ...], Command]]:
    """Every command with the words that name it."""
    for command in DAILY:
        yield (command.name,), command
    for group, (_, commands) in GROUPS.items():
        for command in commands:
            yield (group, command.name), command


def _source(command: Command, param: Param) -> str:
    """`choices`, a kind of ids, `files`, `directories`, or "" for free text."""
    if param.choices:
        return "choices"
    if param.name == "request_id":
        return command.target.partition(":")[0]
    if param.name == "name" and param.flags:  # of something that is to be made
        return ""
    return _IDS.get(param.name) or _FILES.get(param.name, "")


def _arguments(command: Command) -> list[tuple[int | None, Param]]:
    """The arguments that are completed, each with how many come before it; None where that is not asked, since
    nothing else of the command is completed: words may stand before it that are an option's."""
    found = [(place, p) for place, p in enumerate(p for p in command.params if not p.flags) if _source(command, p)]
    return [(place if len(found) > 1 else None, param) for place, param in found]


def _summary(text: str) -> str:
    return text.split("\n\n")[0].split(". ")[0].rstrip(".")


# -- bash -------------------------------------------------------------------------------------------------------------

_BASH = """\
# bash completion for kheish, made by `kheish completion bash`.

_kheish_words() {{
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}}

_kheish() {{
    local cur prev line word given=0
    COMPREPLY=()
    cur=${{COMP_WORDS[COMP_CWORD]}}
    prev=${{COMP_WORDS[COMP_CWORD-1]}}
    case $COMP_CWORD in
        1) _kheish_words "{top} --help --version"; return ;;
        2) case ${{COMP_WORDS[1]}} in
{groups}
           esac ;;
    esac
    line=${{COMP_WORDS[1]}}
    case $line in {group_names}) line="$line ${{COMP_WORDS[2]}}" ;; esac
    case "$line:$prev" in
{values}
    esac
    for word in "${{COMP_WORDS[@]:0:COMP_CWORD}}"; do case $word in -*) ;; *) ((given++)) ;; esac; done
    set -- $line
    case $cur in
        -*) case $line in
{flags}
            esac ;;
        *) case $line:$((given - $# - 1)) in
{arguments}
           esac ;;
    esac
}}

complete -F _kheish kheish
"""


def bash() -> str:
    values, flags, arguments = [], [], []
    for words, command in _lines():
        line = " ".join(words)
        options = [p for p in command.params if p.flags]
        flags.append(f'                "{line}") _kheish_words "{" ".join(_flags(command))}" ;;')
        for param in options:
            if param.kind is not bool and (action := _bash_action(command, param)):
                patterns = " | ".join(f'"{line}:{flag}"' for flag in param.flags)
                values.append(f"        {patterns}) {action}; return ;;")
        for place, argument in _arguments(command):
            pattern = f'"{line}:"*' if place is None else f'"{line}:{place}"'
            arguments.append(f"               {pattern}) {_bash_action(command, argument)} ;;")
    return _BASH.format(
        top=" ".join([c.name for c in DAILY] + list(GROUPS)),
        group_names=" | ".join(GROUPS),
        groups="\n".join(
            f'               {group}) _kheish_words "{" ".join(c.name for c in commands)} --help"; return ;;'
            for group, (_, commands) in GROUPS.items()
        ),
        values="\n".join(values),
        flags="\n".join(flags),
        arguments="\n".join(arguments),
    )


def _bash_action(command: Command, param: Param) -> str:
    match _source(command, param):
        case "":
            return ""
        case "choices":
            return f'_kheish_words "{" ".join(param.choices)}"'
        case "files":
            return 'COMPREPLY=($(compgen -f -- "$cur"))'
        case "directories":
            return 'COMPREPLY=($(compgen -d -- "$cur"))'
        case kind:
            return f'_kheish_words "$(kheish completion {kind} 2>/dev/null)"'


def _flags(command: Command) -> list[str]:
    return [*(flag for p in command.params for flag in p.flags), "--help"]


# -- zsh --------------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef kheish
# zsh completion for kheish, made by `kheish completion zsh`.

_kheish_ids() {{
    local -a found
    found=("${{(@f)$(kheish completion $1 2>/dev/null)}}")
    compadd -a found
}}

_kheish() {{
    local -a commands
    local line=$words[2]
    if (( CURRENT == 2 )); then
        commands=(
{top}
        )
        _describe command commands
        return
    fi
    case $line in
{groups}
    esac
    case $line in
{commands}
    esac
}}

if [[ $funcstack[1] == _kheish ]]; then _kheish "$@"; else compdef _kheish kheish; fi
"""


def zsh() -> str:
    top = [f"            {_zsh_quote(f'{c.name}:{_summary(c.help)}')}" for c in DAILY]
    top += [f"            {_zsh_quote(f'{group}:{_summary(text)}')}" for group, (text, _) in GROUPS.items()]
    groups = []
    for group, (_, commands) in GROUPS.items():
        rows = " ".join(_zsh_quote(f"{c.name}:{_summary(c.help)}") for c in commands)
        groups.append(
            f"        {group})\n"
            f"            if (( CURRENT == 3 )); then commands=({rows}); _describe command commands; return; fi\n"
            f'            line="{group} $words[3]"; shift words; (( CURRENT-- )) ;;'
        )
    commands_ = []
    for words, command in _lines():
        specs = [spec for param in command.params for spec in _zsh_specs(command, param)]
        specs.append("'--help[Show help]'")
        commands_.append(
            f'        "{" ".join(words)}") shift words; (( CURRENT-- )); _arguments -s \\\n            '
            + " \\\n            ".join(specs)
            + " ;;"
        )
    return _ZSH.format(top="\n".join(top), groups="\n".join(groups), commands="\n".join(commands_))


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_specs(command: Command, param: Param) -> Iterator[str]:
    match _source(command, param):
        case "":
            action = ""
        case "choices":
            action = f"({' '.join(param.choices)})"
        case "files":
            action = "_files"
        case "directories":
            action = "_files -/"
        case kind:
            action = f" _kheish_ids {kind}"  # with the space it is called with these words alone
    if not param.flags:
        yield _zsh_quote(f"{'*' if param.many else ''}:{param.name.replace('_', ' ')}:{action}")
        return
    text = _summary(param.help).replace("[", "(").replace("]", ")").replace(":", "\\:")
    for flag in param.flags:
        value = "" if param.kind is bool else f":{param.metavar.lower()}:{action}"
        yield _zsh_quote(f"{'*' if param.many else ''}{flag}[{text}]{value}")


# -- fish -------------------------------------------------------------------------------------------------------------

_FISH = """\
# fish completion for kheish, made by `kheish completion fish`.

function __kheish_is
    set -l words (commandline -opc)
    test (count $words) -gt (count $argv); or return 1
    for i in (seq (count $argv))
        test $words[(math $i + 1)] = $argv[$i]; or return 1
    end
end

function __kheish_argument
    __kheish_is $argv[2..]; or return 1
    set -l words (commandline -opc)
    set -l given (string match -v -- '-*' $words[(math (count $argv) + 1)..])
    test (count $given) -eq $argv[1]
end

function __kheish_at
    set -l words (commandline -opc)
    test (count $words) -eq (math (count $argv) + 1); and __kheish_is $argv
end

complete -c kheish -f
complete -c kheish -n __kheish_at -l help -d 'Show help'
complete -c kheish -n __kheish_at -l version -d 'Print the version'
"""
_FISH_FILES = " -F"


def fish() -> str:
    lines = [_FISH]
    for command in DAILY:
        lines.append(f"complete -c kheish -n __kheish_at -a {command.name} -d {_fish_quote(command.help)}")
    for group, (text, commands) in GROUPS.items():
        lines.append(f"complete -c kheish -n __kheish_at -a {group} -d {_fish_quote(text)}")
        for command in commands:
            lines.append(
                f"complete -c kheish -n '__kheish_at {group}' -a {command.name} -d {_fish_quote(command.help)}"
            )
    for words, command in _lines():
        condition = f"'__kheish_is {' '.join(words)}'"
        for param in command.params:
            action = _fish_action(command, param)
            if param.flags:
                flags = "".join(f" -l {f[2:]}" if f.startswith("--") else f" -s {f[1:]}" for f in param.flags)
                value = "" if param.kind is bool else f" -r{action}" if action == _FISH_FILES else f" -x{action}"
                lines.append(f"complete -c kheish -n {condition}{flags}{value} -d {_fish_quote(param.help)}")
        for place, param in _arguments(command):
            is_here = condition if place is None else f"'__kheish_argument {place} {' '.join(words)}'"
            lines.append(f"complete -c kheish -n {is_here}{_fish_action(command, param)}")
    return "\n".join(lines) + "\n"


def _fish_action(command: Command, param: Param) -> str:
    match _source(command, param):
        case "":
            return ""
        case "choices":
            return f" -a '{' '.join(param.choices)}'"
        case "files":
            return _FISH_FILES
        case "directories":
            return " -a '(__fish_complete_directories)'"
        case kind:
            return f" -a '(kheish completion {kind} 2>/dev/null)'"


def _fish_quote(text: str) -> str:
    return "'" + _summary(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


# -- the manual page --------------------------------------------------------------------------------------------------

_MAN_HEAD = r""".TH KHEISH 1 "" "Kheish {version}" "User commands"
.SH NAME
kheish \- keep AI agents running as durable services on this machine
.SH SYNOPSIS
.B kheish
.I COMMAND
[\fIARGUMENT\fR ...]
.SH DESCRIPTION
A per-user daemon owns sessions, runs, approvals and questions, and writes each step to an append-only journal before it
acts. This command is one of its clients; it starts the daemon where there is none. Beginnings of ids are enough
wherever they are unambiguous. Data goes to standard output, narration to standard error.
"""

_MAN_TAIL = r""".SH EXIT STATUS
.TP
.B 0
Done as asked.
.TP
.B 1
A general failure; \fBdoctor\fR and \fBsessions verify\fR: something is wrong.
.TP
.B 2
Wrong usage, or a request that is not valid.
.TP
.B 3
The daemon cannot be reached.
.TP
.B 4
Not allowed.
.TP
.B 5
Not found.
.TP
.B 6
A conflict, such as a second daemon on one state root.
.TP
.B 7
Try again later.
.TP
.B 20
The run failed.
.TP
.B 21
The run was cancelled or interrupted.
.TP
.B 22
The run waits for a human.
.TP
.B 124
The time of \fBwait\fR is over.
.TP
.B 130
Left by Ctrl-C; the run goes on.
.SH ENVIRONMENT
.TP
.B KHEISH_STATE_ROOT
Where all durable state lives; default: the platform's user state directory.
.TP
.B KHEISH_CONFIG_DIR
Where \fIroutes.toml\fR and \fIconfig.toml\fR are read from.
.TP
.B KHEISH_SOCKET
The daemon's socket.
.TP
.B NO_COLOR
No colours.
.SH SEE ALSO
The documents in \fIshare/doc/kheish\fR.
"""


def manual() -> str:
    from kheish import __version__

    parts = [_MAN_HEAD.format(version=__version__)]
    parts.append(".SH COMMANDS\n")
    parts += [_man_command((c.name,), c) for c in DAILY]
    for group, (text, commands) in GROUPS.items():
        parts.append(f".SH {group.upper()}\n{_roff(text)}\n")
        parts += [_man_command((group, c.name), c) for c in commands]
    parts.append(_MAN_TAIL)
    return "".join(parts)


def _man_command(words: tuple[str, ...], command: Command) -> str:
    arguments = "".join(f" \\fI{_roff(p.metavar)}\\fR{' ...' if p.many else ''}" for p in command.params if not p.flags)
    lines = [".TP", f"\\fBkheish {_roff(' '.join(words))}\\fR{arguments}"]
    for number, paragraph in enumerate(command.help.split("\n\n")):
        if number:
            lines.append(".IP")
        is_example = paragraph.startswith("  ")
        lines.append(f"\\fB{_roff(paragraph.strip())}\\fR" if is_example else _roff(paragraph.strip()))
    for param in command.params:
        if param.flags:
            value = "" if param.kind is bool else f" \\fI{_roff(param.metavar)}\\fR"
            names = ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in param.flags)
            choices = f" One of: {', '.join(param.choices)}." if param.choices else ""
            lines += [".RS", ".TP", f"{names}{value}", _roff(param.help + choices), ".RE"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n"))
