"""Which networks a run trains, in which order, and how much work that is: everything but the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from deepreduce.data import DataFacts
from deepreduce.errors import PlanError
from deepreduce.estimate import Work
from deepreduce.methods import DeepReduceMethod, Probe, Proposal, propose
from deepreduce.methods.deepreduce import check_cull_order, probes, provisional_cull_order
from deepreduce.network import Network

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How long each kind of network is trained; a teacher of 0 epochs is taken as it is."""

    teacher: int
    probe: int
    candidate: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The networks of a run. `is_provisional` says that the cull order, and so the candidates, will be measured.

    `left_out` tells why networks that were asked for are not among them, `notes` what their edits could not do.
    """

    cull_order: tuple[str, ...]
    is_provisional: bool
    probes: tuple[Probe, ...]
    candidates: tuple[Proposal, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    teacher_work: Work
    probe_works: tuple[Work, ...]
    candidate_works: tuple[Work, ...]

    @property
    def total_work(self) -> float:
        """Multiply-accumulates of all trainings."""
        return sum(work.total for work in (self.teacher_work, *self.probe_works, *self.candidate_works))


def make_schedule(
    network: Network,
    facts: DataFacts,
    method: DeepReduceMethod,
    epochs: Epochs,
    *,
    cull_order: Sequence[str] | None,
    max_relus: int | None,
    measured: bool = False,
) -> Schedule:
    """The networks that `method` trains on such data.

    `cull_order` None means that it will be measured by probes: until then the stages of most ReLUs stand first.
    `measured` says that the given order comes from probes, which then remain part of the run. Raises `PlanError`
    where nothing is left to train.
    """
    is_probed = cull_order is None or measured
    order = provisional_cull_order(network) if cull_order is None else check_cull_order(network, cull_order)
    proposals = propose(network, order, method)
    kept = [p for p in proposals.networks if max_relus is None or p.relu_count <= max_relus]
    if not kept:
        smallest = min(proposals.networks, key=lambda p: p.relu_count)
        raise PlanError(
            f"no network has at most {max_relus:,} ReLUs; the smallest, {smallest.label}, has"
            f" {smallest.relu_count:,}: raise max_relus, or give smaller method.alphas or method.rhos"
        )
    probed = tuple(probes(network)) if is_probed else ()

    def work(macs: int, epochs: int, *, taught: bool, tested: bool) -> Work:
        return Work(
            macs=macs,
            teacher_macs=network.macs if taught else 0,
            epochs=epochs,
            train_images=facts.train_images,
            val_images=facts.val_images,
            test_images=facts.test_images if tested else 0,
        )

    return Schedule(
        cull_order=order,
        is_provisional=cull_order is None and bool(probed),
        probes=probed,
        candidates=tuple(kept),
        left_out=proposals.left_out,
        notes=proposals.notes,
        teacher_work=work(network.macs, epochs.teacher, taught=False, tested=True),
        probe_works=tuple(work(p.proposal.macs, epochs.probe, taught=True, tested=False) for p in probed),
        candidate_works=tuple(work(p.macs, epochs.candidate, taught=True, tested=True) for p in kept),
    )
