"""Whatever is changed in a finished run's folder is named, or means the same: never another number or network."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deepreduce
from deepreduce.api import load_result, redraw, report_run
from deepreduce.config.load import config_for_network, read_run_config
from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.errors import CheckpointError, DeepReduceError, UserError
from deepreduce.run.page import page_contents
from deepreduce.run.read import read_run
from deepreduce.store.candidates import read_candidates
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.store.description import read_description
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.records import read_costs, read_criticality
from deepreduce.store.sealed import read_run_record
from deepreduce.utils.files import read_tensors
from tests.helpers.runs import TINY, without_seconds

SMALL: dict[str, Any] = {
    **TINY,
    "data": {"name": "digits", "train_limit": 120, "test_limit": 50},
    "training": {**TINY["training"], "epochs": 1},
    "cost": {"presets": ["cheetah-lan"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deepreduce.optimize(config=None, out=tmp_path_factory.mktemp("damage") / "run", **SMALL).folder


def _plan(path: Path) -> Any:
    return read_description(path.parent), SavedNetwork.read(path.parent)


READERS: dict[str, Callable[[Path], Any]] = {
    "plan.json": _plan,
    "metrics.json": lambda path: NetworkFolder(path=path.parent).finished(),
    "history.csv": lambda path: NetworkFolder(path=path.parent).history(),
    "config.yaml": lambda path: read_run_config(path.parent),
    "environment.json": read_run_record,
    "criticality.json": lambda path: read_criticality(path.parent),
    "costs.json": lambda path: read_costs(path.parent),
    "candidates.json": lambda path: read_candidates(path.parent),
    # written for people and never read
    "candidates.csv": lambda path: read_run(path.parent),
    "frontier.csv": lambda path: read_run(path.parent),
    "model.safetensors": lambda path: {
        n: t.sum().item() for n, t in NetworkFolder(path=path.parent).weights().items()
    },
}
"""What is read of each file; every file of the run but the log and the plots is here."""

NEVER_READ = ("candidates.csv", "frontier.csv")


def files_of(run: Path) -> list[Path]:
    """One file of each kind, and those of one network of each kind."""
    return sorted(
        [path for path in run.iterdir() if path.name in READERS]
        + [path for path in (run / "teacher").iterdir()]
        + [path for kind in ("probes", "candidates") for path in sorted((run / kind).iterdir())[0].iterdir()]
    )


def test_every_file_of_a_run_is_read_by_these_tests(run: Path) -> None:
    others = {path.name for path in run.rglob("*") if path.is_file()} - set(READERS)
    assert {name for name in others if not name.endswith((".png", ".svg"))} <= {"log.txt", ".lock"}


# -- changes --------------------------------------------------------------------------------------------------


def flips(content: bytes, draw: random.Random, count: int) -> Iterator[bytes]:
    """Yield the content with one bit, digit or letter changed, a byte missing or one twice."""
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    for number in range(count):
        at = draw.randrange(len(content))
        match number % 4:
            case 0:
                yield content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
            case 1 if digits:
                at = draw.choice(digits)
                other = draw.choice([d for d in b"0123456789" if d != content[at]])
                yield content[:at] + bytes([other]) + content[at + 1 :]
            case 2:
                yield content[:at] + content[at + 1 :]
            case _:
                yield content[:at] + content[at : at + 1] + content[at:]


def same_or_named(path: Path, content: bytes) -> bool:
    """Return whether the changed file is named. Fails where it is read as something else."""
    read, before = READERS[path.name], path.read_bytes()
    expected = read(path)
    path.write_bytes(content)
    try:
        assert read(path) == expected, f"{path}: {content!r}"
    except DeepReduceError as error:
        assert "\n" not in str(error) and path.name in str(error)
        return True
    finally:
        path.write_bytes(before)
    return False


def test_a_changed_byte_is_named_or_changes_nothing(run: Path) -> None:
    draw, tried, named = random.Random(15), 0, 0
    paths = files_of(run)
    for path in paths:
        for content in flips(path.read_bytes(), draw, 24 if path.suffix != ".safetensors" else 4):
            tried, named = tried + 1, named + same_or_named(path, content)
    assert tried >= 300
    assert named > 0.7 * tried  # spaces, and the tables for people, change nothing


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value that is not itself a list or an object."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*at, key))
    if not isinstance(value, (dict, list)):
        yield at


def with_another_value(record: Any, at: tuple[Any, ...]) -> Any:
    changed = json.loads(json.dumps(record))
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    old = inside[at[-1]]
    inside[at[-1]] = (not old) if isinstance(old, bool) else old + 1 if isinstance(old, (int, float)) else f"{old}1"
    return changed


def test_any_other_value_of_a_record_is_named(run: Path) -> None:
    """Each value in turn, the checksum included: a number is one more, a text is longer."""
    tried = 0
    for path in (p for p in files_of(run) if p.suffix == ".json"):
        record = json.loads(path.read_text())
        places = list(leaves(record))
        for at in places if len(places) < 60 else random.Random(0).sample(places, 60):
            assert same_or_named(path, json.dumps(with_another_value(record, at)).encode()), (path, at)
            tried += 1
    assert tried > 250


def test_a_record_without_its_checksum_is_named(run: Path) -> None:
    for path in (p for p in files_of(run) if p.suffix == ".json"):
        record = json.loads(path.read_text())
        del record["checksum"]
        assert same_or_named(path, json.dumps(record).encode()), path


def test_a_file_of_another_network_is_named(run: Path) -> None:
    ours, other = (sorted((run / "candidates").iterdir())[i] for i in (0, 1))
    assert same_or_named(ours / "model.safetensors", (other / "model.safetensors").read_bytes())


# -- what users do with a damaged run -------------------------------------------------------------------------


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def change_digit(path: Path, after: str) -> None:
    """Change the first decimal of the number after that text."""
    text = path.read_text()
    at = text.index(".", text.index(after)) + 1
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def test_a_resumed_run_measures_again_what_was_changed_and_ends_as_before(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = without_seconds((copy / "candidates.csv").read_text())
    probe, candidate = (sorted((copy / kind).iterdir())[0] for kind in ("probes", "candidates"))
    for folder in (copy / "teacher", probe, candidate):
        change_digit(folder / "metrics.json", '"val_accuracy"')
    described = sorted((copy / "candidates").iterdir())[1] / "plan.json"
    change_digit(described, '"alpha"')
    change_digit(copy / "criticality.json", '"S1": ')
    change_digit(copy / "candidates.json", '"test_accuracy"')
    with caplog.at_level(logging.WARNING):
        deepreduce.optimize(config=None, out=copy, **SMALL)
    assert without_seconds((copy / "candidates.csv").read_text()) == before
    named = [r.getMessage() for r in caplog.records]
    for folder in (copy / "teacher", probe, candidate):
        line = f"{folder / 'metrics.json'} was changed or damaged after it was written"
        assert [m for m in named if m.startswith(line) and "measuring" in m], named
    assert any(m.startswith(str(described)) and m.endswith("writing it again") for m in named)
    read_run(copy)


@pytest.mark.parametrize("name", ["candidates.json", "costs.json", "teacher/plan.json"])
def test_plots_of_a_changed_record_are_refused(copy: Path, name: str) -> None:
    record = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(with_another_value(record, next(leaves(record)))))
    before = (copy / "frontier.png").read_bytes()
    for draw in (redraw, report_run, load_result):
        if name != "teacher/plan.json" or draw is not load_result:
            with pytest.raises(CheckpointError, match=name):
                draw(copy)
    assert (copy / "frontier.png").read_bytes() == before


def test_a_price_can_not_lead_out_of_the_folder(copy: Path) -> None:
    (copy / "costs-").mkdir()
    text = (copy / "costs.json").read_text().replace("cheetah-lan", "/../../outside")
    (copy / "costs.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"costs\.json"):
        redraw(copy)
    assert not (copy.parent / "outside.png").exists()


@pytest.mark.parametrize("how", ["missing", "empty", "a link", "another", "not text", "a folder"])
def test_without_the_runs_own_config_a_network_is_not_evaluated(copy: Path, how: str) -> None:
    path = copy / "config.yaml"
    text = path.read_text()
    path.unlink()
    match how:
        case "empty":
            path.write_text("")
        case "a link":
            (copy / "elsewhere.yaml").write_text(text)
            path.symlink_to(copy / "elsewhere.yaml")
        case "another":
            path.write_text(text.replace("train_limit: 120", "train_limit: 121"))
        case "not text":
            path.write_bytes(b"\xff")
        case "a folder":
            path.mkdir()
    for ask in (
        lambda: deepreduce.evaluate(copy / "teacher"),
        lambda: deepreduce.evaluate(sorted((copy / "candidates").iterdir())[0]),
        lambda: config_for_network(copy / "teacher", data="digits"),
        lambda: load_result(copy),
        lambda: redraw(copy),
        lambda: page_contents(copy, title="", objective=COUNT_OF_RELUS),
    ):
        with pytest.raises(UserError, match=r"config\.yaml.*; restore the file of the run, or give") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_network_outside_of_its_run_needs_its_data_named(run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / "teacher", tmp_path / "mine" / "teacher")
    with pytest.raises(UserError, match="lies in no run, so that its data set is not known; give --data"):
        deepreduce.evaluate(alone)
    assert config_for_network(Path(alone), data="digits").data.name == "digits"
    within = deepreduce.evaluate(run / "teacher")
    assert deepreduce.evaluate(alone, read_run_config(run)).test_accuracy == within.test_accuracy


def test_the_weights_are_those_of_the_folder(run: Path) -> None:
    for folder in (run / "teacher", sorted((run / "candidates").iterdir())[0]):
        stored = read_tensors(folder / "model.safetensors")[0]
        loaded = deepreduce.load_reduced(folder).state_dict()
        assert all((loaded[name] == tensor).all() for name, tensor in stored.items())
