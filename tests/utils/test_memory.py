"""What is going to be allocated is compared with what is free."""

from __future__ import annotations

import pytest

from deepreduce.errors import ModelError
from deepreduce.utils import memory
from deepreduce.utils.memory import check_memory, free_memory


def test_free_memory_is_some_megabytes_and_no_more_than_the_machine_has() -> None:
    free, physical = free_memory(), memory._physical()
    assert free is not None and physical is not None and 1e6 < free <= physical


def test_the_smallest_limit_counts_and_an_unknown_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 100)
    monkeypatch.setattr(memory, "_left_in_control_group", lambda: None)
    assert free_memory() == 100
    monkeypatch.setattr(memory, "_left_in_control_group", lambda: 40)
    assert free_memory() == 40
    for name in ("_available", "_left_in_control_group"):
        monkeypatch.setattr(memory, name, lambda: None)
    monkeypatch.setattr(memory, "_physical", lambda: 7)
    assert free_memory() == 7


def test_more_than_is_free_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2_000_000_000)
    check_memory(2e9, "this", repair="take less")
    with pytest.raises(ModelError, match=r"^this needs about 83 GB of memory, and 2 GB are free; take less$"):
        check_memory(83e9, "this", repair="take less", error=ModelError)
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    check_memory(1e30, "this", repair="take less")
