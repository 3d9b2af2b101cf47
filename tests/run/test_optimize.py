"""The main job, from config to frontier, on networks and data that take seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepreduce
from deepreduce.config.build import model_seed
from deepreduce.config.inputs import load_data, original_network, preparation_of
from deepreduce.data import ImageArrays, ImageData, load_source, prepare
from deepreduce.errors import (
    NonFiniteLossError,
    RunError,
    RunFolderError,
    RunInterrupted,
)
from deepreduce.execution import trainer as subject
from deepreduce.execution.task import TrainResult, TrainTask
from deepreduce.execution.trainer import CandidateTrainer
from deepreduce.frontier import pareto_front
from deepreduce.methods import deepreduce as deepreduce_method
from deepreduce.network import Network
from deepreduce.observers import ObservedNetwork, RunObserver
from deepreduce.report.tables import read_candidates_csv
from deepreduce.run.page import page_contents
from deepreduce.run.read import read_run
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.training import AugmentationSchedule, Distillation, LogitsCache, Teacher, train
from deepreduce.transforms import apply_plan
from deepreduce.utils.seed import derived_seed
from tests.helpers.records import change_record
from tests.helpers.runs import (
    NUM_CANDIDATES,
    NUM_PROBES,
    NUM_PROPOSED,
    NUM_TRAININGS,
    TINY,
    TINY_RELUS,
    StopsIn,
    without_seconds,
)
from tests.helpers.training import FP32


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> deepreduce.Result:
    return deepreduce.optimize(config=None, out=tmp_path_factory.mktemp("run") / "tiny", **TINY)


FILES = {"plan.json", "model.safetensors", "metrics.json", "history.csv"}


def measured(result: deepreduce.Result) -> list[deepreduce.ReducedNetwork]:
    """The candidates that did not fail."""
    return [n for n in result.candidates if n.candidate.measurement is not None]


def cells(result: deepreduce.Result) -> list[list[str]]:
    """candidates.csv but for what a clock measured."""
    return without_seconds((result.folder / "candidates.csv").read_text())


def test_a_run_leaves_every_file_that_is_promised(finished: deepreduce.Result) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "log.txt", "criticality.json", "candidates.csv", "frontier.csv",
        "frontier.png", "frontier.svg", "layers.png", "teacher", "candidates", "probes",
    }  # fmt: skip
    assert not {"teacher-answers.bin", "report.html"} & names and not any(name.endswith(".part") for name in names)
    assert len(finished.candidates) == NUM_CANDIDATES
    assert len(list((finished.folder / "candidates").iterdir())) == NUM_PROPOSED
    assert len(list((finished.folder / "probes").iterdir())) == NUM_PROBES
    for kind in ("candidates", "probes"):
        for folder in (finished.folder / kind).iterdir():
            assert {p.name for p in folder.iterdir()} == FILES


def test_the_tables_begin_with_the_promised_columns_and_hold_the_teacher(finished: deepreduce.Result) -> None:
    for name in ("candidates.csv", "frontier.csv"):
        text = (finished.folder / name).read_text()
        assert text.startswith("plan_id,relu_count,val_accuracy,test_accuracy,train_seconds,")
        teacher = [c for c in read_candidates_csv(text) if c.is_teacher]
        assert [c.relu_count for c in teacher] == [sum(TINY_RELUS.values())]


def test_the_frontier_file_is_the_front_of_all_candidates(finished: deepreduce.Result) -> None:
    everything = read_run(finished.folder)
    front = {c.plan_id for c in pareto_front(everything)}
    listed = {c.plan_id for c in read_candidates_csv((finished.folder / "frontier.csv").read_text())}
    assert listed == front | {"teacher"}
    assert {n.plan_id for n in finished.frontier} == front


def test_every_candidate_has_the_relus_that_its_name_says(finished: deepreduce.Result) -> None:
    by_label = {n.label: n for n in finished.candidates}
    order = json.loads((finished.folder / "criticality.json").read_text())["cull_order"]
    left = sum(TINY_RELUS.values()) - TINY_RELUS[order[0]]
    assert by_label[f"cull {order[0]}"].relu_count == left
    (kept,) = TINY_RELUS.keys() - set(order)
    both = (
        by_label.get(f"cull {order[0]} {order[1]}") or by_label[f"only {kept}"]
    )  # a network and a probe of one plan
    assert both.relu_count == left - TINY_RELUS[order[1]] == TINY_RELUS[kept]
    assert set(finished.criticality) == set(TINY_RELUS)
    # the stage that goes first is the least critical one, or can't be told from it
    worth, images = finished.criticality, 30
    assert worth[order[0]] - min(worth.values()) < 2 * max(worth.values()) / images**0.5


def test_results_load_as_plain_modules_that_are_as_accurate_as_measured(finished: deepreduce.Result) -> None:
    images = load_data(deepreduce.load_config(values=TINY).data, seed=0)
    for network in (finished.teacher, *measured(finished)):
        module = network.model
        assert isinstance(module, nn.Module) and not module.training
        right = total = 0
        with torch.no_grad():
            for batch, labels in images.test.eval_batches(batch_size=64, device=torch.device("cpu")):
                right += int((module(batch).argmax(1) == labels).sum())
                total += len(labels)
        assert right / total == pytest.approx(network.test_accuracy)


def test_a_network_loads_to_take_pixels_as_they_are_in_the_data_set(finished: deepreduce.Result) -> None:
    config = deepreduce.load_config(values=TINY)
    raw = load_source("digits")
    assert isinstance(raw.test, ImageArrays)
    scale = prepare(raw, preparation_of(config.data), seed=0).standardisation
    assert scale is not None
    folder, pixels = finished.frontier[0].folder, raw.test.images
    model, on_pixels = deepreduce.load_reduced(folder), deepreduce.load_reduced(folder, raw_pixels=True)
    mean, std = torch.tensor(scale.mean).view(-1, 1, 1), torch.tensor(scale.std).view(-1, 1, 1)
    assert pixels.dtype == torch.uint8 and int(pixels.max()) == 255
    with torch.no_grad():
        assert torch.equal(on_pixels(pixels), model((pixels.float() - mean) / std))


def test_the_best_under_a_budget_keeps_the_budget(finished: deepreduce.Result) -> None:
    smallest = min(n.relu_count for n in measured(finished))
    assert finished.best(max_relus=smallest).relu_count == smallest
    assert finished.knee.plan_id in {n.plan_id for n in finished.frontier}


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    finished: deepreduce.Result, tmp_path: Path
) -> None:
    again = deepreduce.optimize(out=tmp_path / "again", **TINY)
    other = deepreduce.optimize(out=tmp_path / "other", seed=1, **TINY)

    assert cells(again) == cells(finished)
    assert cells(other) != cells(finished)


def test_a_finished_run_is_not_trained_again(finished: deepreduce.Result) -> None:
    weights = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("model.safetensors")}
    again = deepreduce.optimize(out=finished.folder, **TINY)
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("model.safetensors")} == weights
    assert [n.plan_id for n in again.candidates] == [n.plan_id for n in finished.candidates]


class _Listener(RunObserver):
    """Which networks were done before, and how many began."""

    def __init__(self) -> None:
        self.work = self.total = 0.0
        self.numbers: list[int] = []
        self.done_before: dict[str, bool] = {}

    def network_started(
        self, network: ObservedNetwork, *, number: int, count: int, work: float, total: float, **_: Any
    ) -> None:
        self.numbers.append(number)
        self.work, self.total, self.count = self.work + work, total, count

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        self.done_before[network.folder] = was_done


def test_observers_hear_of_every_training_and_whether_it_was_done_before(
    finished: deepreduce.Result, tmp_path: Path
) -> None:
    for folder, was_done in ((tmp_path / "run", False), (finished.folder, True)):
        listener = _Listener()
        deepreduce.optimize(out=folder, observers=[listener], **TINY)
        assert listener.numbers == list(range(1, listener.count + 1))
        assert len(listener.done_before) == listener.count == NUM_TRAININGS
        assert set(listener.done_before.values()) == {was_done}
        assert listener.work == pytest.approx(listener.total)


def test_another_config_is_refused_and_nothing_in_the_folder_changes(finished: deepreduce.Result) -> None:
    before = {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()}
    with pytest.raises(RunFolderError, match=r"training.epochs \(6, now 3\)"):
        deepreduce.optimize(out=finished.folder, settings=["training.epochs=3"], **TINY)
    assert {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()} == before


def test_a_run_goes_on_with_its_threads_and_refuses_others(finished: deepreduce.Result) -> None:
    free = {key: value for key, value in TINY.items() if key != "threads"}
    assert deepreduce.optimize(out=finished.folder, **free).folder == finished.folder
    with pytest.raises(RunFolderError, match=r"another threads \(1, now 2\)"):
        deepreduce.optimize(out=finished.folder, threads=2, **free)


def test_a_run_that_was_begun_with_other_stages_is_refused(finished: deepreduce.Result, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)

    def of_another_stage(described: dict[str, Any]) -> dict[str, Any]:
        described["sites"][0]["stage"] = "S9"
        return described

    change_record(copy / "teacher" / "plan.json", of_another_stage)
    with pytest.raises(
        RunFolderError, match=r"other stages: stem.relu was in S9 and is in S1 now; give another folder"
    ):
        deepreduce.optimize(out=copy, **TINY)


def test_a_corrupt_network_is_named_and_trained_again_alone(
    finished: deepreduce.Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others start as it; what they were trained to stays."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    first = next(n for n in finished.candidates if n.label.startswith("cull"))
    victim = copy / first.candidate.folder / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    listener = _Listener()
    again = deepreduce.optimize(out=copy, observers=[listener], **TINY)
    assert str(victim) in caplog.text
    assert [folder for folder, done in listener.done_before.items() if not done] == [first.candidate.folder]
    assert victim.read_bytes() == (first.folder / "model.safetensors").read_bytes()
    assert cells(again) == cells(finished)


STOPS = [1, 2, 2 + NUM_PROBES, 3 + NUM_PROBES, NUM_TRAININGS]
"""The teacher, the first probe, the first two networks on the path, the last one."""


@pytest.mark.parametrize("side_by_side", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_saves_and_the_same_call_ends_as_if_undisturbed(
    finished: deepreduce.Result, tmp_path: Path, side_by_side: int
) -> None:
    options = {**TINY, "side_by_side": side_by_side}
    for number in STOPS if side_by_side == 1 else STOPS[2::2]:  # each start of another process takes seconds
        with pytest.raises(RunInterrupted, match="stopped; all is saved in") as caught:
            deepreduce.optimize(out=tmp_path / "run", observers=[StopsIn(number)], **options)
        assert caught.value.folder == tmp_path / "run"
        # trainings on the path are so short that they may end before they are asked
        assert list((tmp_path / "run").rglob("training.safetensors")) or number > 1 + NUM_PROBES
        assert (tmp_path / "run" / "teacher-answers.bin").exists() == (number > 1)
    result = deepreduce.optimize(out=tmp_path / "run", **options)
    for name in ("frontier.csv", "candidates.csv"):
        one, other = (without_seconds((r.folder / name).read_text()) for r in (result, finished))
        assert one == other
    assert result.criticality == finished.criticality and cells(result) == cells(finished)
    # nothing is left of a training, and every network has the same weights
    one, other = ({p.relative_to(r.folder) for p in r.folder.rglob("*")} for r in (result, finished))
    assert one == other
    for path in finished.folder.rglob("model.safetensors"):
        name = path.relative_to(finished.folder)
        assert (result.folder / name).read_bytes() == path.read_bytes(), name


# -- recipe fast ----------------------------------------------------------------------------------------------


def test_every_network_that_was_trained_is_a_candidate_most_relus_first(finished: deepreduce.Result) -> None:
    trained = {path.name for kind in ("probes", "candidates") for path in (finished.folder / kind).iterdir()}
    assert {n.plan_id for n in measured(finished)} == trained
    counts = [n.relu_count for n in finished.candidates]
    assert counts == sorted(counts, reverse=True)
    probes = [n for n in finished.candidates if n.label.startswith("only")]
    assert all(n.relu_count == TINY_RELUS[n.label[5:7]] for n in probes)
    again = deepreduce.load_result(finished.folder)
    assert [(n.plan_id, n.folder) for n in again.candidates] == [(n.plan_id, n.folder) for n in finished.candidates]


def test_of_a_probe_and_a_proposed_network_of_one_plan_the_more_accurate_stays(finished: deepreduce.Result) -> None:
    both = {p.name for p in (finished.folder / "probes").iterdir()}
    both &= {p.name for p in (finished.folder / "candidates").iterdir()}
    assert len(both) == 1
    (network,) = (n for n in finished.candidates if n.plan_id in both)
    folders = [finished.folder / kind / network.plan_id for kind in ("probes", "candidates")]
    accuracies = [json.loads((folder / "metrics.json").read_text())["val_accuracy"] for folder in folders]
    assert network.measurement.val_accuracy == max(accuracies)


def test_a_measured_order_that_can_not_keep_the_limit_gives_way_to_that_of_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 has so few ReLUs that thinned it keeps the limit, S1 has not."""
    limit = TINY_RELUS["S3"]
    measure = deepreduce_method.measured_criticality

    def keeping_s1(*arguments: Any, **options: Any) -> Any:
        return replace(measure(*arguments, **options), cull_order=("S3", "S2"))

    monkeypatch.setattr(deepreduce_method, "measured_criticality", keeping_s1)
    result = deepreduce.optimize(out=tmp_path / "run", max_relus=limit, **TINY)
    assert result.candidates and all(n.relu_count <= limit for n in result.candidates)
    assert f"no network has at most {limit} ReLUs" in caplog.text and "culling S1, S2 instead" in caplog.text
    assert json.loads((result.folder / "criticality.json").read_text())["cull_order"] == ["S1", "S2"]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[TrainTask]:
    """The tasks that are trained, as they begin."""
    real, seen = CandidateTrainer.train, []

    def watching(self: CandidateTrainer, task: TrainTask, on_event: Any) -> Any:
        seen.append(task)
        return real(self, task, on_event)

    monkeypatch.setattr(CandidateTrainer, "train", watching)
    return seen


