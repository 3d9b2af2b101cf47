"""What a config may hold: values, ranges, and sections that name a method."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from deepreduce.config.load import (
    load_config,
)
from deepreduce.config.schema import OptimizeConfig
from deepreduce.errors import ConfigError
from deepreduce.methods.levers import LeversOptions
from deepreduce.methods.taylor import TaylorOptions


def refusal(*given: str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=given, values=values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load_config() == OptimizeConfig()


@pytest.mark.parametrize("rho", [1, 0.5, 1 / 3, 0.25, 1 / 7])
def test_a_rho_is_the_inverse_of_a_whole_number(rho: float) -> None:
    assert load_config(values={"method.rhos": [rho]}).method.rhos == (rho,)


@pytest.mark.parametrize(
    "key", ["training.epochs", "training.learning_rate", "seed", "max_relus", "data.val_fraction", "model.width"]
)
@pytest.mark.parametrize("text", ["True", "false"])
def test_a_bool_is_no_number(key: str, text: str) -> None:
    assert f"{key} is {text == 'True'}: needs a number" in refusal(f"{key}={text}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["training.learning_rate", "distill.weight", "method.rate", "seed"])
def test_a_number_must_be_finite(key: str, value: float) -> None:
    assert f"{key} is {value}" in refusal(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", 0),
        ("training.epochs", 1.5),
        ("training.batch_size", -1),
        ("training.learning_rate", 0),
        ("training.momentum", 1),
        ("training.clip_norm", 0),
        ("training.precision", "fp16"),
        ("data.val_fraction", 0),
        ("data.val_fraction", 1),
        ("data.flip", "perhaps"),
        ("data.pad", -1),
        ("distill.temperature", 0),
        ("distill.weight", 1.01),
        ("method.alphas", []),
        ("distill.remember_gb", -1),
        ("recipe", "slow"),
        ("fast.price", 0),
        ("fast.probe_share", 1.5),
        ("fast.batch", 0),
        ("fast.views", 0),
        ("side_by_side", 0),
        ("max_relus", -1),
        ("seed", -1),
        ("seed", 2**31),
        ("threads", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key_and_value(key: str, value: object) -> None:
    message = refusal(**{key: value})
    assert message.startswith((f"{key} is {value!r}: ", f"{key} is {value}: "))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("method.alphas", [1, 0], "method.alphas[1] is 0: input should be greater than 0"),
        ("method.alphas", [1.5], "method.alphas[0] is 1.5: input should be less than or equal to 1"),
        ("method.rhos", [0.3], "method.rhos[0] is 0.3: is realised as a stride of 1/rho"),
        ("method.rhos", [1e-320], "is realised as a stride of 1/rho"),
        (
            "method",
            {"name": "deepreduce", "depths": [[]]},
            "method.depths[0] is []: list should have at least 1 item",
        ),
        (
            "method",
            {"name": "deepreduce", "depths": [[1], [1, 0]]},
            "method.depths[1][1] is 0: input should be greater than or equal to 1",
        ),
        ("model.blocks", [2, True], "model.blocks[1] is True: needs a number"),
    ],
)
def test_a_wrong_item_of_a_list_is_refused_by_its_place(key: str, value: object, words: str) -> None:
    message = refusal(**{key: value})
    assert words in message
    assert "mistakes" not in message


def test_a_config_can_not_be_changed() -> None:
    config = OptimizeConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    assert hash(config) == hash(OptimizeConfig())


# -- method -------------------------------------------------------------------------------------------------


def test_a_method_may_be_a_name_a_section_or_absent() -> None:
    assert load_config().method == TaylorOptions() == load_config(values={"method": {}}).method
    assert load_config(settings=["method=levers"]).method == LeversOptions(name="levers")
    both = load_config(settings=["method.gain=0.1"], values={"method": "levers"}).method
    assert both == LeversOptions(name="levers", gain=0.1)
    assert load_config(settings=["method.alphas=0.5"]).method == TaylorOptions(alphas=(0.5,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=deepreduc"], "unknown method 'deepreduc'; did you mean 'deepreduce'"),
        (["method=3"], "needs the name of a method, or keys and values"),
        (["method.gain=0.1"], "unknown config key 'method.gain'; it is an option of levers"),
        (["method=levers", "method.gian=0.1"], "unknown config key 'method.gian'; did you mean 'method.gain'"),
        (["method.alphas=2"], r"method.alphas\[0\] is 2: input should be less than or equal to 1"),
    ],
)
def test_a_wrong_method_or_option_is_refused_by_its_key(settings: list[str], message: str) -> None:
    assert re.search(message, refusal(*settings))
