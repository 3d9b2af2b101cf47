"""A name from a file can't lead out of the folder of the path that it becomes part of."""

from __future__ import annotations

import pytest

from deepreduce.cost.preset import preset_named
from deepreduce.errors import UserError
from deepreduce.utils.file_names import checked_name


@pytest.mark.parametrize("name", ["cheetah-lan", "measured-cheetah-wan", "mine-my.model_2", "a+b", "_x"])
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", ".x", "-x", "a\n", "x" * 101, "\x1b[2J", "a b"]
)
def test_names_that_lead_elsewhere_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="can't be part of a file's name") as caught:
        checked_name(name)
    assert str(caught.value).isprintable()


def test_a_preset_can_not_lead_out_of_the_folder_of_calibrations() -> None:
    with pytest.raises(UserError, match="can't be part of a file's name"):
        preset_named("../../secret-lan")
