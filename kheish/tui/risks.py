"""What a call may do that a person would want to know before saying yes. Pure.

A mark says what was seen and where; it decides nothing, and a call without marks is not a safe one: a shell can hide
anything. What a mark is about is found by the words of the command, not by running or expanding it. Of a command that
takes long only a part is read, and that is the first mark.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from kheish.terminal import count_hidden

PLACES_MAX = 20
"""Of one kind of risk."""
PATH_CHARS_MAX = 4_096
"""What a script's `cd`s add up to; a longer one is no path."""
EFFORT_MAX = 400_000
"""For all of a command: it bounds the time at less than 0.2 s. As long a script as bash takes mostly needs less."""
_TOKEN_EFFORT = 10
"""What a token takes beside what its characters take."""
_DEPTH_MAX = 4
"""Of commands within words of commands."""


class Risk(NamedTuple):
    """`what` is a word or three, `where` the words of the call that it was seen in."""

    what: str
    where: str


def risks(tool: str, arguments: dict[str, Any], cwd: str) -> list[Risk]:
    """Each once, in the order in which they were seen; of a kind no more than are ever shown."""
    seen: Iterator[Risk] = iter(())
    shell = _Shell(cwd)
    if tool == "bash" and isinstance(command := arguments.get("command"), str):
        seen = shell.read(command)
    elif isinstance(path := arguments.get("path"), str):
        seen = _file_risks(path, cwd, writes=tool in _WRITERS)
    found: dict[Risk, None] = {}
    counts = Counter[str]()
    for risk in seen:
        if risk not in found and counts[risk.what] < PLACES_MAX:
            counts[risk.what] += 1
            found[risk] = None
    if count := sum(map(count_hidden, texts_of(arguments))):
        found[Risk("invisible characters", f"{count}, written out here")] = None
    if shell.unread:
        return [Risk("not read whole", f"its last {shell.unread} characters are not marked"), *found]
    return list(found)


_WRITERS = ("write_file", "edit_file", "apply_patch")


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a call's arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)


# -- files ---------------------------------------------------------------------------------------------------------

_SECRET = re.compile(
    r"(?:^|[/@])(?:\.ssh|\.gnupg|\.aws|\.azure|\.kube|\.password-store|\.netrc|\.pgpass|\.npmrc|\.pypirc|\.git-credentials"
    r"|\.docker/config\.json|\.env(?:\.(?!example|sample|template)[^/]*)?|id_(?:rsa|dsa|ecdsa|ed25519)|authorized_keys"
    r"|secrets?(?:\.[^/]*)?|credentials(?:\.[^/]*)?)(?:/|$)|\.(?:pem|p12|pfx|kdbx)$|^/etc/(?:shadow|sudoers)",
)
_RUNS_LATER = re.compile(
    r"(?:^|/)(?:\.git/(?:hooks/|config$)|\.github/workflows/|\.husky/|\.(?:bash|zsh)(?:rc|_?profile|env)$|\.profile$"
    r"|\.config/(?:autostart|systemd)/|crontab$|authorized_keys$)|^/etc/(?:cron|profile|systemd|init)",
)
_NO_FILES = re.compile(r"/dev/(?:null|zero|stdin|stdout|stderr|tty|fd/\d+|(?:tcp|udp)/.*)\Z|&?\d+\Z|-\Z")
_HOMES = re.compile(r"~|\$\{?(?:HOME|TMPDIR|OLDPWD|XDG_\w+)\b")
_VARIABLE = re.compile(r"[$`]")


def _file_risks(path: str, cwd: str, *, writes: bool) -> Iterator[Risk]:
    """Of a path as it is written, seen from `cwd`, the workspace."""
    if _SECRET.search(path):
        yield Risk("secrets", path)
    if writes and _RUNS_LATER.search(path):
        yield Risk("runs later by itself", path)
    if writes and _is_outside(path, cwd, cwd):
        yield Risk("writes outside", path)


def _is_outside(path: str, here: str, cwd: str) -> bool:
    """Whether a path, seen from `here`, lies outside the workspace, as far as its words tell."""
    path = re.sub(r"\A\$(?:PWD|\{PWD\})(?=/|\Z)", lambda _: here, path)
    full = posixpath.join(here or "/", path)
    if _HOMES.match(path) or _HOMES.match(full):
        return True
    if _NO_FILES.match(path) or _VARIABLE.match(path) or _VARIABLE.match(full):
        return False
    root = posixpath.normpath(cwd or "/").rstrip("/")
    full = posixpath.normpath(full)
    return full != (root or "/") and not full.startswith(f"{root}/")


