"""Options refuse what they do not have, and describe what they have."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from deepreduce.methods.options import MethodOptions
from deepreduce.methods.registry import method_named, method_names


class Toy(MethodOptions):
    """Options of a toy."""

    depth: int = 1
    """How deep."""


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="dept"):
        Toy.model_validate({"dept": 2})


def test_a_number_may_name_a_stage() -> None:
    assert Toy.model_validate({"name": 2024}).name == "2024"


def test_the_text_below_an_option_describes_it() -> None:
    assert Toy.model_fields["depth"].description == "How deep."


@pytest.mark.parametrize("name", ["deepreduce", "levers"])
def test_every_option_of_a_built_in_method_has_a_default_and_a_description(name: str) -> None:
    assert name in method_names()
    for key, field in method_named(name).Options.model_fields.items():
        assert field.description and not field.is_required(), key
