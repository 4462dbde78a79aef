"""Programs that read server-sent events and know nothing of us: what they are, and where they come from."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
PARSERS = ("eventsource@3.0.7", "eventsource-parser@3.0.6")
HTTPX_SSE = "httpx-sse==0.4.3"
INSTALL_TIMEOUT_S = 20.0

Argv = Callable[[str], list[str]]


class Unavailable(Exception):
    """It cannot be had here; says why."""


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program} here")


@functools.cache
def _install(*command: str) -> str:
    """Why it did not work; empty where it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not install it within {INSTALL_TIMEOUT_S:.0f} s"
    return f"{command[0]} cannot install it: {done.stderr.strip()[-300:]}" if done.returncode else ""


def curl(folder: Path) -> Argv:
    _need("curl", "bash")
    return lambda url: ["bash", str(HERE / "curl_reader.sh"), url]


def httpx_sse(folder: Path) -> Argv:
    if reason := _install(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), HTTPX_SSE
    ):
        raise Unavailable(reason)
    code = f"import sys; sys.path.append({str(folder)!r}); sys.path[0] = {str(HERE)!r}; import httpx_sse_reader"
    return lambda url: [sys.executable, "-c", code, url]


def _npm(folder: Path, program: str) -> Argv:
    """Node finds packages from where a program lies, so the program is put beside them."""
    _need("node", "npm")
    options = ("--no-audit", "--no-fund", "--ignore-scripts")
    if reason := _install("npm", "install", "--prefix", str(folder), *options, *PARSERS):
        raise Unavailable(reason)
    shutil.copy(HERE / program, folder)
    return lambda url: ["node", str(folder / program), url]


def eventsource(folder: Path) -> Argv:
    return _npm(folder, "eventsource.mjs")


def eventsource_parser(folder: Path) -> Argv:
    return _npm(folder, "eventsource_parser.mjs")


def chromium(folder: Path) -> Argv:
    """One browser for all streams of a page; it reports by POST and does not leave by itself."""
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not program:
        raise Unavailable("there is no chromium here")
    profile = folder / "profile"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    return lambda url: [program, *options, f"--user-data-dir={profile}", url]


READERS: dict[str, Callable[[Path], Argv]] = {
    "curl": curl,
    "httpx-sse": httpx_sse,
    "eventsource": eventsource,
    "eventsource-parser": eventsource_parser,
    "chromium": chromium,
}