# -- the shell -----------------------------------------------------------------------------------------------------

_NETWORK: dict[str, str] = {
    **dict.fromkeys(
        ("curl", "wget", "ssh", "scp", "sftp", "nc", "ncat", "netcat", "socat", "telnet", "ftp", "gh", "glab", "aws",
         "gcloud", "az", "kubectl", "helm", "terraform", "tofu", "ansible", "ansible-playbook", "heroku", "flyctl",
         "npx", "bunx", "uvx", "pipx", "twine", "dig", "nslookup", "host", "ping", "mail", "sendmail", "http", "https"),
        "",
    ),
    "rsync": ":",
    "git": "push pull fetch clone ls-remote submodule",
    "pip": "install download", "pip3": "install download", "uv": "add sync pip publish lock", "poetry": "add install "
    "publish update", "conda": "install create update",
    "npm": "install i ci add update publish exec", "pnpm": "install i add update publish dlx", "yarn": "install add "
    "publish dlx", "bun": "install add x publish",
    "cargo": "install publish update fetch add", "go": "get install mod", "gem": "install push", "bundle": "install",
    "composer": "install require update", "mvn": "deploy", "docker": "pull push login run build compose",
    "podman": "pull push login run build",
    "apt": "install update upgrade", "apt-get": "install update upgrade", "dnf": "install update upgrade",
    "yum": "install update", "apk": "add update", "pacman": "-S -Sy -Syu", "brew": "install upgrade update",
}  # fmt: skip
"""Programs that talk to others: always, or when told one of these words."""
_AS_OTHERS = ("sudo", "doas", "su", "pkexec", "runuser")
_DISKS = re.compile(r"(?:mkfs(?:\..*)?|mkswap|fdisk|sfdisk|gdisk|parted|wipefs|blkdiscard|cryptsetup)\Z")
_SYSTEM = ("shutdown", "reboot", "poweroff", "halt", "systemctl", "service", "launchctl", "crontab", "mount", "umount",
           "iptables", "nft", "useradd", "usermod", "passwd", "visudo", "sysctl", "modprobe")  # fmt: skip
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh", "fish")
_INTERPRETERS = (*_SHELLS, "source", ".", "python", "python3", "perl", "ruby", "node", "php")
_WRAPPERS: dict[str, str] = {
    "sudo": "ugCDhpRTU", "doas": "uC", "env": "uCS", "timeout": "ks", "nice": "n", "ionice": "cnp", "nohup": "",
    "setsid": "", "stdbuf": "ioe", "time": "fo", "command": "", "exec": "a", "xargs": "aEILnPsd", "!": "",
    "builtin": "", "watch": "n",
    **dict.fromkeys(("if", "then", "else", "elif", "do", "while", "until", "{"), ""),
}  # fmt: skip
"""Words that other commands stand behind, with the letters of their options that take a value."""
_TARGETS: dict[str, str] = {
    "rm": "all", "rmdir": "all", "unlink": "all", "shred": "all", "truncate": "all", "tee": "all", "touch": "all",
    "mkdir": "all", "chmod": "all", "chown": "all", "chgrp": "all", "mv": "all", "cp": "last", "install": "last",
    "ln": "last", "rsync": "last",
}  # fmt: skip
"""Which of a program's operands it changes."""
_INTO = {"curl": ("-o", "--output"), "wget": ("-O", "-P"), "tar": ("-C",), "unzip": ("-d",), "git": ("-C",)}
"""After which options stands a place that a program writes to."""
_KNOWN = {
    *_AS_OTHERS, *_NETWORK, *_SYSTEM, *_INTERPRETERS, *_TARGETS, *_INTO,
    "git", "find", "dd", "sed", "eval", "cd", "pushd",
}  # fmt: skip
"""All programs that there is anything to say of, beside those of disks."""

