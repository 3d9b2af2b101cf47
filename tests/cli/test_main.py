"""The command line as a user meets it: the installed script in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepreduce.cli.main import run_command
from deepreduce.methods.registry import method_named
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from tests.helpers.private_networks import needs_engine
from tests.helpers.records import begin_run
from tests.helpers.runs import (
    NUM_TRAININGS,
    TINY_RELUS,
    command,
    plain_environment,
    tiny_config,
)


def one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("deepreduce: "), stderr
    return lines[0]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_analyze_prints_the_promised_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command(["analyze", "--model", "resnet18", "--num-classes", "100", "--input-size", "32", "--json"])
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert code == 0 and output.err == ""
    assert report["model"] == "resnet18" and report["input_size"] == 32 and report["relu_count"] == 557_056
    assert report["stages"] == {"S1": 327_680, "S2": 131_072, "S3": 65_536, "S4": 32_768}
    assert sum(site["relu_count"] for site in report["sites"]) == 557_056
    assert set(report["sites"][0]) >= {"name", "stage", "block", "shape", "relu_count"}
    assert report["unsupported"] == {} and report["macs"] > 0


def test_analyze_writes_a_csv_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["analyze", "--model", "resnet20", "--csv", "sites.csv"]) == 0
    assert "Sites written to sites.csv" in capsys.readouterr().out
    assert (tmp_path / "sites.csv").read_text().count("\n") == 1 + 19


@pytest.mark.parametrize("columns", [80, 120])
def test_methods_lists_each_option_with_its_choices_and_default(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run_command(["methods"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    for name in ("deepreduce", "levers"):
        section = next(part for part in printed.split("\n\n") if part.startswith(f"{name}: "))
        options = set(method_named(name).Options.model_fields) - {"name"}
        assert {word[len("method.") :] for word in section.split() if word.startswith("method.")} == options
        text = " ".join(section.split())
        assert "arXiv 2103.01396 unit: site epochs: the recipe's" in text
        assert "(one of: first, last, both; default: first)" in text and "(default: [1.0, 0.5])" in text


def test_models_lists_networks_and_data_sets(tmp_path: Path) -> None:
    result = command("models", cwd=tmp_path)  # by the installed script
    assert result.returncode == 0
    for word in ("resnet18", "wrn22_8", "torchvision:NAME", "FILE.py:FACTORY", "digits", "npz:FILE"):
        assert word in result.stdout


def test_help_answers_without_importing_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from deepreduce.cli import main as cli; cli.run_command(['--help']); "
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert "optimize" in result.stdout


@pytest.mark.slow
def test_a_run_a_resume_a_plot_and_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(*words: str) -> tuple[str, str]:
        """Run a command in this process; starting another takes longer than what most of them do."""
        assert run_command([*words]) == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    monkeypatch.chdir(tmp_path)
    config = str(tiny_config(tmp_path / "tiny.yaml"))
    first = command("optimize", "--config", config, "--out", "run", cwd=tmp_path, timeout=300)
    assert first.returncode == 0, first.stderr
    assert "full network" in first.stdout and "frontier.csv" in first.stdout
    assert (
        f"{NUM_TRAININGS}/{NUM_TRAININGS}" in first.stderr and "\r" not in first.stderr
    )  # plain lines where no terminal is
    (tmp_path / "run" / "frontier.png").unlink()
    printed, reported = here("optimize", "--config", config, "--out", "run", "--json")
    assert "already done" in reported
    told = json.loads(printed)
    assert told["candidates"][0]["plan_id"] == "teacher"
    (tmp_path / "run" / "frontier.png").unlink()
    here("plot", "run", "--title", "A title")
    assert (tmp_path / "run" / "frontier.png").exists()
    folder = str(Path("run") / told["candidates"][1]["folder"])
    found = json.loads(here("evaluate", folder, "--json")[0])
    measured = told["candidates"][1]["measurement"]
    assert found["test_accuracy"] == pytest.approx(measured["test_accuracy"])
    assert found["val_accuracy"] == pytest.approx(measured["val_accuracy"])
    assert found["relu_count"] == told["candidates"][1]["relu_count"]
    exported, _ = here("export", folder, "--to", "torch-export", "--out", "small.pt2", "--json")
    assert json.loads(exported)["relu_count"] == found["relu_count"] and (tmp_path / "small.pt2").exists()


def test_a_dry_run_prints_the_promised_json_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "tiny.yaml", method={"name": "deepreduce", "cull_order": ["S1", "S3"]})
    assert run_command(["optimize", "--config", str(config), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["estimated_seconds"] > 0
    assert all({"plan_id", "relu_count", "plan"} <= set(c) for c in told["candidates"])
    assert {c["relu_count"] for c in told["candidates"]} >= {TINY_RELUS["S2"] + TINY_RELUS["S3"], TINY_RELUS["S2"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["analyze", "--model", "resnet81"], 2, "did you mean 'resnet18'"),
        (["analyze", "--model", "torchvision:resnet51"], 2, "did you mean 'torchvision:resnet50'"),
        (["analyze", "--model", "nowhere.py:net"], 2, "nowhere.py"),
        (["analyze", "--model", "resnet18", "--input-size", "2"], 2, "too small"),
        (["analyze", "--blocks", "two"], 2, "give whole numbers as in 2,2,2,2"),
        (["analyse"], 2, "analyze"),
        (["optimize", "--modle", "resnet18"], 2, "--model"),
        (["optimize", "--data", "digit", "--dry-run"], 2, "did you mean 'digits'"),
        (["optimize", "--data", "npz:nowhere.npz"], 2, "nowhere.npz"),
        (["optimize", "--data", "cifar10", "--set", "data.root=nowhere"], 2, "data.download=true"),
        (["optimize", "--set", "training.epoch=2"], 2, "did you mean 'training.epochs'"),
        (["optimize", "--set", "training.epochs"], 2, "key=value"),
        (["optimize", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["optimize", "--max-relus", "1", "--dry-run"], 2, "raise max_relus"),
        (["optimize", "--max-relus", "many"], 2, "--max-relus"),
        (["optimize", "--device", "tpu"], 2, "unknown device 'tpu'"),
        (["evaluate", "nowhere"], 2, "holds no saved network"),
        (["export", "nowhere", "--to", "onnx", "--out", "x.onnx"], 2, "holds no saved network"),
        (["export", "nowhere", "--out", "x.onnx"], 2, "--to"),
        (["optimize", "--objective", "latencies"], 2, "cost.objective"),
        (["optimize", "--objective", "latency", "--protocol", "cheeta"], 2, "did you mean 'cheetah'"),
        (["optimize", "--objective", "latency", "--link", "adsl"], 2, "cost.link"),
        (["optimize", "--protocol", "delphi"], 2, "give presets, as in delphi-lan"),
        (["optimize", "--preset", "delphi-lann"], 2, "unknown cost preset 'delphi-lann'; did you mean 'delphi-lan'"),
        (["optimize", "--preset", "mine-cheetah-lan"], 2, "'deepreduce private calibrate --protocol cheetah'"),
        (["plot", "nowhere"], 2, "holds no run"),
        (["plot", "nowhere", "--dataset", "CIFAR-10"], 2, "--published"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run_command(words) == code
    output = capsys.readouterr()
    assert message in one_line(output.err)
    assert output.out == "" and not list(tmp_path.iterdir())


def test_a_failure_of_the_run_itself_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path / "t.yaml", training={"learning_rate": 1e6, "clip_norm": None})
    assert run_command(["optimize", "--config", str(config), "--out", "run"]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("deepreduce: the teacher could not be trained")


def _started(config: Path, cwd: Path) -> subprocess.Popen[str]:
    script = Path(sys.executable).with_name("deepreduce")
    return subprocess.Popen(
        [str(script), "optimize", "--config", str(config), "--out", "run"],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain_environment(),
    )  # fmt: skip


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.slow
def test_a_second_run_on_the_folder_is_refused_and_ctrl_c_exits_with_130_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "t.yaml", training={"epochs": 200})
    process = _started(config, tmp_path)
    try:
        _wait_for(tmp_path / "run" / "teacher", process)
        assert run_command(["optimize", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
        assert "in use by another run" in one_line(capsys.readouterr().err)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, stderr
    assert "all is saved in run" in stderr
    assert f"go on with: deepreduce optimize --config {config} --out run" in stderr
    assert "Traceback" not in stderr


def test_output_into_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("deepreduce")
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [str(script), "models"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=plain_environment(),
    )
    os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr and "Exception" not in stderr


# -- code in a candidate's folder -----------------------------------------------------------------------------

FACTORY = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("ran").touch()

def make(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )
"""


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """The folder of a network of a file, in a run on the digits; the file leaves a mark where it is run."""
    (tmp_path / "mine.py").write_text(FACTORY)
    spec = resolve_spec(f"{tmp_path}/mine.py:make", num_classes=10, in_channels=1)
    whole = trace_network(build_model(spec), (1, 8, 8), spec=spec)
    begin_run(tmp_path / "run")
    folder = tmp_path / "run" / "candidates" / "mine"
    folder.mkdir(parents=True)
    described = describe_network(whole, whole, ReductionPlan(), label="\x1b[2Jmine")
    NetworkFolder(path=folder).finish(
        weights=whole.module.state_dict(), description=described, metrics={}, history=()
    )
    (tmp_path / "ran").unlink()
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate"],
        ["export", "--to", "torch-export", "--out", "x.pt2"],
        pytest.param(["private", "run"], marks=needs_engine),
        pytest.param(["private", "serve", "--port", "0"], marks=needs_engine),
    ],
    ids=lambda words: words[-1] if words[0] == "private" else words[0],
)
def test_a_file_that_a_folder_names_is_not_run_unless_it_is_trusted(
    candidate: Path, capsys: pytest.CaptureFixture[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(candidate)
    assert run_command([*words, str(candidate)]) == 2
    message = one_line(capsys.readouterr().err)
    assert "mine.py; if you trust that file, give --trust-code" in message
    assert not list(candidate.parents[2].glob("ran"))
    if words == ["evaluate"]:
        assert run_command([*words, str(candidate), "--trust-code"]) == 0
        assert list(candidate.parents[2].glob("ran"))
        assert ": \\x1b[2Jmine, " in capsys.readouterr().out  # and no label commands the terminal
