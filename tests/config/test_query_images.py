"""The images of a query are read at once, and put on the scale of any server's network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreduce.config.query_images import images_to_query
from deepreduce.config.schema import DataConfig
from deepreduce.data import Standardisation, load_source
from deepreduce.errors import DataError
from tests.helpers.private_servers import server_info

DIGITS = DataConfig(name="digits")
SERVER = dataclasses.replace(server_info("semi2k"), standardisation=Standardisation(mean=(80.0,), std=(90.0,)))


def test_a_file_and_a_test_image_of_the_same_pixels_are_the_same_query(tmp_path: Path) -> None:
    pixels = load_source("digits").test.images[300]  # (1, 8, 8)
    file = tmp_path / "image.npy"
    np.save(file, pixels.numpy())
    found = images_to_query(["300", str(file), "0"], DIGITS, seed=0)(SERVER)
    assert len(found) == 3 and found[2].shape == (1, 8, 8) and not torch.equal(found[0], found[2])
    for image in found[:2]:
        torch.testing.assert_close(image, (pixels.float() - 80) / 90)


def test_files_are_read_once_and_at_once(tmp_path: Path) -> None:
    file = tmp_path / "image.npy"
    np.save(file, np.ones((1, 8, 8)))
    on_scale_of = images_to_query([str(file)], DIGITS, seed=0)
    file.unlink()
    (image,) = on_scale_of(dataclasses.replace(SERVER, standardisation=None))
    assert torch.equal(image, torch.ones(1, 8, 8))


def test_images_that_no_server_or_not_this_one_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="image 359 is asked for; digits has 359 test images: give numbers from 0 to 358"
    ):
        images_to_query(["0", "359"], DIGITS, seed=0)
    with pytest.raises(DataError, match=r"none\.npy can't be read as an array: .*No such file"):
        images_to_query([str(tmp_path / "none.npy")], DIGITS, seed=0)
    other = dataclasses.replace(SERVER, input_shape=(3, 32, 32))
    with pytest.raises(
        DataError, match=r"a test image has shape \(1, 8, 8\); the server's network takes \(3, 32, 32\)"
    ):
        images_to_query(["0"], DIGITS, seed=0)(other)
