"""Pixels are read from arrays and pictures in any usual order, and put on the network's scale."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepreduce.data import Standardisation
from deepreduce.errors import DataError
from deepreduce.private.images import MAX_VALUES, read_image, standardise

COLOUR = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


@pytest.mark.parametrize("stored", [COLOUR, COLOUR.transpose(1, 2, 0)], ids=["C, H, W", "H, W, C"])
def test_an_array_is_read_in_either_order_of_dimensions(stored: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", stored)
    assert torch.equal(read_image(tmp_path / "image.npy").with_shape((3, 4, 5)), torch.from_numpy(COLOUR).float())


def test_a_grey_array_needs_no_channel_dimension(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", COLOUR[0])
    assert torch.equal(read_image(tmp_path / "grey.npy").with_shape((1, 4, 5)), torch.from_numpy(COLOUR[:1]).float())


def test_a_picture_is_read_in_colour_or_grey_as_the_network_takes_it(tmp_path: Path) -> None:
    Image.fromarray(COLOUR.transpose(1, 2, 0)).save(tmp_path / "picture.png")
    assert torch.equal(read_image(tmp_path / "picture.png").with_shape((3, 4, 5)), torch.from_numpy(COLOUR).float())
    assert read_image(tmp_path / "picture.png").with_shape((1, 4, 5)).shape == (1, 4, 5)


def test_another_shape_is_refused_with_the_shape_that_the_network_takes(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", COLOUR)
    with pytest.raises(DataError, match=r"image.npy has shape \(3, 4, 5\); the server's network takes \(3, 8, 8\)"):
        read_image(tmp_path / "image.npy").with_shape((3, 8, 8))


@pytest.mark.parametrize("size", [3, 2**40])
def test_an_array_must_have_the_bytes_that_its_header_names(size: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COLOUR)
    content = (tmp_path / "a.npy").read_bytes().replace(b"(3, 4, 5)", f"({size}, 4, 6)".encode(), 1)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"takes 72 bytes, but it has 60" if size == 3 else r"an image may have"):
        read_image(tmp_path / "a.npy")


def saved(array: object, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)  # type: ignore[arg-type]
    return file.getvalue()


def npy(header: bytes, *, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(header)) + header


ARRAYS = {
    "empty": b"",
    "another file": b"nothing of the kind",
    "cut header": saved(COLOUR)[:40],
    "cut": saved(COLOUR)[:-1],
    "longer": saved(COLOUR) + b"0",
    "objects": saved(np.array([[{}]], object), allow_pickle=True),
    "text": saved(np.array([["a"]])),
    "complex": saved(np.array([[1j]])),
    "dates": saved(np.array([["2020-01-01"]], "M8[D]")),
    "records": saved(np.zeros((2, 2), [("a", "u1")])),
    "a number": saved(np.float32(1)),
    "four dimensions": saved(np.zeros((1, 1, 1, 1))),
    "an unbalanced header": npy(b"{'descr': '<f4', 'shape': (1, ((((("),
    "a header of brackets": npy(b"(" * 9000),
    "no dtype": npy(b"{'descr': '<q9', 'fortran_order': False, 'shape': (1, 1)}"),
    "a negative shape": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}"),
    "an endless shape": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 1, 1)}" % 10**30),
    "a header without an end": npy(b"{'a': " + b" " * 60_000),
    "a header of 4 GB": npy(b"", version=b"\2\0")[:8] + b"\xff\xff\xff\xff{",
    "version 3": npy(b"{}", version=b"\3\0"),
    "version 9": npy(b"{}", version=b"\x09\0"),
    "an archive": b"PK\3\4" + bytes(100),
}
"""What is no array of pixel values."""


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_what_is_no_array_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a.npy can't be read as an array: \S") as raised:
        read_image(tmp_path / "a.npy")
    assert len(str(raised.value).splitlines()) == 1


def picture(form: str, array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR.transpose(1, 2, 0) if array is None else array).save(file, form)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header, with its checksum, names that size."""
    content = picture("PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


PICTURES = {
    "empty": b"",
    "another file": b"nothing of the kind",
    "a bomb": png(2**31 - 1, 2**31 - 1),
    "a small bomb": png(20_000, 20_000),
    "more values than an image may have": png(2049, 2049),
    "a cut header": picture("PNG")[:20],
    "a cut picture": picture("PNG")[:-30],
    "a wrong checksum": picture("PNG")[:30] + b"\0\0\0" + picture("PNG")[33:],
    "16 bits": picture("PNG", np.full((4, 5), 40_000, np.uint16)),
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n",
    "gif of no frames": picture("GIF")[:13] + b";",
    "a cut jpeg": picture("JPEG")[:200],
    "a cut tiff": picture("TIFF")[:12],
    "a cut webp": picture("WEBP")[:30],
    "a bmp of negative size": picture("BMP")[:18] + b"\xff" * 8 + picture("BMP")[26:],
    "a ppm of endless size": b"P6 99999999999 99999999999 255\n",
    "a ppm without numbers": b"P6 a b c\n",
}
"""What is no picture, or none that is read."""


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES)
def test_what_is_no_picture_is_refused_in_one_line(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a.png can't be read as a picture: \S") as raised:
        read_image(tmp_path / "a.png")
    assert len(str(raised.value).splitlines()) == 1 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.npy", "a.png"])
def test_what_is_no_regular_file_is_not_opened(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name} can't be read as .*No such file"):
        read_image(tmp_path / name)
    os.mkfifo(tmp_path / name)  # to open it would wait for a writer
    with pytest.raises(DataError, match=f"{name} can't be read as .*: it is no regular file"):
        read_image(tmp_path / name)
    with pytest.raises(DataError, match="/dev/zero can't be read"):
        read_image(Path("/dev/zero"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((1, 2, 2), value))
    with pytest.raises(DataError, match=r"a\.npy holds values that are NaN or infinite"):
        read_image(tmp_path / "a.npy").with_shape((1, 2, 2))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_picture_is_read_or_refused(form: str, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(picture(form))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "a.img").write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with contextlib.suppress(DataError):
        assert read_image(tmp_path / "a.img").pixels[3].size <= MAX_VALUES


def test_pixels_are_standardised_by_channel_and_left_alone_without_a_scale() -> None:
    pixels = torch.tensor([[[1.0]], [[5.0]]])  # (2, 1, 1)
    scale = Standardisation(mean=(1.0, 2.0), std=(2.0, 3.0))
    assert torch.equal(standardise(pixels, scale), torch.tensor([[[0.0]], [[1.0]]]))
    assert standardise(pixels, None) is pixels
