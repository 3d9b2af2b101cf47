"""Polish the masks of trained networks by swaps: block coordinate descent at a fixed count (arXiv 2511.11781).

The paper removes blocks of ReLUs at random, measures the accuracy on all training images, and finetunes after every
removal. Here the count is already right, and blocks are swapped: some ReLUs go, as many come back elsewhere. An
estimate to second order of what each image's loss changes says which,

    a unit that loses its ReLU:  mean q + mean(q^2) / 2        q = sum over its elements of dL/dy (z - relu(z))
    a unit that gets one:       -mean q + mean(q^2) / 2

The units that cost least to switch are paired, of one size each, and the best pairs make a block. A block is tried on
a cache of training images, with the network in evaluation mode, and stays only if the loss falls. The loss is that of
the distillation, which needs no labels: T^2 KL(teacher || student). The weights are trained all the while, and after
the last swap to the end. The network that one starts from is measured too, and is the result where it is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.methods.base import EarlierNetwork, Search, SearchContext, TrainingRequest, cost_of_step
from deepreduce.methods.budgets import MOST_POINTS, refuse_other_objectives
from deepreduce.methods.mask_learning import MaskLearner, Unit, learnable
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.methods.taylor import sum_to_units
from deepreduce.network import Network
from deepreduce.sites import PixelMask
from deepreduce.training import Distillation, PreparedStudent, RecipeChanges, TrainingState
from deepreduce.utils.fields import Count, Fraction, Listed, NotNegative, Positive

_DECAY = 0.9
"""Share of the older batches in the moving averages of the estimates."""
_EVALUATED = 256
"""Images of the cache that are computed at once."""


class BcdOptions(MethodOptions):
    """Options of the polish: which networks, how blocks are tried, and the training."""

    start: Annotated[tuple[str, ...], Listed, Field(min_length=1, max_length=MOST_POINTS)] | None = None
    """Folders of what is polished: of networks, as in RUN/candidates/ID, or of runs, for all of their networks."""
    budgets: Annotated[tuple[Count, ...], Listed, Field(min_length=1, max_length=MOST_POINTS)] | None = None
    """ReLU counts: for each, the network of `start` of the best validation accuracy that has no more; None: all."""
    block: Annotated[Fraction, Field(gt=0)] = 0.01
    """ReLUs of a block, as a share of the network's (the paper: 100 of about 10,000)."""
    tries: Count = 3
    """Blocks that are tried with one estimate, the best first (the paper: up to 100, at random)."""
    images: Count = 2048
    """Cached training images on which a block is tried (the paper: all)."""
    evaluations: Annotated[NotNegative, Field(le=100)] = 2.0
    """Forward passes for trying blocks, per image that is trained on while blocks are swapped."""
    swap: Annotated[Fraction, Field(gt=0)] = 0.5
    """Share of the training in which blocks are swapped; in the rest the masks stay."""
    score_every: Count = 4
    """Steps between one batch that estimates are made of and the next."""
    rate: Annotated[Positive, Field(le=100)] = 0.1
    """Learning rate, in the run's (the paper: 1e-3, in 20 epochs after each block)."""
    logits: Fraction = 0.9
    """Weight of the distillation in the loss of the training, that of the labels being the rest."""
    temperature: Annotated[Positive, Field(ge=1e-3, le=1e6)] = 4.0
    """Temperature of the distillation (the paper), in the place of distill.temperature."""