def test_all_training_of_students_together_costs_no_more_than_the_price(
    tmp_path: Path, tasks: list[TrainTask]
) -> None:
    """Counted apart from the schedule: images that each network is trained on, times its multiplications."""
    deepreduce.optimize(out=tmp_path / "run", settings=["fast.price=0.8"], **TINY)
    config = deepreduce.load_config(values=TINY)
    images = load_data(config.data, seed=0)
    network = original_network(config.model, images.facts, seed=0)
    spent = 0.0
    for task in tasks[1:]:
        batch_size = task.recipe.batch_size
        steps = task.recipe.num_steps(images.train.num_steps(batch_size))
        reduced = apply_plan(network, task.student.plan)
        spent += steps * batch_size * reduced.compute_cost.per_image(batch_size)
    assert len(tasks) == NUM_TRAININGS
    whole = 6 * images.facts.train_images * network.compute_cost.per_image(32)
    # each training has whole steps, at least one
    rounding = len(tasks) * 16 * network.compute_cost.per_image(16)
    assert 0.3 * 0.8 * whole < spent < 0.8 * whole + rounding


def test_each_network_starts_as_one_that_was_trained_before_it_and_decays_linearly(
    tmp_path: Path, tasks: list[TrainTask]
) -> None:
    values = {**TINY, "data": {**TINY["data"], "train_limit": 100}, "fast": {**TINY["fast"], "price": 0.5}}
    deepreduce.optimize(out=tmp_path / "run", settings=["method.cull_order=S1,S2"], **values)
    folders = {task.name: task.folder for task in tasks}
    starts = {task.name: task.student.start for task in tasks if task.student.start is not None}
    assert {name: start.folder for name, start in starts.items()} == {
        "cull S1": "teacher",
        "cull S1, thin": folders["cull S1"],
        "cull S1, thin, alpha 0.5": folders["cull S1, thin"],
        "cull S1 S2": folders["cull S1"],
        "cull S1 S2, thin": folders["cull S1 S2"],
        "cull S1 S2, thin, alpha 0.5": folders["cull S1, thin, alpha 0.5"],
    }
    done = [task.folder for task in tasks]
    assert all(done.index(start.folder) < done.index(folders[name]) for name, start in starts.items())
    plans = {task.folder: task.student.plan for task in tasks}
    assert all(start.plan == plans[start.folder] for start in starts.values())
    assert {(task.recipe.decay, task.recipe.batch_size) for task in tasks[1:]} == {("linear", 16)}


