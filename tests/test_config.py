"""Sizes and faults in `config.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheish.config import FILE_NAME, load_config
from kheish.errors import Invalid


def session_bytes(folder: Path, written: str) -> int:
    (folder / FILE_NAME).write_text(f"[quotas]\nsession_bytes = {written}\n")
    return load_config(folder).quotas.session_bytes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0", 0), ("2500", 2500), ('"2500"', 2500), ('"12B"', 12), ('"500KB"', 500_000), ('"2 GB"', 2_000_000_000),
        ('"1.5MiB"', 1_572_864), ('"2gib"', 2 * 1024**3), ('"1TB"', 10**12),
    ],
)  # fmt: skip
def test_a_size_is_a_number_of_bytes_or_a_number_with_a_unit(tmp_path: Path, written: str, expected: int) -> None:
    assert session_bytes(tmp_path, written) == expected


@pytest.mark.parametrize("written", ["-1", "true", "1.5", '"much"', '"2 PB"', '"GB"', '""', "[1]"])
def test_anything_else_is_refused_with_the_place(tmp_path: Path, written: str) -> None:
    with pytest.raises(Invalid, match=r"quotas\.session_bytes") as caught:
        session_bytes(tmp_path, written)
    assert caught.value.code == "invalid_config"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[permissions]\n\nalow = []\n", ", line 3: unknown key alow in permissions"),
        ("[tui]\n[permission]\n", ", line 2: unknown key permission"),
        ("[permissions]\nallow = [\n  1,\n]\n", ", line 4: permissions.allow[0]: Expected `str`, got `int`"),
        ("[budgets]\nrun_steps = 0\n", ", line 2: budgets.run_steps: Expected `int` >= 1"),
        ("[tui.notices]\ntitle = true\nfailed = 'loud'\n", ", line 3: tui.notices.failed: Invalid enum value 'loud'"),
        ("[tui\n", ": Expected ']'"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(Invalid) as caught:
        load_config(tmp_path)
    assert caught.value.message.startswith(f"cannot read {tmp_path / FILE_NAME}{said}")


def test_without_a_file_there_is_no_quota(tmp_path: Path) -> None:
    quotas = load_config(tmp_path).quotas
    assert (quotas.session_bytes, quotas.state_bytes) == (0, 0)
