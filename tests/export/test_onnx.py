"""Exported files against the networks they came from."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from deepreduce.errors import RunError, UserError
from deepreduce.export import onnx as subject
from deepreduce.export.onnx import FORMATS, export_network, relus_in_onnx, relus_in_pt2
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, cull_plan, reshape_plan, thin_plan
from tests.helpers.faults import failing_disk

pytest.importorskip("onnxruntime", reason="needs the extra deepreduce[export]")

IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name: str, *, width: int, shape: tuple[int, int, int] = (3, 32, 32)) -> Network:
    spec = resolve_spec(name, width=width, num_classes=7, in_channels=shape[0])
    found = trace_network(build_model(spec, seed=1), shape, spec=spec)
    for module in found.module.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training, so that folding has something to fold
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return found


def reduced(name: str, width: int, edit: str) -> Network:
    full = network(name, width=width)
    plans = {
        "nothing": lambda: ReductionPlan(),
        "cull": lambda: cull_plan(full, ["S1"]),
        "thin": lambda: thin_plan(full),
        "last": lambda: thin_plan(full, keep="last"),
        "small": lambda: cull_plan(full, ["S1"]).merge(reshape_plan(alpha=0.5, rho=0.5)),
    }
    return apply_plan(full, plans[edit]())


TEN = [
    ("resnet18", 4, "cull"), ("resnet18", 4, "small"), ("resnet20", 4, "thin"), ("resnet20", 4, "last"),
    ("resnet32", 4, "cull"), ("wrn22_8", 2, "thin"), ("vgg16_bn", 4, "thin"), ("vgg16_bn", 4, "cull"),
    ("mobilenet_v2", 8, "thin"), ("mobilenet_v2", 8, "small"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(("name", "width", "edit"), TEN)
def test_ten_reduced_networks_agree_with_pytorch(name: str, width: int, edit: str, to: str, tmp_path: Path) -> None:
    small = reduced(name, width, edit)
    report = export_network(small, tmp_path / "out", to=to, images=IMAGES, fold=edit == "thin")
    assert report.relu_count == small.relu_count and report.file_bytes == (tmp_path / "out").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_a_file_runs_on_any_batch_and_equals_the_network(to: str, tmp_path: Path) -> None:
    small = reduced("resnet20", 4, "cull")
    export_network(small, tmp_path / "out", to=to, images=IMAGES)
    small.module.eval()
    for count in (1, 3, 8):
        images = torch.randn(count, 3, 32, 32)
        if to == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(tmp_path / "out"), providers=["CPUExecutionProvider"])
            logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        else:
            with open(tmp_path / "out", "rb") as file:
                logits = torch.export.load(file).module()(images)
        with torch.no_grad():
            torch.testing.assert_close(logits, small.module(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_relus_of_a_file_are_counted_from_the_file(tmp_path: Path) -> None:
    small = reduced("mobilenet_v2", 8, "nothing")
    export_network(small, tmp_path / "a.onnx", to="onnx", images=IMAGES)
    export_network(small, tmp_path / "a.pt2", to="torch-export", images=IMAGES)
    assert relus_in_onnx(tmp_path / "a.onnx") == relus_in_pt2(tmp_path / "a.pt2") == small.relu_count


@pytest.mark.slow
def test_batch_norms_stay_unless_folding_is_asked_for(tmp_path: Path) -> None:
    import onnx

    small = reduced("resnet20", 4, "thin")
    before = {name: tensor.clone() for name, tensor in small.module.state_dict().items()}
    kinds = {}
    for fold in (False, True):
        export_network(small, tmp_path / "out", to="onnx", images=IMAGES, fold=fold)
        kinds[fold] = [node.op_type for node in onnx.load(str(tmp_path / "out")).graph.node]
    assert kinds[False].count("BatchNormalization") == kinds[False].count("Conv") == 21
    assert "BatchNormalization" not in kinds[True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.module.state_dict().items())


def test_exporting_leaves_the_network_in_the_mode_it_was_in(tmp_path: Path) -> None:
    small = reduced("resnet20", 4, "cull")
    small.module.train()
    export_network(small, tmp_path / "out", to="torch-export", images=IMAGES)
    assert all(module.training for module in small.module.modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda path, images: torch.zeros(len(images), 7), "differ from the network by"),
        (lambda path, images: torch.full((len(images), 7), float("nan")), "differ from the network by nan"),
    ],
)
def test_a_file_that_disagrees_is_not_written(
    wrong: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from deepreduce.export import onnx as interchange

    forms = interchange._FORMS
    monkeypatch.setitem(forms, "torch-export", replace(forms["torch-export"], run=wrong))  # type: ignore[arg-type]
    (tmp_path / "out").write_text("what was there before")
    with pytest.raises(RunError, match=message):
        export_network(reduced("resnet20", 4, "cull"), tmp_path / "out", to="torch-export", images=IMAGES)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "what was there before"


def test_a_file_with_other_relus_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from deepreduce.export import onnx as interchange

    forms = interchange._FORMS
    monkeypatch.setitem(forms, "torch-export", replace(forms["torch-export"], count_relus=lambda path: 12))
    with pytest.raises(RunError, match="would hold 12 ReLUs"):
        export_network(reduced("resnet20", 4, "cull"), tmp_path / "out", to="torch-export", images=IMAGES)
    assert not list(tmp_path.iterdir())


def test_an_exporter_that_gives_up_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives_up(*_: object, **__: object) -> None:
        raise AttributeError("'tuple' object has no attribute 'dtype'\n  at some length")

    monkeypatch.setattr(torch.onnx, "export", gives_up)
    with pytest.raises(
        RunError, match=r"can't convert the network to onnx \('tuple' object .*--to torch-export"
    ) as told:
        export_network(reduced("resnet20", 4, "cull"), tmp_path / "out", to="onnx", images=IMAGES)
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_mistakes_are_told(tmp_path: Path) -> None:
    small = reduced("resnet20", 4, "cull")
    with pytest.raises(UserError, match="unknown format 'onxn'; did you mean 'onnx'"):
        export_network(small, tmp_path / "out", to="onxn", images=IMAGES)
    with pytest.raises(UserError, match="give at least 2"):
        export_network(small, tmp_path / "out", to="onnx", images=IMAGES[:1])
    with pytest.raises(UserError, match="can't be written"):
        export_network(small, tmp_path / "nowhere" / "out", to="torch-export", images=IMAGES)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'deepreduce\[export\]'"):
        export_network(reduced("resnet20", 4, "cull"), tmp_path / "out", to="onnx", images=IMAGES)


# -- where the file can't be written --------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network whose conversion takes no time."""
    small = network("resnet20", width=2)
    with torch.no_grad():
        expected = small.module.eval()(IMAGES)
    form = replace(
        subject._FORMS["torch-export"],
        convert=lambda module, images, fold: bytes(1000),
        run=lambda file, images: expected,
        count_relus=lambda file: small.relu_count,
    )
    monkeypatch.setitem(subject._FORMS, "torch-export", form)
    return small


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_whichever_call_fails_the_old_file_stays_and_nothing_is_left(
    quick: Network, tmp_path: Path, error: int
) -> None:
    path = tmp_path / "out"
    with failing_disk(tmp_path) as watched:
        export_network(quick, path, to="torch-export", images=IMAGES)
    path.write_bytes(b"old")
    for number in range(watched.calls.index("replace") + 1):
        with (
            failing_disk(tmp_path, number=number, error=error),
            pytest.raises((RunError, UserError), match=f"out can't be written: {os.strerror(error)}; "),
        ):
            export_network(quick, path, to="torch-export", images=IMAGES)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out", b"old")]


@pytest.mark.parametrize(
    ("name", "reason"), [("n" * 300, "File name too long"), ("folder", "Is a directory"), ("no/out", "No such file")]
)
def test_a_place_that_can_not_be_written_to_is_one_line(
    quick: Network, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"can't be written: {reason}"):
        export_network(quick, tmp_path / name, to="torch-export", images=IMAGES)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_users_file_or_folder_of_another_name_is_left_alone(quick: Network, tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    export_network(quick, tmp_path / "out", to="torch-export", images=IMAGES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.part"]


def test_a_real_conversion_to_a_full_disk_is_one_line_and_no_abort(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(RunError, match=r"out\.pt2 can't be written: No space left on device; make room"):
            export_network(network("resnet20", width=2), disk / "out.pt2", to="torch-export", images=IMAGES)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
