"""Inputs that are files: npz archives, folders of pictures, a query's images, networks in Python files."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deepreduce.config.inputs import load_data
from deepreduce.config.schema import DataConfig
from deepreduce.private.images import read_image
from fuzzing.damage import VALUES, changed_bytes, damage_file
from fuzzing.harness import Input, Step
from fuzzing.words import TINY


def _arrays(dice: random.Random) -> dict[str, Any]:
    values = np.random.default_rng(dice.randrange(2**32))
    return {
        "x_train": values.integers(0, 256, (80, 8, 8, 3), np.uint8),
        "y_train": np.arange(80) % 4,
        "x_test": values.integers(0, 256, (16, 8, 8, 3), np.uint8),
        "y_test": np.arange(16) % 4,
    }


class NpzFiles:
    """npz files: damaged bytes, wrong headers, wrong arrays, bombs. Each is planned, which reads all of it."""

    name = "npz"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        arrays = _arrays(dice)
        path, good = folder / "d.npz", folder / "good.npz"
        (np.savez if dice.random() < 0.5 else np.savez_compressed)(good, **arrays)
        kind, comparable = dice.choice(["bytes", "bytes", "header", "array", "bomb", "zip"]), False
        if kind == "bytes":
            path.write_bytes(changed_bytes(dice, good.read_bytes()))
            comparable = True
        elif kind == "array":
            np.savez(path, **self._changed_arrays(dice, arrays))
        else:
            self._write_members(dice, path, arrays, kind)
        (folder / "config.yaml").write_text(yaml.safe_dump({**TINY, "data": {"name": f"npz:{path}"}}))
        right = load_data(DataConfig(name=f"npz:{good}"), seed=0).fingerprint

        def silent(found: list[Any]) -> str:
            same = load_data(DataConfig(name=f"npz:{path}"), seed=0).fingerprint == right
            return "" if same or not comparable else "other images or labels were read"

        return Input(
            text=f"{kind} {path.read_bytes()[:80]!r}",
            steps=[["optimize", "--config", str(folder / "config.yaml"), "--dry-run"]],
            silent=silent,
        )

    def _changed_arrays(self, dice: random.Random, arrays: dict[str, Any]) -> dict[str, Any]:
        key = dice.choice(list(arrays))
        value = arrays[key]
        kinds = ["f4", "f8", "i1", "i8", "u8", "c8", "?", "S3", "U3", "M8[s]", ">i4", "f2", "g"]
        with np.errstate(all="ignore"):
            changes = [
                lambda: value.astype(dice.choice(kinds)),
                lambda: value[: dice.randrange(len(value))],
                lambda: value.reshape(-1),
                lambda: value[None],
                lambda: value[..., :0],
                lambda: value[::-1].T,
                lambda: np.array(dice.choice([0, 1.5, "x", b"x"])),
                lambda: np.full(value.shape, dice.choice([np.nan, np.inf, -1, 0.5, 1e300, 2**40])),
                lambda: value + dice.choice([1, -1, 100, 2**40]),
                lambda: np.zeros_like(value),
            ]
            changed: dict[str, Any] = {**arrays, key: dice.choice(changes)()}
        if dice.random() < 0.2:
            del changed[dice.choice(list(changed))]
        if dice.random() < 0.2:
            changed["classes"] = dice.choice([np.array(["a"] * 4), np.array(4), np.zeros((2, 2)), np.zeros(10**6)])
        return changed

    def _write_members(self, dice: random.Random, path: Path, arrays: dict[str, Any], kind: str) -> None:
        method = dice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        chosen = dice.choice(list(arrays))
        with zipfile.ZipFile(path, "w", method) as archive:
            for key, value in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, value)
                content = buffer.getvalue()
                if key == chosen and kind == "header":
                    content = self._other_header(dice, content)
                if key == chosen and kind == "bomb":
                    content = self._bomb(dice)
                archive.writestr(f"{key}.npy", content)
        if kind == "zip":  # of the archive's own fields, at its end
            whole = bytearray(path.read_bytes())
            for _ in range(dice.choice([1, 4, 16])):
                whole[-1 - dice.randrange(300)] = dice.randrange(256)
            path.write_bytes(whole)

    def _other_header(self, dice: random.Random, content: bytes) -> bytes:
        length = 10 + int.from_bytes(content[8:10], "little")
        header, body = content[10:length], content[length:]
        sizes = [10**30, 2**62, 2**40, 10**9, 0, -1, 79, 81]
        header = dice.choice([
            changed_bytes(dice, header),
            header.replace(b"(", b"(" + str(dice.choice(sizes)).encode() + b", "),
            header.replace(b"|u1", dice.choice([b"|O8", b"<f8", b"<U9", b"V999", b"zz"])),
            b"{" * dice.choice([1, 500]), str(dice.choice(VALUES))[:5000].encode("utf-8", "replace"),
        ])  # fmt: skip
        return (
            content[:6]
            + bytes([dice.choice([1, 2, 3, 9]), 0])
            + struct.pack("<H", min(len(header), 65_535))
            + header
            + body
        )

    def _bomb(self, dice: random.Random) -> bytes:
        shape = dice.choice(["(200000000,)", "(100, 1000, 2000)", "(25000, 100, 100)", "(1, 20000, 9000)"])
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
        size = dice.choice([10, 50_000_000, 250_000_000])
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(size)


def png(width: int, height: int, *, rows: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """Return a picture whose header claims these sizes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def hostile_picture(dice: random.Random, good: bytes) -> bytes:
    """Return a damaged picture, or one of another kind or size than it claims."""
    choices = [
        png(dice.choice([0, 1, 30_000, 2**31 - 1]), dice.choice([1, 30_000, 2**31 - 1])),
        png(20_000, 20_000, rows=bytes(20_001 * 2_000)),
        png(8, 8, depth=dice.choice([0, 3, 16, 255]), colour=dice.choice([0, 2, 3, 7])),
        png(100_000, 1, rows=bytes(100_001)), b"", b"GIF89a", b"\xff\xd8\xff", b"<svg/>", b"P6 99999 99999 255\n", b"BM" + bytes(60),
        good[: dice.randrange(33)], changed_bytes(dice, good[:60]) + good[60:],
    ]  # fmt: skip
    return changed_bytes(dice, good) if dice.random() < 0.4 else dice.choice(choices)


