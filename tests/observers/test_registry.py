"""Observers by name: our own and those of other packages, found before anything is written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepreduce
from deepreduce.cli.main import run_command
from deepreduce.config.schema import OptimizeConfig
from deepreduce.errors import UserError
from deepreduce.observers import make_observers
from deepreduce.observers.registry import _BUILT_IN, _PACKAGES, GROUP
from deepreduce.utils.plugins import known_plugins
from tests.helpers.observers import QUICK, Recorder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, code: str) -> None:
    """Install a package with one observer, `their_observers:Theirs`, for this test."""
    (folder / "their_observers.py").write_text(code)
    (folder / "theirs-1.0.dist-info").mkdir()
    (folder / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "theirs-1.0.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = their_observers:Theirs\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "their_observers", raising=False)


def test_each_name_gives_one_observer_and_a_repeated_name_no_second_one() -> None:
    pytest.importorskip("tensorboard")
    assert [type(o).__name__ for o in make_observers(["tensorboard", "tensorboard"])] == ["TensorBoardLogger"]
    assert make_observers([]) == ()


@pytest.mark.parametrize("given", [Recorder, "tensorboard", None, object()])
def test_what_is_no_observer_is_refused_with_its_place_and_the_repair(given: Any) -> None:
    with pytest.raises(UserError, match=r"observers\[1\] is .*give an instance of a subclass of deepreduce.RunObs"):
        make_observers([], own=[Recorder(), given])


def test_every_built_in_observer_says_which_packages_its_extra_brings() -> None:
    assert set(_BUILT_IN) == set(_PACKAGES)


def test_an_unknown_name_is_refused_with_those_there_are_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown observer 'tensorbord'; did you mean 'tensorboard'"):
        deepreduce.optimize(out=tmp_path / "run", log=["tensorbord"], **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "sqlalchemy")])
def test_a_missing_package_is_named_with_its_extra_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    with pytest.raises(UserError, match=rf"{name} needs .*{package}.*pip install 'deepreduce\[{name}\]'"):
        deepreduce.optimize(out=tmp_path / "run", log=[name], **QUICK)
    assert not (tmp_path / "run").exists()


def test_an_installed_package_can_bring_an_observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, monkeypatch, name="theirs", code="import deepreduce\nclass Theirs(deepreduce.RunObserver): ...")
    (observer,) = make_observers(["theirs"])
    assert isinstance(observer, deepreduce.RunObserver) and type(observer).__name__ == "Theirs"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere", r"\(their_observers:Theirs\) can't be used: \w+Error: "),
        ("class Theirs:\n    def __init__(self, url): ...", "can't be made: TypeError: "),
        ("Theirs = dict", "is no subclass of deepreduce.RunObserver"),
    ],
)
def test_a_packages_observer_that_can_not_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    publish(tmp_path, monkeypatch, name="theirs", code=code)
    with pytest.raises(UserError, match=rf"observer 'theirs' .*{message}"):
        make_observers(["theirs"])


def test_a_packages_observer_does_not_take_the_place_of_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, monkeypatch, name="tensorboard", code="")
    assert known_plugins(GROUP, _BUILT_IN)["tensorboard"].value.startswith("deepreduce.")


def test_the_flag_may_be_given_for_each_observer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def optimize(*, config: OptimizeConfig, **_: Any) -> None:
        asked.append(config.log)
        raise UserError("not now")

    with monkeypatch.context() as patched:
        patched.setattr("deepreduce.api.optimize", optimize)
        assert run_command(["optimize", "--log", "tensorboard", "--log", "mlflow"]) == 2
        assert run_command(["optimize"]) == 2
    assert asked == [("tensorboard", "mlflow"), ()]
    assert deepreduce.load_config(settings=["log=tensorboard,mlflow"]).log == ("tensorboard", "mlflow")
    assert run_command(["optimize", "--log", "wandb", "--out", "nowhere"]) == 2
    assert "unknown observer 'wandb'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_log_imports_no_logger(tmp_path: Path) -> None:
    code = (
        "import sys; from deepreduce.observers import make_observers;"
        "make_observers([]); assert not {'tensorboard', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
