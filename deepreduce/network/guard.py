"""Check that a traced network is the user's module, by running copies of both; the module stays as it was.

Compared are, for a few images and from one random seed:

- the logits in evaluation mode and in training mode, bit by bit, and how much was drawn at random;
- the ReLUs that execute in the user's module, counted without the graph, and those of the network's sites;
- the parameters and buffers by name, and after one backward pass every gradient and every running statistic.

Parameters that are all zero get small values in both copies: a residual branch whose last scale is initialised with
zero would otherwise hide whatever is wrong inside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.errors import ModelError, NetworkGuardError
from deepreduce.models.spec import ModelSpec
from deepreduce.network.first_difference import (
    described,
    first_by_count,
    first_by_draws,
    first_by_output,
    repair_of,
)
from deepreduce.network.module_kinds import unwrapped
from deepreduce.network.network import Network
from deepreduce.network.trace import trace_network
from deepreduce.network.trial import Trial, copy_for_trial, fill_zeros, run_eval, run_training

log = logging.getLogger(__name__)

_IMAGES = 2
"""Images of a check: the fewest with which every batch-norm can be trained."""

_SPREAD = 10
"""Largest difference of a gradient, in units of how much it differs from pass to pass in the module itself."""


@dataclass(frozen=True, kw_only=True)
class GuardReport:
    """The outcome of a check.

    `failure` says in one line what differs, in which module, and what to do; None if nothing does. `relu_count` are
    the ReLUs that the user's module executes for one image, `missing_relus` those of them that the network does not
    know. `trained`: training mode was compared too; `untrainable` says why the user's module itself can't be trained,
    else None. `notes` say what is as it is meant to be, yet worth knowing.
    """

    relu_count: int
    missing_relus: int = 0
    failure: str | None = None
    trained: bool = False
    untrainable: str | None = None
    compared: bool = True
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        values = asdict(self) | {"notes": list(self.notes)}
        del values["seconds"]  # the same network shall give the same JSON
        return values

    def text(self) -> str:
        """Return the outcome in one line."""
        if self.failure is not None:
            return f"Not your network: {self.failure}."
        if not self.compared:
            return f"The {self.relu_count:,} ReLUs that execute are those of the sites."
        modes = (
            "in evaluation and training mode, the same gradients and statistics" if self.trained else "in evaluation"
        )
        return (
            f"Checked against the module itself: the same logits {modes}, and the"
            f" {self.relu_count:,} ReLUs that execute are those of the sites."
        )


def trace_guarded(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
    images: Tensor | None = None,
    training: bool = True,
    must_train: bool = True,
    check: Callable[[Network], None] | None = None,
) -> Network:
    """Return the network of a module, as `trace_network` does, checked against the module by `guard_network`.

    `check` raises what is wrong with the traced network before it is run. Raises `NetworkGuardError` if the
    network does not compute what the module does, and `ModelError` if the module itself can't be trained but
    `must_train`.
    """
    network = trace_network(module, input_shape, name=name, spec=spec, stages=stages)
    if check is not None:
        check(network)
    report = guard_network(network, module, images=images, training=training)
    if report.failure is not None:
        raise NetworkGuardError(report.failure)
    if report.untrainable is not None:
        if must_train:
            raise ModelError(f"{report.untrainable}; a network that is reduced must also be trained")
        log.warning("%s", report.untrainable)
    log.info("%s, in %.1f s: %s", network.name, report.seconds, report.text())
    for note in report.notes:
        log.info("%s: %s", network.name, note)
    hidden = relus_in_no_site(network)
    if hidden:
        log.warning(
            "%s has %s ReLUs in no site, which are not counted and stay: %s",
            network.name,
            f"{hidden:,}",
            ", ".join(kind for kind in network.unsupported if is_relu_inside(kind)),
        )
    return network


def is_relu_inside(kind: str) -> bool:
    """Return True for a key of `Network.unsupported` that names ReLUs inside a call that tracing keeps whole."""
    return kind.startswith(("relu inside ", "relu6 inside "))


def relus_in_no_site(network: Network) -> int:
    """Return the ReLUs of one image inside calls that tracing keeps whole: reported, but in no site."""
    return sum(count for kind, count in network.unsupported_elements.items() if is_relu_inside(kind))


def guard_network(
    network: Network, module: nn.Module, *, images: Tensor | None = None, training: bool = True
) -> GuardReport:
    """Compare a traced network with the module that it was traced from, and return the report.

    `images` (N, C, H, W) are some of the network's own; without at least two of them, random ones are taken. On the
    meta device, where there are no values, only the ReLUs are compared. Raises `ModelError` if the module can't be
    copied.
    """
    begin = time.perf_counter()
    report = _Comparison(network, module, images).report(training=training)
    return replace(report, seconds=time.perf_counter() - begin)


class _Comparison:
    """The comparison of one network with the module that it was traced from."""

    def __init__(self, network: Network, module: nn.Module, images: Tensor | None) -> None:
        self.network, self.module = network, unwrapped(module)
        self.images = _images_for(self.module, network.input_shape, images)
        if network.untraceable is not None:
            self.images = self.images[:1]  # torch.export has followed one image
        self.twins = _twins(self.module, network.module)

    def report(self, *, training: bool) -> GuardReport:
        own = run_eval(self._own(), self.images, count=True)
        assert own.relus is not None
        counted, executed = self._counted(), own.relus // len(self.images)
        report = GuardReport(relu_count=executed, missing_relus=max(executed - counted, 0))
        if executed != counted:
            return replace(report, failure=self._wrong_count(counted, executed))
        if self.images.is_meta:
            return replace(report, compared=False)
        try:
            found = run_eval(self._traced(), self.images)
        except Exception as error:
            return replace(report, failure=self._one_size_only(error))
        main = _main_outputs(own.outputs, found.outputs)
        difference = _largest_difference([own.outputs[key] for key in main], list(found.outputs.values()))
        if difference is not None:
            return replace(report, failure=self._other_values(difference, training=False))
        if training and self.network.untraceable is None:
            return self._trained(report, main=main, returned=len(own.outputs))
        return report

    # -- training mode ----------------------------------------------------------------------------------------

    def _trained(self, report: GuardReport, *, main: Sequence[str], returned: int) -> GuardReport:
        """Return the report after one forward and backward pass in training mode.

        `main` are the keys of the outputs that the network has, `returned` the number of all in evaluation mode.
        """
        copied = self._own()
        for name, parameter in copied.named_parameters():
            if not parameter.is_leaf:
                what = f"can't be copied for training: the copy of its parameter {name} gets no gradient"
                return replace(report, failure=self._says(_owner_of(name), what, "parameter"))
        try:
            own = run_training(copied, self.images, main=main)
        except Exception as error:
            reason = f"{self.network.name} fails in training mode on {len(self.images)} images: {_one_line(error)}"
            return replace(report, untrainable=reason)
        notes: tuple[str, ...] = ()
        has_heads = own.returned > returned
        if has_heads:  # auxiliary heads draw at random too; the main output must not depend on that
            own = run_training(self._own(), self.images, main=main, draws_by_shape=True)
            notes = (f"in training mode it returns {own.returned} tensors; only the first is trained",)
        found = run_training(self._traced(), self.images, draws_by_shape=has_heads)
        failure = self._training_difference(own, found, has_heads=has_heads)
        return replace(report, failure=failure, trained=True, notes=(*notes, *self._left_out(own)))

    def _training_difference(self, own: Trial, found: Trial, *, has_heads: bool) -> str | None:
        difference = _largest_difference(list(own.outputs.values()), list(found.outputs.values()))
        if difference is not None:
            return self._other_values(difference, training=True)
        if own.draws != found.draws and not has_heads:
            path = first_by_draws(self._own(), self._traced(), self.images)
            return self._says(path, "draws other random numbers in training mode than your module", "training")
        for name, gradient in own.gradients.items():
            if gradient is not None and name not in self.twins:
                what = f"has a parameter {name} that is trained in your module, and is missing"
                return self._says(_owner_of(name), what, "parameter")
        return self._other_gradient(own, found) or self._other_statistic(own, found)

    def _other_gradient(self, own: Trial, found: Trial) -> str | None:
        wrong = [
            name
            for name, twin in self.twins.items()
            if name in own.gradients and not _same(own.gradients[name], found.gradients[twin])
        ]
        if not wrong:
            return None
        lost = [
            name for name in wrong if (own.gradients[name] is None) != (found.gradients[self.twins[name]] is None)
        ]
        if not lost and self._within_own_spread(own, found, wrong):
            return None
        name = lost[0] if lost else wrong[-1]  # the last in forward order is the first in the backward pass
        what = f"gives the parameter {name} another gradient than your module does"
        if lost:
            what = f"gives the parameter {name} {'no' if own.gradients[name] is not None else 'a'} gradient"
            what += ", unlike your module"
        return self._says(_owner_of(name), what, "gradient")

    def _within_own_spread(self, own: Trial, found: Trial, wrong: Sequence[str]) -> bool:
        """Return True if the module's own gradients differ as much from pass to pass, as on a GPU."""
        again = run_training(self._own(), self.images, main=list(own.outputs)).gradients
        for name in wrong:
            one, other, repeated = own.gradients[name], found.gradients[self.twins[name]], again[name]
            assert one is not None and other is not None and repeated is not None
            if float((one - other).abs().max()) > _SPREAD * float((one - repeated).abs().max()):
                return False
        return True

    def _other_statistic(self, own: Trial, found: Trial) -> str | None:
        before = dict(self.module.named_buffers())
        for name, value in own.buffers.items():
            twin = self.twins.get(name)
            moves = name in before and not _same(value, before[name])
            if (twin is None and moves) or (twin is not None and not _same(value, found.buffers.get(twin))):
                what = f"updates the buffer {name} otherwise than your module in training mode"
                return self._says(_owner_of(name), what, "statistic")
        return None

    def _left_out(self, own: Trial) -> tuple[str, ...]:
        """Return what the network leaves out, because the main output does not depend on it."""
        names = [name for name in own.gradients if name not in self.twins and own.gradients[name] is None]
        if not names:
            return ()
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return (f"left out, since the output does not depend on them: {some}",)

    # -- copies -----------------------------------------------------------------------------------------------

    def _own(self) -> nn.Module:
        copied = copy_for_trial(self.module)
        fill_zeros(copied, {name: name for name, _ in self.module.named_parameters()})
        return copied

    def _traced(self) -> nn.Module:
        copied = copy_for_trial(self.network.module)
        fill_zeros(copied, {twin: name for name, twin in self.twins.items()})
        return copied

    def _counted(self) -> int:
        return self.network.relu_count + relus_in_no_site(self.network)

    # -- failures ---------------------------------------------------------------------------------------------

    def _says(self, path: str, what: str, kind: str) -> str:
        return f"{self.network.name}: {described(self.module, path)} {what}; {repair_of(self.module, path, kind)}"

    def _wrong_count(self, counted: int, executed: int) -> str:
        path = first_by_count(self.network, self._own(), self.images)
        if executed > counted:
            what = (
                f"executes ReLUs that tracing does not follow: of {executed:,} ReLUs, {executed - counted:,} are in"
            )
            return self._says(path, f"{what} no site", "count")
        what = f"has {counted - executed:,} ReLUs in the traced graph that do not execute on the image"
        return self._says(path, what, "excess")

    def _one_size_only(self, error: Exception) -> str:
        what = f"was traced with one image and fails with {len(self.images)}: {_one_line(error)}"
        return self._says("", what, "size")

    def _other_values(self, difference: float, *, training: bool) -> str:
        mode = "training" if training else "evaluation"
        if not self._repeats(training=training):
            return self._says("", f"gives other values each time in {mode} mode, from one random seed", "chance")
        path = first_by_output(self._own(), self._traced(), self.images, training=training)
        what = f"computes something else than its traced graph in {mode} mode (logits differ by {difference:.2g})"
        return self._says(path, what, mode)

    def _repeats(self, *, training: bool) -> bool:
        if training:
            runs = [run_training(self._own(), self.images) for _ in range(2)]
        else:
            runs = [run_eval(self._own(), self.images) for _ in range(2)]
        return _largest_difference(*(list(run.outputs.values()) for run in runs)) is None


