"""The main job, from config to frontier, on networks and data that take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepreduce
from deepreduce.data import ImageArrays, load_source, prepare
from deepreduce.errors import (
    ConfigError,
    DataError,
    ModelError,
    PlanError,
    RunError,
    RunFolderError,
    RunInterrupted,
    UserError,
)
from deepreduce.frontier import pareto_front
from deepreduce.inputs import load_data, preparation_of
from deepreduce.outputs import read_run
from deepreduce.report.tables import read_candidates_csv
from deepreduce.training import Progress
from tests.runs_for_tests import NUM_CANDIDATES, NUM_PROBES, TINY, TINY_RELUS, without_seconds


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> deepreduce.Result:
    return deepreduce.optimize(config=None, out=tmp_path_factory.mktemp("run") / "tiny", **TINY)


def test_a_run_leaves_every_file_that_is_promised(finished: deepreduce.Result) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "log.txt", "criticality.json", "candidates.csv", "frontier.csv",
        "frontier.png", "frontier.svg", "layers.png", "teacher", "candidates", "probes",
    }  # fmt: skip
    assert len(list((finished.folder / "candidates").iterdir())) == NUM_CANDIDATES
    assert len(list((finished.folder / "probes").iterdir())) == NUM_PROBES
    for folder in (finished.folder / "candidates").iterdir():
        assert {p.name for p in folder.iterdir()} == {"plan.json", "model.safetensors", "metrics.json", "history.csv"}


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
    assert by_label[f"cull {order[0]} {order[1]}"].relu_count == left - TINY_RELUS[order[1]]
    assert set(finished.criticality) == set(TINY_RELUS)
    assert min(finished.criticality, key=lambda stage: finished.criticality[stage]) == order[0]


def test_results_load_as_plain_modules_that_are_as_accurate_as_measured(finished: deepreduce.Result) -> None:
    images = load_data(deepreduce.load_config(values=TINY).data, seed=0)
    for network in (finished.teacher, *finished.candidates):
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
    folder, pixels = finished.candidates[0].folder, raw.test.images
    model, on_pixels = deepreduce.load_reduced(folder), deepreduce.load_reduced(folder, raw_pixels=True)
    mean, std = torch.tensor(scale.mean).view(-1, 1, 1), torch.tensor(scale.std).view(-1, 1, 1)
    assert pixels.dtype == torch.uint8 and int(pixels.max()) == 255
    with torch.no_grad():
        assert torch.equal(on_pixels(pixels), model((pixels.float() - mean) / std))


def test_the_best_under_a_budget_keeps_the_budget(finished: deepreduce.Result) -> None:
    smallest = min(n.relu_count for n in finished.candidates)
    assert finished.best(max_relus=smallest).relu_count == smallest
    assert finished.knee.plan_id in {n.plan_id for n in finished.frontier}


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    finished: deepreduce.Result, tmp_path: Path
) -> None:
    again = deepreduce.optimize(out=tmp_path / "again", **TINY)
    other = deepreduce.optimize(out=tmp_path / "other", seed=1, **TINY)

    def cells(result: deepreduce.Result) -> list[list[str]]:
        return without_seconds((result.folder / "candidates.csv").read_text())

    assert cells(again) == cells(finished)
    assert cells(other) != cells(finished)


def test_a_finished_run_is_not_trained_again(finished: deepreduce.Result) -> None:
    weights = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("model.safetensors")}
    again = deepreduce.optimize(out=finished.folder, **TINY)
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("model.safetensors")} == weights
    assert [n.plan_id for n in again.candidates] == [n.plan_id for n in finished.candidates]


def test_another_config_is_refused_and_nothing_in_the_folder_changes(finished: deepreduce.Result) -> None:
    before = {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()}
    with pytest.raises(RunFolderError, match=r"training.epochs \(2, now 3\)"):
        deepreduce.optimize(out=finished.folder, settings=["training.epochs=3"], **TINY)
    assert {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()} == before


def test_a_run_goes_on_with_its_threads_and_refuses_others(finished: deepreduce.Result) -> None:
    free = {key: value for key, value in TINY.items() if key != "threads"}
    assert deepreduce.optimize(out=finished.folder, **free).folder == finished.folder
    with pytest.raises(RunFolderError, match=r"another threads \(1, now 2\)"):
        deepreduce.optimize(out=finished.folder, threads=2, **free)


def test_a_corrupt_network_is_named_and_trained_again(
    finished: deepreduce.Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    victim = copy / finished.candidates[0].candidate.folder / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    again = deepreduce.optimize(out=copy, **TINY)
    assert str(victim) in caplog.text
    assert without_seconds((again.folder / "candidates.csv").read_text()) == without_seconds(
        (finished.folder / "candidates.csv").read_text()
    )


class _StopsAt:
    """A watcher that asks the process to stop after so many steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, name: str, **_: Any) -> None:
        pass

    def step(self, name: str, progress: Progress) -> None:
        import os
        import signal

        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def end(self, name: str, **_: Any) -> None:
        pass

    def close(self) -> None:
        pass