class Bcd:
    """Swap blocks of ReLUs of trained networks while the loss falls, and train them further."""

    name = "bcd"
    summary = "polish the masks of an earlier run: swaps of blocks that lower the loss on cached images"
    Options = BcdOptions
    paper = "Block coordinate descent, arXiv 2511.11781"
    unit = "as it starts"
    epochs = "20 for each block"

    def search(self, network: Network, options: BcdOptions, context: SearchContext) -> Search:
        """Request, for every network to start from, its measurement and its training; return the better of the two.

        Raises `PlanError` for an objective other than the ReLU count, and for networks that are no reduction of this
        one.
        """
        refuse_other_objectives(self.name, context)
        collected = Collector(network, context.estimator)
        starts: dict[EarlierNetwork, Proposal] = {}
        for start in _starts(options, context):
            proposal = _proposal(network, start, context)
            if context.limits.allow(proposal):
                starts[start] = proposal
            else:
                collected.leave_out(f"it has more than {context.limits.text()}", start.label)
        if not starts:
            return collected.proposals()  # raises why there is none
        epochs = context.budget.path_epochs(list(starts.values()))
        extra = options.evaluations * options.swap
        changes = RecipeChanges(
            optimizer="sgd",
            rate=options.rate,
            distillation=Distillation(temperature=options.temperature, weight=options.logits),
        )
        measured = {s: TrainingRequest(proposal=p, epochs=0.0, start=s) for s, p in starts.items()}
        polished = {
            start: TrainingRequest(
                proposal=replace(proposal, label=f"{proposal.label}, polished"),
                epochs=each / cost_of_step(extra),
                learner=SwapBlocks(
                    budget=proposal.relu_count, unit=_unit(start), block=options.block, tries=options.tries,
                    images=options.images, evaluations=options.evaluations, share=options.swap,
                    score_every=options.score_every, temperature=options.temperature,
                ),
                start=start,
                changes=changes,
                extra_forwards=extra,
            )
            for (start, proposal), each in zip(starts.items(), epochs, strict=True)
        }  # fmt: skip
        answers = yield [*measured.values(), *polished.values()]
        for start, proposal in starts.items():
            before, after = answers[measured[start]], answers[polished[start]]
            is_better = (after.val_accuracy or 0.0) >= (before.val_accuracy or 0.0)
            collected.add(after.proposal if is_better and after.proposal is not None else proposal)
        return replace(collected.proposals(), trained=frozenset(p.plan_id for p in collected.found))


def _starts(options: BcdOptions, context: SearchContext) -> list[EarlierNetwork]:
    """Return the networks to polish, most ReLUs first."""
    if options.start is None:
        raise PlanError(
            "method bcd polishes networks of an earlier run; name them, as in method.start=RUN or"
            " method.start=RUN/candidates/ID"
        )
    found = {network.plan.plan_id: network for folder in options.start for network in context.earlier(folder)}
    if options.budgets is None:
        return sorted(found.values(), key=lambda n: (-n.relu_count, n.plan.plan_id))
    chosen = {}
    for budget in sorted(options.budgets, reverse=True):
        fitting = [n for n in found.values() if n.relu_count <= budget]
        if not fitting:
            least = min(n.relu_count for n in found.values())
            raise PlanError(
                f"method.budgets has {budget:,}; the smallest network of method.start has {least:,} ReLUs"
            )
        best = max(fitting, key=lambda n: (n.val_accuracy, -n.relu_count))
        chosen[best.plan.plan_id] = best
    return list(chosen.values())


def _proposal(network: Network, start: EarlierNetwork, context: SearchContext) -> Proposal:
    """Return the network to start from as a proposal. Raises `PlanError` where it is no reduction of this network."""
    if (start.model_name, start.input_shape) != (network.name, network.input_shape):
        raise PlanError(
            f"{start.folder} is a reduction of {start.model_name} for images of {start.input_shape}, and this run's"
            f" network is {network.name} for {network.input_shape}; give the network that it was reduced from"
        )
    proposal = Proposal.of(network, start.plan, start.label, context.estimator)
    if proposal.relu_count != start.relu_count:
        raise PlanError(
            f"{start.folder} has {start.relu_count:,} ReLUs, and its plan leaves {proposal.relu_count:,} of this"
            f" run's {network.name}; give the network that it was reduced from, of the same width"
        )
    return proposal