def _picture(dice: random.Random, form: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(dice.randrange(2**32)).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class ImageFolders:
    """Folders of pictures with one file damaged, replaced, or of hostile size. All pictures are decoded."""

    name = "images"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        form = dice.choice(["png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"])
        paths = []
        for part, count in (("train", 6), ("test", 2)):
            for name in ("cat", "dog"):
                for i in range(count):
                    paths.append(folder / "d" / part / name / f"{i}.{form}")
                    paths[-1].parent.mkdir(parents=True, exist_ok=True)
                    paths[-1].write_bytes(_picture(dice, form))
        done = []
        for path in dice.sample(paths, dice.choice([1, 1, 3])):
            if dice.random() < 0.5:
                path.write_bytes(hostile_picture(dice, path.read_bytes()))
                done.append(f"{path.name} {path.read_bytes()[:40]!r}")
            else:
                done.append(f"{path.name} {damage_file(dice, path, others=paths)}")
        size = dice.choice([16, 16, 32])
        config = DataConfig(name=f"imagefolder:{folder / 'd'}", image_size=size, val_fraction=0.3)
        return Input(text=f"{form}: {'; '.join(done)}"[:400], steps=[lambda: _decode_all(config)])


def _decode_all(config: DataConfig) -> int:
    import torch

    images = load_data(config, seed=0)
    device = torch.device("cpu")
    parts = [split.eval_batches(batch_size=8, device=device) for split in (images.train, images.val, images.test)]
    return sum(len(labels) for part in parts for _, labels in part)


class QueryImages:
    """Images of 'deepreduce private query --image', read as a client reads them."""

    name = "queries"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        if dice.random() < 0.5:
            path = folder / f"q.{dice.choice(['png', 'jpeg', 'bmp', 'tiff', 'weird', 'gif'])}"
            path.write_bytes(hostile_picture(dice, _picture(dice, dice.choice(["png", "jpeg", "bmp", "gif"]))))
        else:
            path = folder / "q.npy"
            self._write_array(dice, path)
        text = f"{path.name} {path.read_bytes()[:100]!r}"
        if dice.random() < 0.15:
            text = f"{path.name} {damage_file(dice, path, others=[path])}"
        shape = dice.choice([(1, 8, 8), (3, 12, 10), (3, 8, 8)])
        return Input(text=text, steps=[lambda: read_image(path).with_shape(shape)])

    def _write_array(self, dice: random.Random, path: Path) -> None:
        buffer = io.BytesIO()
        value: Any = np.zeros(dice.choice([(8, 8), (3, 8, 8), (8, 8, 3), (1, 8, 8), (), (0,), (2, 2, 2, 2)]))
        value = value.astype(dice.choice(["f8", "u1", "i8", "c8", "?", "S4", "U4", "M8[s]", "f2"]))
        if dice.random() < 0.2:
            value = np.full(value.shape, dice.choice([np.nan, np.inf, 1e300]))
        np.save(buffer, value)
        content = buffer.getvalue()
        if dice.random() < 0.6:
            content = changed_bytes(dice, content[:128]) + content[128:]
        if dice.random() < 0.3:
            content = content.replace(
                b"(8, 8", b"(" + dice.choice([b"10**30", b"9" * 30, b"99999999999", b"-1"]) + b", 8"
            )
        path.write_bytes(content)


_NETWORK = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.Linear(4, CLASSES)
    def forward(self, x):
        y = torch.relu(self.conv(x))
        return self.fc(y.mean((2, 3)))
def f(num_classes=10, in_channels=3):
    RETURN
"""
_RETURNS = (
    "return Net()", "return Net().double()", "return Net().half()", "return Net().bfloat16()", "return Net().to('meta')",
    "return Net().requires_grad_(False)", "return Net", "return None", "return 5", "return [Net()]", "return f", "yield Net()",
    "raise ValueError('x' * 10**6)", "raise SystemExit(3)", "raise KeyboardInterrupt", "return f()",
    "raise RuntimeError('a\\nb')", "import absent", "return nn.Identity()", "return nn.Sequential()", "return nn.ReLU()",
    "return nn.LazyLinear(10)", "n = Net(); n.fc.weight.data.fill_(float('nan')); return n", "return Net().eval()",
    "n = Net(); n.forward = None; return n", "n = Net(); n.forward = lambda x: x; return n", "return torch.jit.script(Net())",
    "n = Net(); n.forward = lambda x: (x, x); return n", "n = Net(); n.forward = lambda: 1; return n", "1 / 0",
    "n = Net(); n.forward = lambda x: {}; return n", "n = Net(); n.forward = lambda x: 'text'; return n",
    "n = Net(); n.forward = lambda x: 1 / 0; return n", "return torch.zeros(3)", "import sys; sys.path.clear(); return Net()",
    "return nn.DataParallel(Net())", "return nn.ModuleList([Net()])", "return torch.nn.utils.weight_norm(nn.Linear(3, 3))",
)  # fmt: skip


class Networks:
    """Networks in files of Python: factories that return something else, raise, or are damaged text."""

    name = "networks"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        source = _NETWORK.replace("RETURN", dice.choice(_RETURNS))
        source = source.replace("CHANNELS", dice.choice(["1"] * 9 + ["3", "0", "-1", "10**6"]))
        source = source.replace("CLASSES", dice.choice(["10"] * 9 + ["7", "0", "-1", "2.5"]))
        content = source.encode()
        if dice.random() < 0.1:
            content = content[: dice.randrange(len(content))] + dice.choice([b"", b"\xff", b"\0", b"(", b"\t"])
        path = folder / dice.choice(["net.py", "n e t.py", "torch.py", "é.py"])
        path.write_bytes(content)
        name = f"{path}:{dice.choice(['f'] * 20 + ['Net', 'torch', 'absent', '__name__', 'x y', ''])}"
        tiny = {**TINY, "model": {"name": name}, "method": {"rhos": [1.0]}}
        (folder / "config.yaml").write_text(yaml.safe_dump(tiny))
        analyze: Step = ["analyze", "--model", name, "--in-channels", "1", "--input-size", "8"]
        plan: Step = ["optimize", "--config", str(folder / "config.yaml"), "--dry-run"]
        return Input(
            text=repr(content[-200:])[:300] + name[-20:],
            steps=[analyze] if dice.random() < 0.4 else [plan],
            warns=True,
        )
