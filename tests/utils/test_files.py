"""Files whole or not at all; tensors that come back bit for bit, or an error that names the file."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import deepreduce
from deepreduce.errors import CheckpointError, RunError, RunFolderError
from deepreduce.utils import files as subject
from deepreduce.utils.files import (
    is_partial_name,
    read_json,
    read_tensors,
    remove_partial_files,
    staged,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
    writing,
)

in_one_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

STEPS = ("open", "write", "fsync", "replace")
"""What the system does for a file; each may fail."""


def fail(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    def failing(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(f"os.{step}", failing)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- whole or not at all ------------------------------------------------------------------------------------


@in_one_folder
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_file_holds_what_was_written_last_and_nothing_lies_beside_it(
    tmp_path: Path, first: bytes, second: bytes
) -> None:
    path = tmp_path / "file"
    for content in (first, second):
        write_bytes(path, content)
        assert path.read_bytes() == content
        assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_fails_the_run_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patched:
        fail(patched, step, OSError(number, os.strerror(number)))
        with pytest.raises(RunError, match=rf"file can't be written: {os.strerror(number)}; make room"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_any_other_failure_to_write_is_about_the_folder_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patched:
        fail(patched, step, OSError(number, os.strerror(number)))
        with pytest.raises(RunFolderError, match=rf"file can't be written: {os.strerror(number)}; choose a folder"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patched:
        fail(patched, step, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_killed_process_leaves_the_old_file_and_one_that_is_known_to_be_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    # a kill runs no clean-up
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    fail(monkeypatch, "replace", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    left = next(name for name in names(tmp_path) if name != "file")
    assert is_partial_name(left)


def test_the_content_is_on_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(step: str, real: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any) -> None:
            done.append(step)
            real(*args)

        return noted

    for step in ("fsync", "replace"):
        monkeypatch.setattr(f"os.{step}", noting(step, getattr(os, step)))
    write_bytes(tmp_path / "file", b"x")
    assert done[:2] == ["fsync", "replace"]


def test_a_folder_that_can_not_be_flushed_does_not_fail_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *args: Any) -> int:
        if flags == os.O_RDONLY:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", refuse)
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_two_writers_of_one_file_both_succeed(tmp_path: Path) -> None:
    with staged(tmp_path / "file") as first, staged(tmp_path / "file") as second:
        first.write(b"one")
        second.write(b"two")
    assert (tmp_path / "file").read_bytes() == b"one"  # the outer block was done last
    assert names(tmp_path) == ["file"]


def test_a_users_own_part_file_and_a_planted_link_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_text("mine")
    (tmp_path / "target").write_text("mine too")
    (tmp_path / "link.part").symlink_to(tmp_path / "target")
    for name in ("file", "link"):
        write_bytes(tmp_path / name, b"new")
    assert (tmp_path / "file.part").read_text() == "mine"
    assert (tmp_path / "target").read_text() == "mine too"


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    leftover, link = (f".deepreduce-{digit * 32}.part" for digit in "ab")
    users = ("film.part", ".deepreduce-1.part", f"x.deepreduce-{'a' * 32}.part", f".deepreduce-{'a' * 32}.part.gz")
    below = tmp_path / "deep" / "down"
    below.mkdir(parents=True)
    for folder in (tmp_path, below):
        for name in (leftover, *users):
            (folder / name).write_text("content")
        (folder / link).symlink_to(folder / "film.part")
    with staged(below / "file") as living:
        remove_partial_files(tmp_path)
        assert living.path.exists()
    for folder, own in ((tmp_path, ["deep"]), (below, ["file"])):
        assert names(folder) == sorted([*users, link, *own])


def test_a_writer_whose_file_is_removed_before_it_is_locked_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = subject._lock, []

    def lock(descriptor: int, *, wait: bool) -> bool:
        if not seen:
            seen.extend(tmp_path.iterdir())
            seen[0].unlink()
        return real(descriptor, wait=wait)

    monkeypatch.setattr(subject, "_lock", lock)
    write_bytes(tmp_path / "file", b"x")
    assert seen and names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("name", "reason", "repair"),
    [
        ("n" * 300, "File name too long", "give a shorter name"),
        ("folder", "Is a directory", "it is a folder, so give another name"),
        ("file/below", "Not a directory", "choose another folder"),
    ],
)
def test_a_repair_belongs_to_its_reason(tmp_path: Path, name: str, reason: str, repair: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match=f"can't be written: {reason}; {repair}$"):
        write_bytes(tmp_path / name, b"x")
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_that_goes_on_after_a_failed_write_raises_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="No space left"), staged(tmp_path / "file") as file:
        with monkeypatch.context() as patched:
            fail(patched, "write", OSError(errno.ENOSPC, "No space left on device"))
            assert file.write(b"lost") == 4
        assert file.write(b"more") == 4
    assert names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"absent/file can't be written: No such file"):
        write_bytes(tmp_path / "absent" / "file", b"x")


def test_a_folder_without_permission_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(RunFolderError, match="Permission denied"):
        write_bytes(folder / "file", b"x")
    assert names(folder) == []


def test_an_error_without_words_is_still_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"^p can't be written: out of luck; "), writing(Path("p")):
        raise OSError("out of luck")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_keeps_the_old_file_and_gives_its_room_back(small_disk: Path) -> None:
    path = small_disk / "weights.safetensors"
    write_tensors(path, {"w": torch.zeros(1000)}, {"epoch": 1})
    for _ in range(2):
        with pytest.raises(RunError, match="No space left on device; make room"):
            write_tensors(path, {"w": torch.zeros(10**6)}, {"epoch": 2})
        assert names(small_disk) == ["weights.safetensors"]
        assert read_tensors(path)[1] == {"epoch": 1}
    write_tensors(path, {"w": torch.ones(1000)}, {"epoch": 2})
    assert read_tensors(path)[1] == {"epoch": 2}


# -- text and JSON ------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@in_one_folder
@given(plain)
def test_json_comes_back_equal(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


def test_text_is_utf8_with_a_line_end_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "ein ½\n")
    assert (tmp_path / "t").read_bytes() == "ein ½\n".encode()


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff", b"{} {}", b"[" * 100_000, b"1" * 5000])
def test_json_that_is_corrupt_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json can't be read: ") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_json_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metrics\.json can't be read"):
        read_json(tmp_path / "metrics.json")


# -- tensors ------------------------------------------------------------------------------------------------


def example_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 5, generator=generator)
    shared = torch.randn(4, generator=generator)
    return {
        "matrix": matrix,
        "transposed": matrix.t(),
        "a slice": matrix[:, ::2],
        "tied": shared,
        "tied too": shared,
        "half": matrix.to(torch.bfloat16),
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(16, dtype=torch.uint8),
        "none": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "trained": torch.nn.Parameter(torch.ones(2)),
        "images": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
    }


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    bits = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    assert torch.equal(*bits)


def test_tensors_and_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    path, tensors = tmp_path / "model.safetensors", example_tensors()
    values = {"epoch": 3, "best": 0.1 + 0.2, "history": [1e-300, None, "½"], "crc32": 5}
    write_tensors(path, tensors, values)
    loaded, loaded_values = read_tensors(path)
    assert loaded_values == values
    assert list(loaded_values) == list(values)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(loaded[name], tensor)
        assert not loaded[name].requires_grad


def test_tensors_that_shared_memory_do_not_when_they_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", example_tensors(), {})
    loaded, _ = read_tensors(tmp_path / "m")
    before = loaded["tied too"].clone()
    loaded["tied"].zero_()
    assert torch.equal(loaded["tied too"], before)


def test_writing_changes_no_tensor_and_changing_what_was_read_changes_no_file(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(3)}
    write_tensors(tmp_path / "m", tensors, {})
    content = (tmp_path / "m").read_bytes()
    read_tensors(tmp_path / "m")[0]["w"].zero_()
    assert torch.equal(tensors["w"], torch.ones(3))
    assert (tmp_path / "m").read_bytes() == content


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tensors(tmp_path / name, example_tensors(), {"epoch": 1, "seed": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_tensors_at_all_come_back_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", {}, {})
    assert read_tensors(tmp_path / "m") == ({}, {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file of tensors."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    weights = {"conv.weight": torch.linspace(-1, 1, 24).reshape(4, 6), "steps": torch.tensor(7)}
    write_tensors(path, weights, {"epoch": 3})
    return path.read_bytes()


@in_one_folder
@given(st.data())
def test_a_truncated_file_is_named(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors ") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_file_with_any_bit_flipped_is_named_or_means_the_same(tmp_path: Path, whole: bytes) -> None:
    good = tmp_path / "good"
    good.write_bytes(whole)
    tensors, values = read_tensors(good)
    path = tmp_path / "model.safetensors"
    refused = 0
    for position in range(len(whole)):
        for bit in (1 << position % 8, 1 << (position + 5) % 8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
            try:
                loaded, loaded_values = read_tensors(path)
            except CheckpointError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                # white space of the header carries nothing
                assert loaded_values == values
                assert loaded.keys() == tensors.keys()
                for name, tensor in tensors.items():
                    assert_same_bits(loaded[name], tensor)
    assert refused > 1.8 * len(whole)


def test_a_file_of_someone_else_is_told_from_a_corrupt_one(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.torch.save({"w": torch.ones(1)}, metadata=metadata))
        with pytest.raises(CheckpointError, match=r"theirs\.safetensors was not written by deepreduce"):
            read_tensors(path)


@pytest.mark.parametrize(
    "described", ["", "{", "[]", "null", "3", "{}", '{"crc32": 0}', '{"crc32": 0, "values": []}']
)
def test_a_file_that_describes_itself_wrongly_is_named(tmp_path: Path, described: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.ones(1)}, metadata={"deepreduce": described}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors "):
        read_tensors(path)


def test_a_changed_value_shape_or_type_does_not_pass_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"w": torch.arange(6, dtype=torch.int32).reshape(2, 3)}, {"epoch": 3})
    content = path.read_bytes()
    for old, new in ((b"[2,3]", b"[3,2]"), (b"I32", b"U32"), (rb"\"epoch\": 3", rb"\"epoch\": 4")):
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        with pytest.raises(CheckpointError, match="checksum does not match"):
            read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_a_file_that_holds_no_tensors_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt can't be read"):
        read_tensors(path)


def test_tensors_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent can't be read"):
        read_tensors(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="can't be read"):
        read_tensors(tmp_path)


# -- nothing is unpickled -----------------------------------------------------------------------------------

PICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


TO_OWN_PROCESSES = {"execution/processes.py", "execution/worker.py", "network/network.py"}
"""What hands a run to processes that it starts itself, through pipes and a file that nobody else can write."""


def test_nothing_in_the_package_pickles_or_unpickles_but_for_its_own_processes() -> None:
    package = Path(deepreduce.__file__).parent
    assert all((package / name).is_file() for name in TO_OWN_PROCESSES)
    for path in (p for p in package.rglob("*.py") if p.relative_to(package).as_posix() not in TO_OWN_PROCESSES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(package)}:{getattr(node, 'lineno', '')}"
            if isinstance(node, ast.Import):
                assert not PICKLERS & {alias.name.partition(".")[0] for alias in node.names}, where
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in PICKLERS, where
                assert not (node.module == "torch" and {"load", "save"} & {a.name for a in node.names}), where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, where
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, where


def test_json_of_ours_is_plain_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "m.json", {"loss": float("nan")})
    write_json(tmp_path / "m.json", {"b": 1, "a": [2]})
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["b", "a"]
