"""Actions are found by their kinds: the built-in ones, and those of other packages by entry points."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, ClassVar

import pytest

from deepreduce.errors import PlanError
from deepreduce.network import ReluSite
from deepreduce.plan import ReductionPlan
from deepreduce.sites import SiteAction, action_kinds, action_of, registry
from deepreduce.utils import plugins
from tests.helpers.actions import FirstChannels


@dataclass(frozen=True)
class Elsewhere(SiteAction):
    """An action of another package."""

    kind: ClassVar[str] = "elsewhere"

    def relu_count(self, site: ReluSite) -> int:
        """Return 0."""
        return 0


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package is installed, whose entry points name `Elsewhere`, and an action that can't be imported."""
    entries = [
        EntryPoint("elsewhere", f"{__name__}:Elsewhere", registry.GROUP),
        EntryPoint("broken", f"{__name__}:Broken", registry.GROUP),
    ]

    def found(**selection: Any) -> EntryPoints:
        return EntryPoints(entries).select(**selection)

    monkeypatch.setattr(plugins, "entry_points", found)


@pytest.mark.usefixtures("installed")
def test_an_action_of_another_package_is_found_by_its_entry_point() -> None:
    assert "elsewhere" in action_kinds() and action_kinds()[:2] == ["keep", "identity"]
    assert action_of("elsewhere") == Elsewhere() == action_of({"kind": "elsewhere"})
    plan = ReductionPlan(sites=(("relu", Elsewhere()),))
    assert ReductionPlan.from_json(plan.to_json()) == plan and plan.to_json()["sites"] == {"relu": "elsewhere"}


@pytest.mark.usefixtures("installed")
def test_an_action_that_can_not_be_imported_is_named_with_its_package() -> None:
    with pytest.raises(PlanError, match=r"action 'broken' \(tests\.sites\.test_registry:Broken\) can't be used"):
        action_of("broken")


def test_an_action_is_itself_or_what_describes_it() -> None:
    assert action_of(FirstChannels(3)) == FirstChannels(3) == action_of({"kind": "first_channels", "count": 3})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("identiy", "unknown action 'identiy'; did you mean 'identity'"),
        ({"kind": "masc"}, "unknown action 'masc'"),
        ({"kept": 3}, "unknown action 'None'"),
        (["identity"], "unknown action"),
        ({"kind": "first_channels"}, "does not describe a first_channels"),
        ({"kind": "first_channels", "count": 3, "more": 1}, "does not describe a first_channels"),
        ({"kind": "identity", "slope": 0.5}, "does not describe a identity"),
    ],
)
def test_what_is_no_action_is_refused(value: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        action_of(value)
