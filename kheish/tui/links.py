"""Addresses in what is shown: the one that a click is on, and how it is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

URL = re.compile(r"(https?://[^\s<>\"'`)\]]+)")
_AROUND = "()[]<>\"'`,.;:!?*_"


def url_at(line: str, index: int, text: str, *, is_link: bool) -> str:
    """The one of a text's addresses that a drawn line shows at `index`: whole, or, with `is_link`, a part that was
    broken off; "" where there is none, or where it may be one or another."""
    if not 0 <= index < len(line) or line[index].isspace():
        return ""
    start = line.rfind(" ", 0, index) + 1
    word = line[start:].split(" ", 1)[0].strip(_AROUND)
    if found := URL.search(word):
        word = found[0].rstrip(_AROUND)
    elif not is_link:
        return ""
    urls = {url.rstrip(_AROUND) for url in URL.findall(text)}
    if word in urls:
        return word
    matching = [url for url in urls if word in url]
    return matching[0] if len(matching) == 1 else ""


def open_command(
    url: str, environment: Mapping[str, str], platform: str, which: Callable[[str], str | None]
) -> list[str]:
    """What has the desktop open it; nothing where there is no desktop, as at the far end of SSH."""
    if environment.get("SSH_CONNECTION"):
        return []
    if platform == "darwin":
        return ["open", url]
    has_desktop = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return ["xdg-open", url] if has_desktop and which("xdg-open") else []