def test_the_teacher_is_asked_once_for_each_view_and_its_answers_are_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], LogitsCache.write

    def counting(self: LogitsCache, logits: torch.Tensor, *, epoch: int, step: int) -> None:
        assert (tmp_path / "run" / "teacher-answers.bin").is_file()
        written.append((epoch, step))
        write(self, logits, epoch=epoch, step=step)

    monkeypatch.setattr(LogitsCache, "write", counting)
    deepreduce.optimize(out=tmp_path / "run", **TINY)
    assert written and len(set(written)) == len(written)
    assert not (tmp_path / "run" / "teacher-answers.bin").exists()


@pytest.mark.parametrize("settings", [["distill.remember_gb=0"], ["distill.remember_gb=1e-6"]])
def test_remembering_less_changes_no_number(finished: deepreduce.Result, tmp_path: Path, settings: list[str]) -> None:
    assert cells(deepreduce.optimize(out=tmp_path / "run", settings=settings, **TINY)) == cells(finished)


@pytest.mark.parametrize(
    "settings",
    [
        ["max_relus=100"],  # the first network is deeper culled than some of the narrower ones
        ["max_relus=170", "method.thin_keep=both"],  # or has kept other ReLUs of each block
        ["max_relus=100", "method.rhos=[1,0.5]"],
    ],
)
def test_a_limit_on_relus_leaves_every_network_one_to_start_from(tmp_path: Path, settings: list[str]) -> None:
    given = ["method.cull_order=S1,S2", "data.train_limit=100", "training.epochs=1", *settings]
    result = deepreduce.optimize(out=tmp_path / "run", settings=given, **TINY)
    assert len(measured(result)) == len(result.candidates) > 1


