"""What callers may catch, and names that are suggested."""

from __future__ import annotations

import inspect

import pytest

from deepreduce import errors
from deepreduce.errors import DeepReduceError, RunError, RunInterrupted, UserError, nearest_name, unknown_name

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_of_one_kind_so_that_its_exit_code_is_clear(kind: type[Exception]) -> None:
    assert issubclass(kind, DeepReduceError)
    if kind is not DeepReduceError:
        assert sum(issubclass(kind, exit_kind) for exit_kind in (UserError, RunError, RunInterrupted)) == 1


def test_an_unknown_name_comes_with_the_nearest_known_one_in_its_own_case() -> None:
    message = unknown_name("model", "RESNET81", ["vgg16", "ResNet18"])
    assert message == "unknown model 'RESNET81'; did you mean 'ResNet18'? known: vgg16, ResNet18"


def test_where_nothing_comes_near_nothing_is_suggested() -> None:
    assert nearest_name("zzz", ["vgg16", "resnet18"]) is None
    assert unknown_name("model", "zzz", ["vgg16"]) == "unknown model 'zzz'; known: vgg16"
    assert unknown_name("model", "zzz", []) == "unknown model 'zzz'; known: none"


def test_names_that_are_no_text_and_empty_ones_are_named_too() -> None:
    assert unknown_name("stage", 3, ["S1"]).startswith("unknown stage '3'")
    assert unknown_name("stage", "", ["S1"]) == "unknown stage ''; known: S1"


def test_known_names_may_come_from_an_iterator() -> None:
    assert unknown_name("stage", "S9", iter(["S1", "S2"])).endswith("known: S1, S2")
