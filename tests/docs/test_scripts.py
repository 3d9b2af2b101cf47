"""The commands that the README names."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from deepreduce.cli.main import run_command
from deepreduce.config.load import load_config
from tests.helpers import REPOSITORY

ROOT = REPOSITORY
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("deepreduce")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_readme_begins_with_the_two_scripts() -> None:
    commands = [line.split("#")[0].strip() for line in _blocks("sh")[0].splitlines()]
    assert commands == ["scripts/demo.sh", "scripts/test.sh"]
    assert "pip install ." in README


def test_the_readmes_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_readmes_commands_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = _commands()
    names = ["analyze", "optimize", "optimize", "evaluate", "export", "report", "optimize"]
    assert [words[0] for words in commands] == names
    for words in commands:
        if words[0] == "optimize" and "--dry-run" not in words:
            # a narrow ResNet-18 for as short as can be: this is about the command
            words = [*words, "--set", "training.epochs=1", "--set", "fast.price=0.5"]
            words += ["--set", "model.width=16"]
            words += ["--set", "data.train_limit=200", "--set", "method.alphas=1", "--set", "cost.networks=2"]
        assert run_command(words) == 0, words
    assert (tmp_path / "runs" / "digits" / "frontier.png").exists()
    assert (tmp_path / "runs" / "digits" / "report.html").exists() and (tmp_path / "teacher.onnx").exists()


@pytest.mark.slow
def test_the_readmes_python_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = _blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "resnet20" / "frontier.csv").exists()
    assert getattr(names["small"], "relu_count", 10**9) <= 3_000


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_config_is_valid_and_says_what_it_is_for(path: Path) -> None:
    load_config(path)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert "ReLUs" in text and "Time:" in text
    assert f"deepreduce optimize --config configs/{path.parent.name}/{path.name}" in text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a checkout whose .venv holds an interpreter that only notes what it is asked."""
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "deepreduce"):
        script = binaries / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >>"{tmp_path}/calls"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def _calls(checkout: Path, script: str, *flags: str) -> list[str]:
    (checkout / "calls").write_text("")
    subprocess.run([str(checkout / "scripts" / script), *flags], check=True, cwd="/", capture_output=True)
    return (checkout / "calls").read_text().splitlines()


def test_a_script_installs_once_and_then_starts_at_once(checkout: Path) -> None:
    first = _calls(checkout, "demo.sh", "--seed", "1")
    assert any("-m pip install" in call for call in first)
    assert _calls(checkout, "demo.sh", "--seed", "1") == [first[-1]]
    assert first[-1] == "deepreduce optimize --config configs/digits/resnet18.yaml --seed 1"


def test_the_tests_need_more_than_the_demo_and_install_it(checkout: Path) -> None:
    _calls(checkout, "demo.sh")
    first = _calls(checkout, "test.sh", "-x")
    assert any("pip install" in call and ".[dev]" in call for call in first)
    assert _calls(checkout, "test.sh", "-x") == [first[-1]]
    assert first[-1].startswith("python -m pytest") and first[-1].endswith("-x")


def test_a_changed_pyproject_is_installed_again(checkout: Path) -> None:
    _calls(checkout, "demo.sh")
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert any("-m pip install" in call for call in _calls(checkout, "demo.sh"))


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = subprocess.run(
        [str(tmp_path / "scripts" / "demo.sh")], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"},
    )  # fmt: skip
    assert result.returncode == 1 and "needs Python 3.10 or newer" in result.stderr