def test_ctrl_c_saves_and_the_same_call_ends_as_if_undisturbed(finished: deepreduce.Result, tmp_path: Path) -> None:
    stops = 0
    for _ in range(2):  # in the teacher, then in networks that share weights
        try:
            deepreduce.optimize(out=tmp_path / "run", watcher=_StopsAt(1), **TINY)
        except RunInterrupted as error:
            stops += 1
            assert error.folder == tmp_path / "run"
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    assert stops >= 1  # short trainings report to nobody before they end
    assert without_seconds((result.folder / "frontier.csv").read_text()) == without_seconds(
        (finished.folder / "frontier.csv").read_text()
    )


# -- from Python ----------------------------------------------------------------------------------------------


class _Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 8, 3, 2, 1),
        )
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = self.c(x).relu()
        return self.head(x.mean((2, 3)))


def _tensors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randn(120, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    return images[:90], labels[:90], images[90:], labels[90:]


_QUICK: dict[str, Any] = {
    "training": {"epochs": 1, "batch_size": 16},
    "method": {"alphas": [1.0]},
    "fast": {"margin": 1.0},
    "threads": 1,
    "side_by_side": 1,
}


def test_a_module_and_tensors_of_ones_own_are_reduced_without_being_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Net()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    result = deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **_QUICK)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert result.teacher.relu_count == 2 * 4 * 64 + 8 * 16
    small = min(result.candidates, key=lambda n: n.relu_count)
    assert small.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    reloaded = deepreduce.load_reduced(small.folder, model=_Net())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(reloaded(images), small.model(images))


def test_torch_data_sets_of_ones_own_will_do(tmp_path: Path) -> None:
    from torch.utils.data import TensorDataset

    x_train, y_train, x_test, y_test = _tensors()
    data = (TensorDataset(x_train, y_train), TensorDataset(x_test, y_test))
    result = deepreduce.optimize(_Net(), data, out=tmp_path / "run", **_QUICK)
    assert result.frontier
    with pytest.raises(UserError, match="transforms of its own"):
        deepreduce.load_reduced(result.teacher.folder, model=_Net(), raw_pixels=True)


def test_a_network_that_is_trained_already_is_taken_as_it_is(tmp_path: Path) -> None:
    module = _Net()
    options = {**_QUICK, "training": {**_QUICK["training"], "teacher_epochs": 0}}
    result = deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **options)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(result.teacher.model(images), module.eval()(images))


def test_the_recipe_of_the_paper_trains_every_network_from_scratch_for_all_epochs(tmp_path: Path) -> None:
    paper = deepreduce.optimize(out=tmp_path / "run", recipe="paper", **TINY)
    assert not (paper.folder / "drafts").exists()
    for network in paper.candidates:
        epochs = [line.split(",")[0] for line in (network.folder / "history.csv").read_text().splitlines()[1:]]
        assert epochs == ["1", "2"]
    fast = deepreduce.optimize(out=tmp_path / "fast", **TINY)
    assert [n.plan_id for n in fast.candidates] == [n.plan_id for n in paper.candidates] or fast.criticality
    assert {n.test_accuracy for n in paper.candidates} != {n.test_accuracy for n in fast.candidates}


def test_a_network_whose_draft_another_one_beats_is_dropped_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepreduce import pipeline

    def most_loses_to_fewest(relu_counts: dict[str, int], accuracies: dict[str, float], *, margin: float) -> Any:
        assert accuracies.keys() == relu_counts.keys() and margin == 1.0
        return {max(relu_counts, key=lambda n: relu_counts[n]): min(relu_counts, key=lambda n: relu_counts[n])}

    monkeypatch.setattr(pipeline, "beaten", most_loses_to_fewest)
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    (dropped,) = (n for n in result.candidates if n.candidate.is_dropped)
    assert dropped.relu_count == max(n.relu_count for n in result.candidates)
    assert len(list((result.folder / "drafts").glob("*/metrics.json"))) == NUM_CANDIDATES
    trained = {path.name for path in (result.folder / "candidates").iterdir()}
    assert trained == {n.plan_id for n in result.candidates} - {dropped.plan_id}
    assert ',dropped,"its draft has ' in (result.folder / "candidates.csv").read_text()
    assert dropped.plan_id not in {n.plan_id for n in result.frontier}
    again = read_candidates_csv((result.folder / "candidates.csv").read_text())
    assert [c.plan_id for c in again if c.is_dropped] == [dropped.plan_id]


def test_students_side_by_side_give_what_they_give_one_after_the_other(
    finished: deepreduce.Result, tmp_path: Path
) -> None:
    beside = deepreduce.optimize(out=tmp_path / "run", **{**TINY, "side_by_side": 2})
    for name in ("candidates.csv", "frontier.csv"):
        assert without_seconds((beside.folder / name).read_text()) == without_seconds(
            (finished.folder / name).read_text()
        )
    assert not list(beside.folder.glob("*.tmp")) and not (beside.folder / "teacher-answers.bin").exists()