def failing(kinds: Sequence[str], real: Any, *, times: int = 1) -> Any:
    """Instead of `train`: the first networks of those kinds have a loss that is not finite."""
    failed: list[Path] = []

    def train(*args: Any, **options: Any) -> Any:
        path = options["save"].__self__.path
        if path.parent.name in kinds and len(failed) < times:
            failed.append(path)
            raise NonFiniteLossError("the loss was not finite in epoch 1, also after 2 retries")
        return real(*args, **options)

    return train


def test_a_probe_whose_loss_explodes_is_a_candidate_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "train", failing(["probes"], subject.train))
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    (failed,) = (n for n in result.candidates if n.candidate.measurement is None)
    assert failed.folder.parent.name == "probes" and "not finite" in (failed.candidate.failure or "")
    assert result.criticality[failed.label[5:7]] == 0


def test_a_loss_that_explodes_fails_that_candidate_and_the_next_ones_start_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: list[TrainTask]
) -> None:
    monkeypatch.setattr(subject, "train", failing(["candidates"], subject.train))
    settings = ["method.cull_order=S1,S2"]
    result = deepreduce.optimize(out=tmp_path / "run", settings=settings, **TINY)
    (failed,) = (n for n in result.candidates if n.candidate.measurement is None)
    assert "not finite" in (failed.candidate.failure or "") and failed.label == "cull S1"
    assert failed.plan_id not in {n.plan_id for n in result.frontier}
    assert 'failed,"the loss was not finite' in (result.folder / "candidates.csv").read_text()
    assert f"1 of {NUM_PROPOSED} networks failed" in result.summary()
    starts = {task.name: task.student.start for task in tasks[1:]}
    for name in ("cull S1", "cull S1, thin", "cull S1 S2"):
        start = starts[name]
        assert start is not None and start.folder == "teacher"
    page = page_contents(result.folder, title="", objective=result.objective).to_json()["networks"]
    (shown,) = (n for n in page if n["id"] == failed.plan_id)
    assert sum(count for _, _, count in shown["sites"]) == failed.relu_count
    # the failure is remembered, so a second call starts no other
    trained = len(tasks)
    again = deepreduce.optimize(out=tmp_path / "run", settings=settings, **TINY)
    assert len(tasks) == trained and cells(again) == cells(result)


