"""Entry points by name: deepreduce's own come first, and what can't be used is one line."""

from __future__ import annotations

import math
from importlib.metadata import EntryPoint

import pytest

from deepreduce.errors import UserError
from deepreduce.utils import plugins
from deepreduce.utils.plugins import known_plugins, load_plugin

GROUP = "deepreduce.tests"
OWN = {"root": "math:sqrt"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that bring another "root", a plugin of their own, and a broken one."""
    found = [("root", "math:exp"), ("exp", "math:exp"), ("broken", "no_such_module:thing")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint(n, v, group) for n, v in found])


def test_own_names_come_first_and_win_over_those_of_a_package() -> None:
    assert list(known_plugins(GROUP, OWN)) == ["root", "exp", "broken"]
    assert load_plugin("thing", "root", GROUP, OWN) is math.sqrt
    assert load_plugin("thing", "exp", GROUP, OWN) is math.exp


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rot", r"unknown thing 'rot'; did you mean 'root'\? known: root, exp, broken"),
        (
            "broken",
            r"thing 'broken' \(no_such_module:thing\) can't be used: ModuleNotFoundError: .*; repair or",
        ),
    ],
)
def test_a_name_that_is_unknown_or_can_not_be_imported_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_plugin("thing", name, GROUP, OWN)
    assert "\n" not in str(caught.value)