def test_a_loss_that_explodes_fails_that_candidate_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepreduce import jobs
    from deepreduce.errors import NonFiniteLossError

    real, victims = jobs.train, []

    def train(module: nn.Module, *args: Any, **options: Any) -> Any:
        alone = options["lesson"] is not None and not options["turns"]
        if alone and options["monitor"].save.__self__.path.parent.name == "candidates" and not victims:
            victims.append(module)
            raise NonFiniteLossError("the loss was not finite in epoch 1, also after 2 retries")
        return real(module, *args, **options)

    monkeypatch.setattr(jobs, "train", train)
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    failed = [n for n in result.candidates if n.candidate.failure is not None]
    assert len(failed) == 1 and "not finite" in (failed[0].candidate.failure or "")
    assert failed[0].plan_id not in {n.plan_id for n in result.frontier}
    assert 'failed,"the loss was not finite' in (result.folder / "candidates.csv").read_text()
    assert "1 of 6 networks failed" in result.summary()


def test_a_learning_rate_that_no_network_survives_is_an_error_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"teacher could not be trained: .*; lower training.learning_rate"):
        deepreduce.optimize(
            out=tmp_path / "run", settings=["training.learning_rate=1e30", "training.clip_norm=null"], **TINY
        )


# -- dry runs -------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_exactly_what_a_run_trains(finished: deepreduce.Result) -> None:
    order = json.loads((finished.folder / "criticality.json").read_text())["cull_order"]
    config = deepreduce.load_config(values={**TINY, "method": {**TINY["method"], "cull_order": order}})
    planned = deepreduce.dry_run(config)
    listed = {(p.plan_id, p.relu_count) for p in planned.schedule.candidates}
    assert listed == {(n.plan_id, n.relu_count) for n in finished.candidates}
    assert planned.estimated_seconds > 0


def test_a_dry_run_says_which_networks_depend_on_the_measurement() -> None:
    free = deepreduce.dry_run(deepreduce.load_config(values=TINY))
    assert all(c["depends_on_measurement"] for c in free.to_json()["candidates"])
    assert "depend on a measurement" in free.to_text()
    fixed = deepreduce.dry_run(deepreduce.load_config(values=TINY, settings=["method.cull_order=S1,S3"]))
    assert not any(c["depends_on_measurement"] for c in fixed.to_json()["candidates"])
    assert "depend on" not in fixed.to_text()


def test_a_budget_drops_what_exceeds_it_and_an_impossible_one_names_the_smallest() -> None:
    config = deepreduce.load_config(values=TINY, settings=["max_relus=500"])
    assert all(p.relu_count <= 500 for p in deepreduce.dry_run(config).schedule.candidates)
    with pytest.raises(PlanError, match=r"no network has at most 1 ReLUs; the smallest, .* raise max_relus"):
        deepreduce.dry_run(deepreduce.load_config(values=TINY, settings=["max_relus=1"]))


def test_known_data_sets_need_not_be_at_hand_for_a_dry_run(tmp_path: Path) -> None:
    config = deepreduce.load_config(
        values={"model": "resnet20", "data": {"name": "cifar100", "root": str(tmp_path)}, "threads": 1}
    )
    assert deepreduce.dry_run(config).network.output_shape == (100,)


# -- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["model.name=resnet81"], ModelError, "unknown model 'resnet81'; did you mean 'resnet18'"),
        (["data.name=digit"], DataError, "unknown data set 'digit'; did you mean 'digits'"),
        (["device=gpu"], ConfigError, "unknown device 'gpu'"),
        (["device=cuda:7"], ConfigError, "PyTorch sees"),
        (["training.epoch=3"], ConfigError, "did you mean 'training.epochs'"),
        (["method.cull_order=S9"], PlanError, "unknown stage 'S9'"),
        (["method.cull_order=S1,S2,S3"], PlanError, "leave out the stage to keep"),
        (["training.batch_size=5000"], DataError, "fewer than a batch of 5000"),
        (["data.train_limit=5000"], DataError, "data.train_limit is 5,000; digits has 1,438"),
        (["data.image_size=2", "model.blocks=null"], ModelError, "too small"),
        (["plot.published=nowhere.csv"], UserError, "nowhere.csv"),
        (["plot.published_dataset=CIFAR-100"], ConfigError, "plot.published, which"),
        (["model.weights=nowhere.safetensors"], ModelError, "nowhere.safetensors can't be read"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    tmp_path: Path, settings: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        deepreduce.optimize(out=tmp_path / "run", settings=settings, **TINY)
    assert not (tmp_path / "run").exists()


class _NoRelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_NoRelu(), r"_NoRelu has no ReLUs, so there is nothing to reduce .*sigmoid"),
        (_Net(classes=7), r"\(7,\) for one image; the data have 3 classes"),
    ],
)
def test_a_module_that_can_not_be_reduced_says_why(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **_QUICK)