def _twins(module: nn.Module, traced: nn.Module) -> dict[str, str]:
    """Map the names of the module's parameters and buffers to their names in the traced module.

    A tensor is the same object, or of the same name, shape and values. What the graph does not hold is left out.
    """
    twins = {}
    for kind in (nn.Module.named_parameters, nn.Module.named_buffers):
        by_name = dict(kind(traced, remove_duplicate=False))
        by_object = {id(tensor): name for name, tensor in by_name.items()}
        for name, tensor in kind(module):
            twin = by_object.get(id(tensor), name)
            if twin in by_name and _same(by_name[twin], tensor):
                twins[name] = twin
    return twins


def _main_outputs(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of the module's outputs that the network has: all, or of several the one that is equal."""
    if len(own) == len(found):
        return list(own)
    return [
        next((key for key, tensor in own.items() if _same(tensor, output)), next(iter(own)))
        for output in found.values()
    ]


def _images_for(module: nn.Module, shape: tuple[int, int, int], given: Tensor | None) -> Tensor:
    """Return a batch (2, C, H, W) on the module's device in its precision; one image without values on meta."""
    held = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    device, dtype = (held[0].device, held[0].dtype) if held else (torch.device("cpu"), torch.float32)
    if device.type == "meta":
        return torch.empty((1, *shape), device="meta", dtype=dtype)
    if given is not None and len(given) >= _IMAGES and bool((given[0] != given[0].flatten()[0]).any()):
        images = given[:_IMAGES]
    else:
        images = torch.randn(_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    return images.detach().to(device=device, dtype=dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _owner_of(name: str) -> str:
    return name.rpartition(".")[0]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Return True for tensors of the same sizes, type and values; NaN equals NaN."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape or one.dtype != other.dtype or one.is_meta != other.is_meta:
        return False
    return one.is_meta or torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float | None:
    """Return the largest difference of two networks' outputs; None if they are equal bit by bit."""
    if len(one) != len(other) or any(a.shape != b.shape for a, b in zip(one, other, strict=True)):
        return float("inf")
    wrong = [(a, b) for a, b in zip(one, other, strict=True) if not _same(a, b)]
    return max(float((a.double() - b.double()).abs().max()) for a, b in wrong) if wrong else None