_TOKEN = re.compile(
    r"""[ \t]*(?:(?P<blank>(?:[ \t\r]|\\\n)+|\#[^\n]*)
    |(?P<redirect>\d*(?:<<<|<<-?|<>|<&|>>|>\||>&|<|>)|&>>?)
    |(?P<end>\|\|?&?|&&|&|;+|\n|\$?\(+|\)+|`)
    |(?P<word>(?:[^\s;&|<>()'"\\`]|\\.|'[^']*'|"(?:\\.|[^"\\])*"|['"\\])+?(?=[\s;&|<>()`]|\$\(|\Z))
    |(?P<other>.))""",
    re.VERBOSE | re.DOTALL,
)
_INNER = re.compile(r"\$\(|`|<\(")
_ASSIGNMENT = re.compile(r"\w+\+?=")
_SUBSTITUTION = re.compile(r"\$\([^)]*|`[^`]*")
_PIECE = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)""", re.DOTALL)


def _unquoted(word: str) -> str:
    return word if word.isalnum() else _PIECE.sub(lambda piece: piece[1] or piece[2] or piece[3] or "", word)


class _Command:
    """A simple command: its words without quotes, what it writes to by `>`, and whether a pipe feeds it."""

    def __init__(self, *, is_fed: bool) -> None:
        self.words: list[str] = []
        self.written: list[str] = []
        self.is_fed = is_fed


class _Pace:
    """The effort that is left, and where the script ends that was read last."""

    def __init__(self) -> None:
        self.effort = EFFORT_MAX
        self.end = 0


class _Shell:
    """Reads a script once, with the directory that its `cd`s lead to."""

    def __init__(self, cwd: str) -> None:
        self.unread = 0
        """How many of the script's last characters the effort did not reach."""
        self._cwd = cwd
        self._here = cwd
        self._pace = _Pace()

    def read(self, script: str) -> Iterator[Risk]:
        yield from self._read(script[:EFFORT_MAX], 0)
        self.unread = len(script) - self._pace.end

    def _read(self, script: str, depth: int) -> Iterator[Risk]:
        for command in _commands(script, self._pace):
            yield from self._judge(command, depth)

    def _judge(self, command: _Command, depth: int) -> Iterator[Risk]:
        for word in (*command.words, *command.written):
            path = word.partition("=")[2] or word
            if _SECRET.search(path):
                yield Risk("secrets", path)
            if word.startswith(("/dev/tcp/", "/dev/udp/")):
                yield Risk("network", word)
            if depth < _DEPTH_MAX and (inner := _INNER.search(word)):
                yield from self._read(word[inner.end() :].rstrip("`)"), depth + 1)
        for path in command.written:
            yield from self._written(path, ">")
        words, at = command.words, 0
        while at < len(words) and (after := _unwrapped(words, at)) is not None:
            if words[at] in _AS_OTHERS:
                yield Risk("as another user", " ".join(words[at : at + 2]))
            at = after
        if words := words[at:]:
            name = words[0].rpartition("/")[2]
            if name in _KNOWN or _DISKS.match(name):
                yield from self._program(name, words, command.is_fed, depth)

    def _program(self, name: str, words: list[str], is_fed: bool, depth: int) -> Iterator[Risk]:
        options = [word for word in words[1:] if word.startswith("-")]
        operands = [word for word in words[1:] if not word.startswith("-")]
        letters = "".join(option[1:] for option in options if not option.startswith("--"))
        shown = " ".join(words[:2])
        if name in _AS_OTHERS:
            yield Risk("as another user", shown)
        if name in _NETWORK:
            verbs = _NETWORK[name].split()
            said = [word for word in (_verb(words), *options) if word in verbs]
            if not verbs or said or (":" in verbs and ":" in " ".join(operands)):
                yield Risk("network", " ".join([name, *said[:1]]))
        if name == "git":
            if "push" in operands and ("f" in letters or any(o.startswith("--force") for o in options)):
                yield Risk("rewrites what others have", "git push --force")
            if ("clean" in operands and "f" in letters) or ("reset" in operands and "--hard" in options):
                yield Risk("drops changes", shown)
        if (name == "rm" and (set("rR") & set(letters) or "--recursive" in options)) or name == "shred":
            yield Risk("deletes", " ".join([name, *options, *operands[:1]]))
        if name == "find":
            if "-delete" in options:
                yield Risk("deletes", "find -delete")
            for inner in _executed(words) if depth < _DEPTH_MAX else ():
                yield from self._judge(inner, depth + 1)
        if name in ("chmod", "chown", "chgrp"):
            if "R" in letters or "--recursive" in options:
                yield Risk("changes rights below", " ".join([name, *options, *operands[:2]]))
            elif (
                name == "chmod" and operands and re.match(r"[0-7]*777\Z|[2-7][0-7]{3}\Z|[augo]*\+[rwx]*s", operands[0])
            ):
                yield Risk("opens rights", shown)
        if name == "dd" or _DISKS.match(name):
            yield Risk("writes a disk", " ".join([name, *[w for w in words[1:] if w.startswith("of=")]]))
        if name in _SYSTEM:
            yield Risk("changes the system", shown)
        if name in _INTERPRETERS and is_fed and (not operands or options[:1] in (["-"], ["-s"])):
            yield Risk("runs what a pipe brings", name)
        if depth < _DEPTH_MAX and (name in ("eval", "su") or (name in _SHELLS and "c" in letters)):
            for script in operands[:1] if name in _SHELLS else operands:
                yield from self._read(script, depth + 1)
        if name in ("cd", "pushd") and operands:
            here = posixpath.join(self._here, operands[0])
            self._here = here if len(here) <= PATH_CHARS_MAX else self._here
        changed = {"all": operands, "last": operands[-1:]}.get(_TARGETS.get(name, ""), [])
        changed += [path for option, path in pairwise(words) if option in _INTO.get(name, ())]
        if name in ("chmod", "chown", "chgrp") or (name in ("sed", "perl") and "i" in letters):
            changed = operands[1:]
        elif name == "dd":
            changed = [word[3:] for word in words[1:] if word.startswith("of=")]
        for path in changed:
            yield from self._written(path, name)

    def _written(self, path: str, by: str) -> Iterator[Risk]:
        if _RUNS_LATER.search(path):
            yield Risk("runs later by itself", path)
        if _is_outside(path, self._here, self._cwd):
            yield Risk("writes outside", f"{by} {path}")


