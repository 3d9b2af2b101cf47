"""An npz file from outside: damaged, hostile or wrong, it is one line, in little memory."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deepreduce.data import ImageArrays, load_source
from deepreduce.errors import DataError
from tests.helpers.images import arrays

FIELDS = "{'descr': '|u1', 'fortran_order': False, 'shape': (20, 6, 6, 3), }"


def member(header: str | bytes, body: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    text = header.encode("latin-1") if isinstance(header, str) else header
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little") + text + body


def written(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> str:
    """A good npz file with some members replaced by these bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, values in arrays().items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            archive.writestr(f"{key}.npy", members.get(key, buffer.getvalue()))
    return f"npz:{path}"


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (20,",
    "((((", "[" * 5_000, "", "{}", "5", "'a'", "{'descr': '|u1'}", "\xff\xfe", "__import__('os').getpid()",
    FIELDS.replace("20", str(10**30)), FIELDS.replace("20", "99999999999999"), FIELDS.replace("20", "-1"),
    FIELDS.replace("20", "True"), FIELDS.replace("20", "1.5"), FIELDS.replace("(20, 6, 6, 3)", "20"),
    FIELDS.replace("|u1", "|O"), FIELDS.replace("|u1", "zz"), FIELDS.replace("'|u1'", "[('a', 'u1')]"),
    FIELDS.replace("'|u1'", "None"), FIELDS.replace("False", "2"), FIELDS.replace("}", "'more': 1}"),
    FIELDS.replace("|u1", "<f8").replace("20", str(2**40)), FIELDS.replace("20", str(2**40)),
    FIELDS.replace("|u1", "V99999999"), FIELDS.replace("(20, 6, 6, 3)", "(1,) * 9"), FIELDS.replace("6, 6", "9999, 9999"),
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_a_wrong_header_is_one_line_in_little_memory(tmp_path: Path, header: str, key: str) -> None:
    tracemalloc.start()
    for version in (1, 2, 3, 9):
        name = written(tmp_path / "d.npz", **{key: member(header, bytes(100), version=version)})
        with pytest.raises(DataError) as caught:
            load_source(name)
        assert str(tmp_path / "d.npz") in str(caught.value) and "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    bomb = member(b" " * 50_000_000, version=2)
    name = written(tmp_path / "d.npz", zipfile.ZIP_DEFLATED, x_train=bomb)
    tracemalloc.start()
    with pytest.raises(DataError, match="header of an array in it has 50,000,000 bytes"):
        load_source(name)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_bomb_that_is_no_data_set_is_not_unpacked(tmp_path: Path) -> None:
    zeros = member(FIELDS.replace("(20, 6, 6, 3)", "(100000000,)"), bytes(100_000_000))
    name = written(tmp_path / "d.npz", zipfile.ZIP_DEFLATED, x_train=zeros)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"images are of shape \(100000000,\)"):
        load_source(name)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (FIELDS, bytes(20 * 108 - 1), "ends after 2,159 of 2,160 bytes"),
        (FIELDS, bytes(20 * 108 + 1), "more bytes than its shape says"),
    ],
)
def test_an_array_of_another_length_than_its_shape_is_refused(
    tmp_path: Path, header: str, body: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_source(written(tmp_path / "d.npz", x_train=member(header, body)))


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_file_with_changed_bytes_is_refused_or_holds_the_same_images(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "d.npz"
    name = written(path, compression)
    whole, dice = path.read_bytes(), random.Random(0)
    right = load_source(name)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(dice.choice([1, 1, 8])):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        try:
            found = load_source(name)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            assert isinstance(found.train, ImageArrays) and isinstance(right.train, ImageArrays)
            assert (found.train.fingerprint(), found.num_classes) == (right.train.fingerprint(), right.num_classes)


def test_fortran_order_and_big_endian_labels_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    content = arrays()
    changed = {
        key: np.asfortranarray(value) if key[0] == "x" else value.astype(">i4") for key, value in content.items()
    }
    np.savez(tmp_path / "plain.npz", **content)
    np.savez_compressed(tmp_path / "changed.npz", **changed)
    plain, other = (load_source(f"npz:{tmp_path / name}.npz") for name in ("plain", "changed"))
    assert isinstance(plain.train, ImageArrays) and isinstance(other.train, ImageArrays)
    assert plain.train.fingerprint() == other.train.fingerprint()


def test_an_array_that_is_there_twice_or_encrypted_is_refused(tmp_path: Path) -> None:
    name = written(tmp_path / "d.npz")
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("x_train.npy", member(FIELDS, bytes(20 * 108)))
    with pytest.raises(DataError, match="holds x_train twice"):
        load_source(name)