def test_a_run_none_of_whose_students_can_be_trained_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "train", failing(["probes", "candidates"], subject.train, times=99))
    with pytest.raises(RunError, match=r"no network could be trained: the loss was not finite .*; lower training"):
        deepreduce.optimize(out=tmp_path / "run", **TINY)


# -- recipe paper ---------------------------------------------------------------------------------------------


def test_the_papers_recipe_trains_every_network_from_scratch_for_all_epochs(
    tmp_path: Path, tasks: list[TrainTask]
) -> None:
    result = deepreduce.optimize(out=tmp_path / "run", recipe="paper", **TINY)
    assert len(measured(result)) == NUM_CANDIDATES
    assert len(tasks) == 1 + NUM_CANDIDATES  # the network that a probe is as well is trained once
    recipe = tasks[0].recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (6, 32, 0.1)
    for task in tasks:
        student = task.student
        assert student.start is None and student.statistics_batches == 0 and task.recipe == recipe
        assert len(NetworkFolder(path=result.folder / student.folder).history()) == 6
    # from scratch: what a student starts with is what the original does
    config = deepreduce.load_config(values=TINY)
    images = load_data(config.data, seed=0)
    original = original_network(config.model, images.facts, seed=model_seed(config))
    task = next(task for task in tasks if task.folder.startswith("candidates/"))
    untrained = apply_plan(original, task.student.plan, seed=task.student.seed % 2**31).module.state_dict()
    trained = NetworkFolder(path=result.folder / task.folder).weights()
    assert untrained.keys() == trained.keys()
    again = train_alone(original, task, images, result)
    assert all(torch.equal(trained[name], tensor) for name, tensor in again.items())


def train_alone(original: Network, task: TrainTask, images: ImageData, result: deepreduce.Result) -> dict[str, Any]:
    """The student by `train` alone, from the original's initial weights and the run's teacher."""
    network = apply_plan(original, task.student.plan, seed=task.student.seed % 2**31)
    teacher = deepreduce.load_reduced(result.teacher.folder).requires_grad_(False)
    config = deepreduce.load_config(values=TINY)
    distillation = Distillation(temperature=config.distill.temperature, weight=config.distill.weight)
    train(
        network.module, images, task.recipe, seed=task.student.seed, precision=FP32, device=torch.device("cpu"),
        teacher=Teacher(teacher, precision=FP32), distillation=distillation,
        schedule=AugmentationSchedule(seed=derived_seed(0, "views"), epochs=6),
    )  # fmt: skip
    return network.module.state_dict()


def test_the_two_recipes_are_runs_of_their_own(finished: deepreduce.Result) -> None:
    with pytest.raises(RunFolderError, match=r"recipe \('fast', now 'paper'\)"):
        deepreduce.optimize(out=finished.folder, recipe="paper", **TINY)
