#!/usr/bin/env python3
"""Compare our training loop with a bare PyTorch loop over one batch in memory (docs/performance.md).

Our loop draws and augments every batch, clips the gradient, checks the loss and can be stopped. For a distilled
student it also reads the teacher's cached logits. Rounds of the three ways to train are taken in turns.

python scripts/bench_training.py [--threads 1] [--rounds 5] [--steps 30]
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from deepreduce.data import Augmentation, ImageArrays, ImageData, RawData, prepare
from deepreduce.data.prepare import Preparation
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.training import AugmentationSchedule, LogitsCache, Precision, Recipe, Teacher, train

CPU = torch.device("cpu")
NETWORKS = [  # name, width, image size, channels, batch
    ("resnet18", 16, 32, 3, 128),
    ("resnet18", 64, 8, 1, 64),
    ("vgg16_bn", 16, 32, 3, 128),
]


def noise(size: int, channels: int, count: int) -> ImageData:
    """Return `count` images of noise to train with, and a few to validate with."""
    val = 16
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> ImageArrays:
        pixels = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
        return ImageArrays(images=pixels, labels=torch.arange(n) % 10)

    raw = RawData(
        name="noise", train=images(count + val), test=images(16), num_classes=10,
        augmentation=Augmentation(pad=4, flip=True),
    )  # fmt: skip
    return prepare(raw, Preparation(val_fraction=val / (count + val)), seed=0)


class Bench:
    """Three ways to train the same network, each of which takes `steps` steps and returns seconds per step."""

    def __init__(self, name: str, width: int, size: int, channels: int, batch: int, steps: int, folder: Path) -> None:
        spec = resolve_spec(name, width=width, in_channels=channels, num_classes=10)
        module = trace_network(build_model(spec, seed=0), (channels, size, size), spec=spec).module
        self.modules = [copy.deepcopy(module) for _ in range(3)]
        self.precision = Precision(bf16=True, channels_last=True)
        self.data, self.steps, self.batch = noise(size, channels, batch * steps), steps, batch
        self.recipe = Recipe(epochs=1, batch_size=batch, learning_rate=0.01, warmup_epochs=0)
        self.schedule = AugmentationSchedule(seed=0, epochs=1)
        cache = LogitsCache(folder / "answers", epochs=1, steps=steps, batch_size=batch, num_classes=10)
        teacher = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.teacher = Teacher(teacher, precision=self.precision, cache=cache)
        images, labels, _ = next(self.data.train.train_batches(batch_size=batch, seed=0, epoch=0, device=CPU))
        self.images, self.labels = images.contiguous(memory_format=torch.channels_last), labels

    def bare(self) -> float:
        """Train with forward pass, loss, backward pass and optimizer step only; return seconds per step."""
        module = self.modules[0].to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
        begin = time.perf_counter()
        for _ in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = module(self.images)
            F.cross_entropy(logits.float(), self.labels).backward()
            optimizer.step()
        return (time.perf_counter() - begin) / self.steps

    def student(self, teacher: Teacher | None = None) -> float:
        """Train one epoch with our loop; return seconds per step."""
        begin = time.perf_counter()
        train(
            self.modules[1 if teacher is None else 2], self.data, self.recipe, seed=0, precision=self.precision,
            device=CPU, teacher=teacher, schedule=self.schedule,
        )  # fmt: skip
        return (time.perf_counter() - begin) / self.steps

    def distilled(self) -> float:
        """Train one epoch with our loop and a teacher whose logits are cached; return seconds per step."""
        return self.student(self.teacher)


def summary(ratios: list[float]) -> str:
    """Return the median and the quartiles."""
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are counted; one more round comes first")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'network':<32} {'bare img/s':>10}  {'student / bare':<24} distilled / bare", flush=True)
    for name, width, size, channels, batch in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, width, size, channels, batch, options.steps, Path(folder))
            rounds = [(bench.bare(), bench.student(), bench.distilled()) for _ in range(options.rounds + 1)][
                1:
            ]  # the first one allocates, and fills the cache
        rate = batch / statistics.median(bare for bare, _, _ in rounds)
        student = summary([ours / bare for bare, ours, _ in rounds])
        distilled = summary([ours / bare for bare, _, ours in rounds])
        what = f"{name} width {width}, {size}x{size}, batch {batch}"
        print(f"{what:<32} {rate:>10.0f}  {student:<24} {distilled}", flush=True)


if __name__ == "__main__":
    main()
