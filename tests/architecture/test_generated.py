"""What is made from the code is as the code of today makes it."""

from __future__ import annotations

import pytest

from tests.architecture.generated import GENERATED
from tests.architecture.modules import REPOSITORY


@pytest.mark.parametrize("name", GENERATED)
def test_it_is_fresh(name: str) -> None:
    made = GENERATED[name]()
    assert (REPOSITORY / name).read_text("utf-8") == made, "run `python -m tests.architecture.generated`"
