"""A config becomes values once, and what it rules out is said before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepreduce.config.build import (
    build_run,
    check_machine,
    method_of,
    model_seed,
    objective_of,
    presets_of,
    recipe_of,
    run_title,
    teacher_epochs,
    title_of,
)
from deepreduce.config.load import load_config
from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.errors import ConfigError, DataError, PlanError, UserError
from deepreduce.methods.deepreduce import DeepReduceOptions
from deepreduce.methods.levers import LeversOptions
from deepreduce.methods.taylor import TaylorOptions
from deepreduce.run.spec import RunSpec, scaled_recipe
from deepreduce.search.budget import FullBudget, SharedBudget
from deepreduce.utils import memory
from tests.helpers.runs import TINY


def built(folder: Path, **values: Any) -> RunSpec:
    return build_run(load_config(values={**TINY, **values}), out=folder)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return built(tmp_path_factory.mktemp("nothing") / "run")


def test_building_writes_nothing_and_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    spec = built(tmp_path / "run")
    assert not any(tmp_path.iterdir())
    with pytest.raises(AttributeError):
        spec.seed = 2  # type: ignore[misc]


def test_the_recipe_decides_the_budget(tmp_path: Path, spec: RunSpec) -> None:
    shared, full = spec.search.budget, built(tmp_path, recipe="paper").search.budget
    assert isinstance(shared, SharedBudget) and isinstance(full, FullBudget)
    assert (shared.price, shared.batch_size, shared.student_batch_size, shared.schedule_epochs) == (3.0, 32, 16, 4)
    assert (full.epochs, full.trial_batch_size, full.schedule_epochs) == (6, 32, 6)


def test_without_a_name_the_objective_decides_the_method() -> None:
    method, options = method_of(load_config())
    assert method.name == "taylor" and options == TaylorOptions()
    method, options = method_of(load_config(values={"recipe": "paper", "method": {"alphas": [1]}}))
    assert method.name == "deepreduce" and options == DeepReduceOptions(alphas=(1.0,))
    latency = load_config(
        values={"cost": {"objective": "latency", "gain": 0.1, "networks": 3}, "method": {"alphas": [1]}}
    )
    method, options = method_of(latency)
    assert method.name == "levers" and options == LeversOptions(alphas=(1.0,), gain=0.1, networks=3)
    named = load_config(values={"method": {"name": "deepreduce"}, "cost": {"objective": "latency"}})
    assert method_of(named)[0].name == "deepreduce"


def test_an_option_that_is_given_twice_with_two_values_is_refused() -> None:
    given = {"method": {"name": "levers", "gain": 0.2}, "cost": {"objective": "latency", "gain": 0.1}}
    with pytest.raises(ConfigError, match=r"cost.gain and method.gain differ"):
        method_of(load_config(values=given))
    given["cost"] = {"objective": "latency", "gain": 0.2}
    assert method_of(load_config(values=given))[1] == LeversOptions(name="levers", gain=0.2)


def test_the_objective_is_the_relu_count_unless_a_protocol_is_asked_for() -> None:
    assert objective_of(load_config()) == COUNT_OF_RELUS
    objective = objective_of(load_config(values={"cost": {"objective": "bytes", "link": "wan"}}))
    assert objective.preset == "cheetah-wan"
    config = load_config(values={"cost": {"objective": "latency", "presets": ["delphi-lan", "cheetah-lan"]}})
    assert [preset.name for preset in presets_of(config)] == ["cheetah-lan", "delphi-lan"]
    with pytest.raises(UserError, match="unknown cost preset 'delphi-moon'"):
        presets_of(load_config(values={"cost": {"presets": ["delphi-moon"]}}))


def test_the_learning_rate_follows_the_batch_size_and_the_warm_up_the_epochs() -> None:
    full = recipe_of(load_config(values={"training": {"epochs": 10, "learning_rate": 0.4, "batch_size": 64}}))
    half = scaled_recipe(full, epochs=5, batch_size=32)
    assert (half.epochs, half.batch_size, half.learning_rate, half.warmup_epochs) == (5, 32, 0.4 * 0.5, 0.5)
    assert scaled_recipe(full, epochs=20).warmup_epochs == full.warmup_epochs


def test_a_students_recipe_is_validated_as_its_budget_says(tmp_path: Path, spec: RunSpec) -> None:
    assert spec.student_recipe(2.5).validate_every == 3 and spec.student_recipe(2.5).batch_size == 16
    assert built(tmp_path, recipe="paper").student_recipe(2.5).validate_every == 1


def test_the_teacher_has_the_full_recipe_unless_the_config_says_otherwise() -> None:
    assert teacher_epochs(load_config(values={"training": {"epochs": 7}})) == 7
    assert teacher_epochs(load_config(values={"training": {"epochs": 7, "teacher_epochs": 0}})) == 0


@pytest.mark.parametrize(
    ("model", "data", "title"),
    [("resnet18", "npz:/some/where/cifar.npz", "resnet18 on cifar.npz"), ("a", "digits", "a on digits")],
)
def test_a_title_names_model_and_data(model: str, data: str, title: str) -> None:
    assert run_title(model, data) == title
    assert title_of(load_config(values={"model": f"python:{model}", "data": data})) == title
    assert title_of(load_config(values={"plot": {"title": "mine"}})) == "mine"


def test_seeds_of_runs_give_seeds_of_networks() -> None:
    seeds = {model_seed(load_config(values={"seed": seed})) for seed in range(10)}
    assert len(seeds) == 10 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"max_relus": 1}, PlanError, "no network has at most 1 ReLU"),
        ({"method": {"name": "deepreduce", "cull_order": ["S9"]}}, PlanError, "unknown stage 'S9'"),
        ({"plot": {"published": "nowhere.csv"}}, UserError, "can't read the published points"),
        ({"log": ["wandb"]}, UserError, "unknown observer 'wandb'"),
        ({"device": "tpu"}, ConfigError, "unknown device 'tpu'"),
        ({"threads": 1_024}, ConfigError, "threads is 1,024; this machine has .* cores, so give at most"),
        ({"training": {"batch_size": 5_000}}, DataError, "fewer than a batch of 5,000"),
    ],
)
def test_what_a_config_rules_out_is_said_before_anything_is_written(
    tmp_path: Path, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        built(tmp_path / "run", **values)
    assert not any(tmp_path.iterdir())


def test_more_workers_than_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    check_machine(load_config(values={"side_by_side": 6, "threads": 64}))
    with pytest.raises(
        ConfigError, match=r"training 7 students in parallel needs about 1\.05 GB of memory, and 1 GB"
    ):
        check_machine(load_config(values={"side_by_side": 7}))
