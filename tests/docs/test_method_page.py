"""The code of docs/method.md works as written."""

from __future__ import annotations

import re

import pytest

from tests.helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")


def test_the_example_of_a_mask_removes_the_relus_that_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (claimed,) = re.findall(r"= ([\d,]+)$", code, flags=re.MULTILINE)
    exec(code, {})
    assert capsys.readouterr().out.strip() == claimed.replace(",", "") == str(48 * 32 * 32)