def _verb(words: list[str]) -> str:
    """The first operand of a program that takes its options before it."""
    values = {words.index(option) + 1 for option in ("-C", "-c", "--prefix", "--cwd") if option in words}
    return next((word for i, word in enumerate(words) if i and i not in values and not word.startswith("-")), "")


def _of(words: list[str]) -> _Command:
    command = _Command(is_fed=False)
    command.words = words
    return command


def _executed(words: list[str]) -> Iterator[_Command]:
    """The commands that find runs; one that does not end goes on to the last word."""
    at = 0
    while at < len(words):
        if words[at] in ("-exec", "-execdir", "-ok", "-okdir"):
            start, at = at + 1, at + 1
            while at < len(words) and words[at] not in (";", "+"):
                at += 1
            yield _of(words[start:at])
        at += 1


def _unwrapped(words: list[str], start: int) -> int | None:
    """Where the command begins that stands behind a word which only says how to run it, or behind assignments; None
    where there is none."""
    if _ASSIGNMENT.match(words[start]):
        return start + 1
    if words[start] == "command" and words[start + 1 : start + 2] in (["-v"], ["-V"]):
        return len(words)
    takes_value = _WRAPPERS.get(words[start].rpartition("/")[2])
    if takes_value is None:
        return None
    at = start + 1
    while at < len(words) and (words[at].startswith("-") or re.match(r"\w+=|[\d.]+[smhd]?\Z", words[at])):
        at += 2 if re.fullmatch(r"-\w*", words[at]) and words[at][-1] in takes_value else 1
    return at


def _lines(script: str) -> dict[str, list[int]]:
    """The offsets of each line, by its text."""
    found: dict[str, list[int]] = defaultdict(list)
    at = 0
    for line in script.split("\n"):
        found[line].append(at)
        at += len(line) + 1
    return found


def _commands(script: str, pace: _Pace) -> Iterator[_Command]:
    """The simple commands of a script in order, also those in subshells and substitutions, as far as the effort that is
    left reaches. What a here-document holds is data, but for its substitutions, unless a shell reads it."""
    command, redirect, here_document, is_arithmetic, at = _Command(is_fed=False), "", "", False, 0
    places: dict[str, list[int]] | None = None
    """Where each line stands."""
    while at < len(script) and pace.effort > 0:
        token = _TOKEN.match(script, at)
        assert token is not None
        kind, at = token.lastgroup, token.end()
        text = token[kind or 0]
        pace.effort -= _TOKEN_EFFORT + len(text)
        if kind == "redirect":
            redirect = text
        elif kind in ("word", "other"):
            word = _unquoted(text)
            if redirect in ("<<", "<<-") and not is_arithmetic:
                here_document = text
            elif ">" in redirect:
                command.written.append(word)
            elif not redirect:
                command.words.append(word)
            redirect = ""
        elif kind == "end":
            if here_document and text == "\n":
                end = _unquoted(here_document)
                places = places if places is not None else _lines(script)
                ends = places.get(end, [])
                found = bisect_left(ends, at)
                body_end = ends[found] - 1 if found < len(ends) else -1
                if body_end >= 0 and not any(posixpath.basename(word) in _SHELLS for word in command.words):
                    if end == here_document:
                        command.words += _SUBSTITUTION.findall(script, at, body_end)
                    at = body_end + len(end) + 1
                here_document = ""
            is_arithmetic = "((" in text or (is_arithmetic and "))" not in text)
            command.is_fed |= redirect == "<" and text.startswith("(")
            yield command
            command, redirect = _Command(is_fed=text in ("|", "|&")), ""
    yield command
    pace.end = at
