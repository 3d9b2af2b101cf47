"""Pixels are read from arrays and pictures in any usual order, and put on the network's scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepreduce.data import Standardisation
from deepreduce.errors import DataError
from deepreduce.private.images import MAX_VALUES, read_image, standardise

COLOUR = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


@pytest.mark.parametrize("stored", [COLOUR, COLOUR.transpose(1, 2, 0)], ids=["C, H, W", "H, W, C"])
def test_an_array_is_read_in_either_order_of_dimensions(stored: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", stored)
    assert torch.equal(read_pixels(tmp_path / "image.npy", (3, 4, 5)), torch.from_numpy(COLOUR).float())


def test_a_grey_array_needs_no_channel_dimension(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", COLOUR[0])
    assert torch.equal(read_pixels(tmp_path / "grey.npy", (1, 4, 5)), torch.from_numpy(COLOUR[:1]).float())


def test_a_picture_is_read_in_colour_or_grey_as_the_network_takes_it(tmp_path: Path) -> None:
    Image.fromarray(COLOUR.transpose(1, 2, 0)).save(tmp_path / "picture.png")
    assert torch.equal(read_pixels(tmp_path / "picture.png", (3, 4, 5)), torch.from_numpy(COLOUR).float())
    assert read_pixels(tmp_path / "picture.png", (1, 4, 5)).shape == (1, 4, 5)


def test_another_shape_is_refused_with_the_shape_that_the_network_takes(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", COLOUR)
    with pytest.raises(DataError, match=r"image.npy has shape \(3, 4, 5\); the server's network takes \(3, 8, 8\)"):
        read_pixels(tmp_path / "image.npy", (3, 8, 8))


@pytest.mark.parametrize(("name", "message"), [("a.npy", "read as an array"), ("a.png", "read as a picture")])
@pytest.mark.parametrize("content", [None, b"nothing of the kind"])
def test_a_file_that_can_not_be_read_is_named(name: str, message: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} can't be {message}"):
        read_pixels(tmp_path / name, (3, 4, 5))


def test_pixels_are_standardised_by_channel_and_left_alone_without_a_scale() -> None:
    pixels = torch.tensor([[[1.0]], [[5.0]]])  # (2, 1, 1)
    scale = Standardisation(mean=(1.0, 2.0), std=(2.0, 3.0))
    assert torch.equal(standardise(pixels, scale), torch.tensor([[[0.0]], [[1.0]]]))
    assert standardise(pixels, None) is pixels
