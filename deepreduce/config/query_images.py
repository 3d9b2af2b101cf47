"""Read the images of a query before a server waits for them: files of pixel values, and test images by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from pathlib import Path

import torch
from torch import Tensor

from deepreduce.config.inputs import load_data
from deepreduce.config.schema import DataConfig
from deepreduce.data import ImageData, Standardisation
from deepreduce.errors import DataError
from deepreduce.private.handshake import ServerInfo
from deepreduce.private.images import read_image, standardise

_BATCH = 256


def images_to_query(
    names: Sequence[str], data: DataConfig, *, seed: int
) -> Callable[[ServerInfo], tuple[Tensor, ...]]:
    """Read images now, before a server waits for them; return what puts them on a server's scale.

    Each of `names` is a path, or the number of one of `data`'s test images. The function that is returned takes what
    a server said of its network and returns the images (C, H, W), standardised; it raises `DataError` if one has
    another shape. Raises `DataError` for a file that can't be read and a number that `data` does not have.
    """
    files = {name: read_image(Path(name)) for name in names if not name.isdecimal()}
    numbers = {name: int(name[:18]) for name in names if name.isdecimal()}  # longer ones exceed every data set too
    found = load_data(data, seed=seed) if numbers else None
    tests = _test_images(found, set(numbers.values())) if found is not None else {}
    own = found.standardisation if found is not None else None

    def on_scale_of(server: ServerInfo) -> tuple[Tensor, ...]:
        return tuple(
            standardise(files[name].with_shape(server.input_shape), server.standardisation)
            if name in files
            else _on_scale_of(server, tests[numbers[name]], own)
            for name in names
        )

    return on_scale_of


def _test_images(data: ImageData, numbers: Set[int]) -> dict[int, Tensor]:
    """Return the test images (C, H, W) of those numbers, standardised. Raises `DataError` if there are fewer."""
    if max(numbers) >= len(data.test):
        raise DataError(
            f"image {max(numbers):,} is asked for; {data.name} has {len(data.test):,} test images: give numbers from"
            f" 0 to {len(data.test) - 1:,}"
        )
    found: dict[int, Tensor] = {}
    begin = 0
    for batch, _ in data.test.eval_batches(batch_size=_BATCH, device=torch.device("cpu")):
        found |= {number: batch[number - begin].clone() for number in numbers if begin <= number < begin + len(batch)}
        begin += len(batch)
        if begin > max(numbers):
            break
    return found


def _on_scale_of(server: ServerInfo, image: Tensor, own: Standardisation | None) -> Tensor:
    """Return a test image (C, H, W) that was standardised with `own` on the server's scale, which may be another."""
    if tuple(image.shape) != server.input_shape:
        raise DataError(
            f"a test image has shape {tuple(image.shape)}; the server's network takes {server.input_shape} (C, H, W)"
        )
    if own is None or server.standardisation is None:
        return image
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std))
    return standardise(image * std + mean, server.standardisation)
