"""Read labelled images from an npz file: sizes and types are judged before anything is unpacked."""

from __future__ import annotations

import ast
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from deepreduce.data.images import first_line
from deepreduce.errors import DataError
from deepreduce.utils.memory import check_memory
from deepreduce.utils.text import one_line, shown

WANTED = ("x_train", "y_train", "x_test", "y_test")
_MAGIC = b"\x93NUMPY"
_MOST_HEADER_BYTES = 10_000  # as NumPy allows
_BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """The shape, type and memory order of an array, which stand before its values in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An npz file whose headers have been read; `load` unpacks one of its arrays.

    Raises `DataError`, with the path, for a file that is damaged, needs pickle, or lacks one of `WANTED`.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"there is no file {path}; give npz:FILE")
        self.path = path
        try:
            self.headers = self._read_headers()
        except DataError:
            raise
        except Exception as error:  # NumPy's and zipfile's readers raise errors of any kind for damaged bytes
            raise self._broken(error) from error

    def load(self, key: str) -> NDArray[Any]:
        """Return an array, which must have a plain type. Raises `DataError` if its bytes are damaged."""
        header = self.headers[key]
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as file:
                _read_header(file)
                values = np.empty(header.num_bytes, dtype=np.uint8)
                _fill(file, values.data)
        except Exception as error:  # as above
            raise self._broken(error) from error
        found: NDArray[Any] = values.view(header.dtype)
        return found.reshape(header.shape, order="F" if header.fortran_order else "C")

    def check_memory(self, keys: tuple[str, ...]) -> None:
        """Raise `DataError` if the arrays, and a copy of the largest, exceed the free memory."""
        sizes = [self.headers[key].num_bytes for key in keys]
        check_memory(
            sum(sizes) + max(sizes), f"{self.path}: unpacking its arrays", repair="use fewer images", error=DataError
        )

    def _read_headers(self) -> Mapping[str, ArrayHeader]:
        with self.path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise DataError(
                    f"{self.path} holds one array; it needs {', '.join(WANTED)}, as numpy.savez writes them"
                )
        with zipfile.ZipFile(self.path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            missing = [key for key in WANTED if key not in names]
            if missing:
                has = one_line(", ".join(names), 300) or "nothing"
                raise DataError(f"{self.path} lacks {', '.join(missing)}; it needs {', '.join(WANTED)} and has {has}")
            found = {}
            for key in (*WANTED, "classes"):
                if names.count(key) > 1:
                    raise DataError(f"{self.path} holds {key} twice; write the file with numpy.savez")
                if key in names:
                    with archive.open(f"{key}.npy") as member:
                        found[key] = _read_header(member)
        return found

    def _broken(self, error: Exception) -> DataError:
        return DataError(f"{self.path} can't be read as an npz file: {one_line(first_line(error), 200)}")


def _read_header(file: IO[bytes]) -> ArrayHeader:
    """Read the header of an array, as NumPy's format description has it. Raises `ValueError`."""
    start = file.read(8)
    if len(start) < 8 or not start.startswith(_MAGIC) or start[6] not in (1, 2, 3):
        raise ValueError("an array in it does not begin as numpy.save writes it")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"the header of an array in it has {length:,} bytes")
    text = file.read(length).decode("utf-8" if start[6] == 3 else "latin-1")
    fields = ast.literal_eval(text)
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"the header of an array in it is {shown(fields)}")
    shape, order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 8:
        raise ValueError(f"an array in it has the shape {shown(shape)}")
    if type(order) is not bool or not isinstance(fields["descr"], str):
        raise ValueError(f"an array in it has the type {shown(fields['descr'])}, which no image or label has")
    dtype = np.dtype(fields["descr"])
    if dtype.hasobject:
        raise ValueError("an array in it holds objects of Python, which would need pickle")
    return ArrayHeader(shape=shape, dtype=dtype, fortran_order=order)


def _fill(file: IO[bytes], values: memoryview) -> None:
    """Read exactly as many bytes as there is room for, and the check sum behind them. Raises `ValueError`."""
    place = 0
    while place < len(values):
        block = file.read(min(_BLOCK, len(values) - place))
        if not block:
            raise ValueError(f"an array in it ends after {place:,} of {len(values):,} bytes")
        values[place : place + len(block)] = block
        place += len(block)
    if file.read(1):  # zipfile compares the check sum only when it comes to the end
        raise ValueError("an array in it has more bytes than its shape says")
