"""Feature maps of a student in training and of its teacher, and the loss by which the student's attention follows.

Attention transfer (Zagoruyko and Komodakis, arXiv 1612.03928), which SENet calls post-activation mismatch (PRAM):
with f the output of a stage, of C channels,

    A(f) = flatten(mean over C of f^2), divided by its norm
    loss = sum over stages of mean((A(f of the student) - A(f of the teacher))^2)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.methods.mask_learning import LearnableNetwork, learnable
from deepreduce.network import Network
from deepreduce.network.copying import copy_module
from deepreduce.network.network import SITE
from deepreduce.training import PreparedStudent, TrainingCallback, TrainingState

Reader = Callable[[str, Tensor], None]


class _Tap(nn.Module):
    """Hands what passes through it to a reader, with the name of a site."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.reader: Reader | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.reader is not None:
            self.reader(self.site, x)
        return x


class TeacherFeatures:
    """A copy of the teacher that is computed as far as the last of some ReLU sites, and whose outputs there are read.

    A pass through it costs about a forward pass of the full network.
    """

    def __init__(self, student: PreparedStudent, sites: Collection[str]) -> None:
        """Copy the teacher of a student. Raises `PlanError` where there is none."""
        if student.teacher is None:
            raise PlanError("feature maps are matched with a teacher's, and this training has no teacher")
        self._module, self._taps = _tapped(student.original, sites)
        self._module.load_state_dict(student.teacher.state_dict())
        self._module.eval().requires_grad_(False)

    @torch.no_grad()
    def read(self, images: Tensor, reader: Reader, *, bf16: bool) -> None:
        """Compute images (batch, C, H, W) and hand each site's name and output to the reader, in network order.

        `bf16` says whether in bfloat16 autocast, as the student is trained.
        """
        self._module.to(images.device)
        for tap in self._taps:
            tap.reader = reader
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            self._module(images)
        for tap in self._taps:
            tap.reader = None


def _tapped(original: Network, sites: Collection[str]) -> tuple[nn.Module, list[_Tap]]:
    """Return a copy of the network that ends behind the last of the sites, with a tap behind each."""
    module, taps = copy_module(original.module), list[_Tap]()
    graph = module.graph
    last = None
    for node in list(graph.nodes):
        if SITE in node.meta and node.meta[SITE][0] in sites:
            tap = _Tap(node.meta[SITE][0])
            module.add_submodule(path := f"deepreduce_tap_{len(taps)}", tap)
            taps.append(tap)
            with graph.inserting_after(node):
                last = graph.call_module(path, (node,))
    for node in reversed(list(graph.nodes)):
        if node is last:
            break
        graph.erase_node(node)
    graph.output(last)
    module.recompile()
    return module, taps


def attention_map(features: Tensor) -> Tensor:
    """Return A(f) of feature maps (batch, C, H, W), float32 (batch, H * W), of norm 1."""
    return F.normalize(features.float().square().mean(1).flatten(1), dim=1)


def stage_ends(network: Network) -> tuple[str, ...]:
    """Return the last ReLU site of each stage whose output is a feature map of more than one position."""
    ends = {}
    for site in network.sites:
        if site.has_batch and len(site.shape) == 3 and site.shape[1] * site.shape[2] > 1:
            ends[site.stage] = site.name
    return tuple(ends.values())


@dataclass(frozen=True, kw_only=True)
class MatchAttention:
    """Build callbacks that add `weight` times the attention loss at the sites `at`, whose masks stay as they are."""

    weight: float
    at: tuple[str, ...]

    def build(self, student: PreparedStudent) -> AttentionMatching:
        """Have a network trained in the student's place whose outputs at these sites can be read."""
        return AttentionMatching(self, student)


class AttentionMatching(TrainingCallback):
    """Add the attention loss to each step's; keeps no state."""

    def __init__(self, options: MatchAttention, student: PreparedStudent) -> None:
        self._weight = options.weight
        self._network: LearnableNetwork = learnable(student.original, student.plan, unit="pixel", seed=student.seed)
        self._replaced, student.module = student.module, self._network.module
        self._network.module.load_state_dict(self._replaced.state_dict())
        self._teacher = TeacherFeatures(student, options.at)
        self._maps: dict[str, Tensor] = {}
        self._bf16 = False
        for name in options.at:
            self._network.layers[name].register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            if layer.training:
                self._bf16 = output.dtype == torch.bfloat16
                self._maps[name] = attention_map(output)

        return keep

    def loss_term(self, state: TrainingState, images: Tensor) -> Tensor:
        """Return the weighted sum over the sites, a scalar."""
        terms = []

        def compare(name: str, features: Tensor) -> None:
            terms.append((name, attention_map(features)))

        self._teacher.read(images, compare, bf16=self._bf16)
        losses = [F.mse_loss(self._maps[name], taught) for name, taught in terms]
        self._maps = {}
        return self._weight * torch.stack(losses).sum()

    def on_end(self, state: TrainingState) -> None:
        """Copy the weights to the module that this one has replaced."""
        self._replaced.load_state_dict(self._network.module.state_dict())