def _unit(start: EarlierNetwork) -> Unit:
    """Return what is swapped: elements where any site has a mask of elements, else channels."""
    return "pixel" if any(isinstance(action, PixelMask) for _, action in start.plan.sites) else "channel"


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SwapBlocks:
    """Build the learner that swaps blocks of ReLUs in the first `share` of a training; `budget` stay at any time."""

    budget: int
    unit: Unit
    block: float = 0.01
    tries: int = 3
    images: int = 2048
    evaluations: float = 2.0
    share: float = 0.5
    score_every: int = 4
    temperature: float = 4.0

    def build(self, student: PreparedStudent) -> BlockSwapping:
        """Have a network trained in the student's place whose masks are swapped, from the student's own."""
        return BlockSwapping(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether these are the ReLUs that it began with."""
        return relu_count == self.budget


@dataclass(frozen=True)
class Swap:
    """A block that was tried: the loss on the cached images before it and with it, and the ReLUs that it moves."""

    before: float
    after: float
    relus: int

    @property
    def is_kept(self) -> bool:
        """Return whether the loss fell."""
        return self.after < self.before


class BlockSwapping(MaskLearner):
    """Swap blocks where the loss on cached images falls; a round of tries comes when steps have paid for it."""

    def __init__(self, options: SwapBlocks, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        if student.teacher is None:
            raise PlanError("blocks are tried by the distance from a teacher, and this training has none")
        self._options, self._teacher = options, student.teacher
        whole = learnable(student.original, self.network.base, unit=options.unit, seed=student.seed)
        self._able = {name: whole.layers[name].mask.clone() for name in self.network.layers}
        shapes = {name: layer.mask.shape for name, layer in self.network.layers.items()}
        self._means = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self._squares = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self._cache = torch.zeros(0)
        self._taught: Tensor | None = None
        self._scored = self._spent = self._batch = 0
        self.swaps: list[Swap] = []
        """Blocks that were tried in this process."""

    # -- hooks ------------------------------------------------------------------------------------------------

    def on_step_start(self, state: TrainingState) -> None:
        """Listen to the step's gradients where estimates are to be made of them."""
        if state.step < self._last(state) and state.step % self._options.score_every == 0:
            self._scored += 1
            for name, layer in self.network.layers.items():
                layer.listener = self._listener(name)

    def _listener(self, name: str) -> Any:
        mask = self.network.layers[name].mask

        def add(gradient: Tensor, removed: Tensor) -> None:
            # the loss is a mean over the batch: its gradient times the batch is that of each image's own loss
            change = sum_to_units(gradient.float() * removed.float() * len(gradient), mask)
            for averages, value in ((self._means, change.mean(0)), (self._squares, change.square().mean(0))):
                old = averages[name].to(value.device)
                averages[name] = old * _DECAY + value.reshape(old.shape) * (1 - _DECAY)

        def listen(removed: Tensor, output: Tensor) -> None:
            output.register_hook(lambda gradient: add(gradient, removed))  # type: ignore[no-untyped-call]

        return listen

    def loss_term(self, state: TrainingState, images: Tensor) -> None:
        """Keep images in the cache until it is full; add nothing to the loss."""
        self._batch = len(images)
        if self._taught is None and len(self._cache) < self._options.images and not self._spent:
            room = self._options.images - len(self._cache)
            kept = images.detach()[:room].half()
            self._cache = torch.cat([self._cache.to(kept.device), kept]) if len(self._cache) else kept.clone()

    def on_backward_end(self, state: TrainingState) -> None:
        """Stop listening."""
        for layer in self.network.layers.values():
            layer.listener = None

    def on_step_end(self, state: TrainingState) -> None:
        """Try blocks where that is paid for; once at least."""
        last = self._last(state)
        if state.step > last:
            return
        is_full = len(self._cache) >= self._options.images or state.step >= last / 4
        paid = self._options.evaluations * self._batch * state.step - self._spent
        is_due = paid >= (1 + self._options.tries) * len(self._cache)
        if (is_full and is_due and self._options.evaluations) or (state.step == last and not self._spent):
            self._try_blocks()

    def _last(self, state: TrainingState) -> int:
        return max(round(self._options.share * state.total_steps), 1)

    # -- swaps ------------------------------------------------------------------------------------------------

    def _try_blocks(self) -> None:
        before = self.cached_loss()
        for block in self._blocks():
            masks = {name: layer.mask.clone() for name, layer in self.network.layers.items()}
            relus = self._switch(block)
            swap = Swap(before, self.cached_loss(), relus)
            self.swaps.append(swap)
            if swap.is_kept:
                before = swap.after
            else:
                for name, layer in self.network.layers.items():
                    layer.mask.copy_(masks[name])
        self._spent += (1 + self._options.tries) * len(self._cache)

    @torch.no_grad()
    def cached_loss(self) -> float:
        """Return the loss on the cached images, T^2 KL(teacher || student), of the network as it is in evaluation."""
        module, temperature = self.network.module, self._options.temperature
        device = next(module.parameters()).device
        parts = [part.to(device).float() for part in torch.split(self._cache, _EVALUATED)]
        if self._taught is None:
            self._taught = torch.cat([self._teacher(part).float() for part in parts])
        module.eval()
        logits = torch.cat([module(part).float() for part in parts])
        module.train()
        taught = F.log_softmax(self._taught / temperature, dim=1)
        own = F.log_softmax(logits / temperature, dim=1)
        return temperature**2 * float(F.kl_div(own, taught, reduction="batchmean", log_target=True))

    def _blocks(self) -> list[NDArray[np.int64]]:
        """Return the best blocks, each of pairs (n, 2): numbers of the units that lose their ReLU and that get it."""
        costs, masks, able = self._flat("costs"), self._flat("masks"), self._flat("able")
        weight = 1 - _DECAY ** max(self._scored, 1)  # the averages begin at 0
        means, squares = self._flat("means") / weight, self._flat("squares") / weight
        off, on = means + squares / 2, -means + squares / 2
        pairs, worth = [], []
        for cost in np.unique(costs):
            losing = np.flatnonzero((costs == cost) & (masks > 0))
            getting = np.flatnonzero((costs == cost) & (masks == 0) & (able > 0))
            losing = losing[np.argsort(off[losing], kind="stable")]
            getting = getting[np.argsort(on[getting], kind="stable")]
            count = min(len(losing), len(getting))
            pairs.append(np.stack([losing[:count], getting[:count]], axis=1))
            worth.append((off[losing[:count]] + on[getting[:count]]) / cost)
        order = np.argsort(np.concatenate(worth), kind="stable")
        ranked = np.concatenate(pairs)[order]
        spent = np.cumsum(costs[ranked[:, 0]])
        blocks: list[NDArray[np.int64]] = []
        begin = 0
        while begin < len(ranked) and len(blocks) < self._options.tries:
            done = spent[begin - 1] if begin else 0
            end = int(np.searchsorted(spent, done + self._options.block * self._options.budget, side="right"))
            end = max(end, begin + 1)
            blocks.append(ranked[begin:end])
            begin = end
        return blocks

    def _flat(self, what: str) -> NDArray[np.float64]:
        """Return a number of every unit, site by site."""
        layers = self.network.layers
        by_site: Mapping[str, Tensor] = {
            "costs": {n: torch.full(layer.mask.shape, layer.cost) for n, layer in layers.items()},
            "masks": {n: layer.mask for n, layer in layers.items()},
            "able": self._able,
            "means": self._means,
            "squares": self._squares,
        }[what]
        return np.concatenate([by_site[name].cpu().double().numpy().ravel() for name in layers])

    def _switch(self, block: NDArray[np.int64]) -> int:
        """Switch the units of a block; return the ReLUs that move."""
        masks = self._flat("masks") > 0
        masks[block[:, 0]], masks[block[:, 1]] = False, True
        begin = 0
        for layer in self.network.layers.values():
            end = begin + layer.mask.numel()
            layer.mask.copy_(torch.from_numpy(masks[begin:end]).view_as(layer.mask))
            begin = end
        return int(self._flat("costs")[block[:, 0]].sum())

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return masks, averages, the cached images, and what was scored and spent."""
        averages = {f"mean.{name}": value for name, value in self._means.items()}
        averages |= {f"square.{name}": value for name, value in self._squares.items()}
        counts = {"scored": self._scored, "spent": self._spent, "batch": self._batch}
        return {**super().state_dict(), **averages, **counts, "cache": self._cache}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it over."""
        super().load_state_dict(state)
        self._scored, self._spent, self._batch = (int(state[key]) for key in ("scored", "spent", "batch"))
        self._means = {n: state[f"mean.{n}"].reshape(value.shape) for n, value in self._means.items()}
        self._squares = {n: state[f"square.{n}"].reshape(value.shape) for n, value in self._squares.items()}
        self._cache, self._taught = state["cache"], None
