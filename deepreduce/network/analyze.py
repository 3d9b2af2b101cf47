"""The analyzer's report: ReLUs, multiply-accumulates and garbled-circuit bytes, per stage and per site."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepreduce.cost.builtin import GARBLED_OFFLINE_BYTES, GARBLED_ONLINE_BYTES
from deepreduce.errors import ModelError
from deepreduce.network.guard import GuardReport, relus_in_no_site
from deepreduce.network.network import Network, ReluSite
from deepreduce.network.site_layer import site_layer_of
from deepreduce.utils.html import details, paragraph, table
from deepreduce.utils.printable import printable

TAIL = "(after the last ReLU)"
NO_SITE = "(in no site)"
_COUNTS = ("ReLUs", "share", "MACs", "GC bytes")
_Counts = tuple[str, str, str, str]
_STAGE_RULES = {
    "declared": "Stages are the zoo's: the stem's ReLUs belong to S1, the head's to the last stage.",
    "given": "Stages are those of model.stages.",
    "inferred": "Stages are inferred: one begins where maps halve; a stem belongs to S1 (docs/method.md).",
}


@dataclass(frozen=True, kw_only=True)
class SiteCost:
    """A ReLU site and the multiply-accumulates of the linear layers between the previous site and this one.

    `action` describes a site action that keeps only some of the site's ReLUs ("12 of 64 channels"); else it is "".
    """

    site: ReluSite
    macs: int
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class AnalysisReport:
    """The ReLUs and multiply-accumulates (MACs) of a network for one image of `input_shape` (C, H, W).

    `macs_tail` are the MACs after the last ReLU. `stages` maps a stage's name to its ReLUs. `unsupported` counts the
    calls of each non-linearity that is not a ReLU, `unsupported_elements` their output elements. `outputs` maps each
    output's name to its shape. `untraceable` says why the network can't be reduced; None if it can. `hidden_relus`
    are ReLUs inside calls that tracing keeps whole, which are in no site. `checked` is the outcome of comparing the
    network with the module that it was traced from; None if that was not done. `stage_rule` is how the stages came
    about (`Network.stage_rule`).
    """

    model: str
    input_shape: tuple[int, int, int]
    relu_count: int
    macs: int
    macs_tail: int
    stages: Mapping[str, int]
    sites: tuple[SiteCost, ...]
    unsupported: Mapping[str, int]
    unsupported_elements: Mapping[str, int]
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    untraceable: str | None = None
    stage_rule: str = "inferred"
    hidden_relus: int = 0
    checked: GuardReport | None = None

    @property
    def uncounted_relus(self) -> int:
        """ReLUs that execute for one image and are in no site, so that `relu_count` leaves them out."""
        return self.hidden_relus + (self.checked.missing_relus if self.checked is not None else 0)

    @property
    def input_size(self) -> int:
        """Height of the input image in pixels."""
        return self.input_shape[1]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, with the bytes of DELPHI's garbled circuits (offline and online)."""
        return {
            "model": self.model,
            "input_size": self.input_size,
            "input_shape": list(self.input_shape),
            "relu_count": self.relu_count,
            "stages": dict(self.stages),
            "stage_rule": self.stage_rule,
            "sites": [
                {
                    "name": cost.site.name,
                    "stage": cost.site.stage,
                    "block": cost.site.block,
                    "shape": list(cost.site.shape),
                    "relu_count": cost.site.relu_count,
                    "kind": cost.site.kind,
                    "macs": cost.macs,
                }
                | ({"action": cost.action} if cost.action else {})
                for cost in self.sites
            ],
            "macs": self.macs,
            "gc_offline_bytes": self.relu_count * GARBLED_OFFLINE_BYTES,
            "gc_online_bytes": self.relu_count * GARBLED_ONLINE_BYTES,
            "unsupported": dict(self.unsupported),
            "unsupported_elements": dict(self.unsupported_elements),
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "untraceable": self.untraceable,
            "uncounted_relus": self.uncounted_relus,
            "guard": None if self.checked is None else self.checked.to_json(),
        }

    def to_csv(self) -> str:
        """Return a CSV with one row per site.

        If ReLUs are in no site, a last row holds their number; if the sites are not those of the network, a last row
        says so.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["name", "stage", "block", "shape", "kind", "relu_count", "share", "macs", "gc_offline_bytes"]
        )
        for cost in self.sites:
            site = cost.site
            writer.writerow(
                [
                    site.name,
                    site.stage,
                    site.block or "",
                    "x".join(str(n) for n in site.shape),
                    site.kind,
                    site.relu_count,
                    f"{site.relu_count / self.relu_count:.6f}",
                    cost.macs,
                    site.relu_count * GARBLED_OFFLINE_BYTES,
                ]
            )
        if self.uncounted_relus:
            writer.writerow([NO_SITE, "", "", "", "relu", self.uncounted_relus, "", "", ""])
        if self.checked is not None and self.checked.failure is not None:
            writer.writerow([f"({self.checked.text()})", *[""] * 8])
        return text.getvalue()

    def to_text(self) -> str:
        """Return tables for a terminal, per stage and per site, with notes (other non-linearities, outputs)."""
        lines = [self._headline(), "", _row("stage", *_COUNTS, "maps")]
        lines += [_row(stage, *counts, self._maps(stage)) for stage, counts in self._stage_counts()]
        lines += ["", _row("site", *_COUNTS, "shape", stage="stage")]
        for cost, counts in self._site_counts():
            lines.append(_row(cost.site.name, *counts, _shape(cost), stage=cost.site.stage))
        if self.uncounted_relus:
            lines.append(_row(NO_SITE, f"{self.uncounted_relus:,}", "", "", "", stage=""))
        lines.append(_row(TAIL, "", "", _short_number(self.macs_tail), ""))
        return "\n".join([*lines, "", *self._notes()])

    def _headline(self) -> str:
        height, width = self.input_shape[1:]
        hidden = f" and {self.uncounted_relus:,} more in no site" if self.uncounted_relus else ""
        return (
            f"{printable(self.model)} at {height}x{width}: {self.relu_count:,} ReLUs in {len(self.sites)} sites"
            f"{hidden}, {_short_number(self.macs)} MACs"
        )

    def _stage_counts(self) -> list[tuple[str, _Counts]]:
        macs = dict.fromkeys(self.stages, 0)
        for cost in self.sites:
            macs[cost.site.stage] += cost.macs
        return [(stage, self._counts(count, macs[stage])) for stage, count in self.stages.items()]

    def _maps(self, stage: str) -> str:
        """Return the sizes of the feature maps of a stage's ReLUs, in the order in which they come."""
        shapes = [cost.site.shape for cost in self.sites if cost.site.stage == stage]
        maps = list(dict.fromkeys("x".join(str(n) for n in shape[1:]) or "1" for shape in shapes))
        return " ".join(maps if len(maps) <= 3 else [*maps[:2], "..", maps[-1]])

    def _site_counts(self) -> list[tuple[SiteCost, _Counts]]:
        return [(cost, self._counts(cost.site.relu_count, cost.macs)) for cost in self.sites]

    def _counts(self, count: int, macs: int) -> _Counts:
        share = f"{count / self.relu_count:.1%}" if self.relu_count else "-"
        return f"{count:,}", share, _short_number(macs), _short_number(count * GARBLED_OFFLINE_BYTES) + "B"

    def _notes(self) -> list[str]:
        lines = ["GC bytes: garbled circuits sent ahead of one query (DELPHI, 19,088 bytes per ReLU)."]
        if self.stages:
            lines.insert(0, _STAGE_RULES[self.stage_rule])
        if any(cost.site.kind == "relu6" for cost in self.sites):
            lines.append("ReLU6 sites are counted once per element; the cap costs a second comparison.")
        if self.unsupported:
            calls = ", ".join(
                f"{kind} x{count} ({self.unsupported_elements[kind]:,} elements)"
                for kind, count in self.unsupported.items()
            )
            lines.append(f"Not counted, and not free either: {calls}.")
        if len(self.outputs) != 1:
            heads = ", ".join(f"{name} {shape}" for name, shape in self.outputs.items())
            lines.append(f"The network has {len(self.outputs)} outputs ({heads}); to be reduced, it must have one.")
        if self.untraceable is not None:
            lines.append(f"Analyzed, but can't be reduced, because {self.untraceable}.")
        if self.checked is not None:
            notes = (*self.checked.notes, *([self.checked.untrainable] if self.checked.untrainable else []))
            lines += [self.checked.text(), *(f"Note: {note}." for note in notes)]
        return lines

    def _repr_html_(self) -> str:
        stages = table(
            ["stage", *_COUNTS, "maps"],
            [[stage, *counts, self._maps(stage)] for stage, counts in self._stage_counts()],
            texts=["stage", "maps"],
        )
        rows = [[cost.site.name, cost.site.stage, *counts, _shape(cost)] for cost, counts in self._site_counts()]
        if self.uncounted_relus:
            rows.append([NO_SITE, "", f"{self.uncounted_relus:,}", "", "", "", ""])
        rows.append([TAIL, "", "", "", _short_number(self.macs_tail), "", ""])
        texts = ("site", "stage", "shape")
        sites = table(["site", "stage", *_COUNTS, "shape"], rows, texts=texts)
        notes = "".join(paragraph(note) for note in self._notes())
        return paragraph(self._headline(), strong=True) + stages + details(f"{len(self.sites)} sites", sites) + notes


def analyze_network(network: Network, *, checked: GuardReport | None = None) -> AnalysisReport:
    """Return the counts of `network`, with the outcome of its check.

    Raises `ModelError` if its input is too small for its strides.
    """
    check_input_size(network)
    costs, pending = [], 0
    macs = {layer.node: layer.macs for layer in network.linear_layers}
    sites = {site.node: site for site in network.sites}
    for node in network.module.graph.nodes:
        pending += macs.get(node.name, 0)
        if node.name in sites:
            site, layer = sites[node.name], site_layer_of(node, network.module)
            costs.append(SiteCost(site=site, macs=pending, action=layer.action.text(site) if layer else ""))
            pending = 0
    return AnalysisReport(
        model=network.name,
        input_shape=network.input_shape,
        relu_count=network.relu_count,
        macs=network.macs,
        macs_tail=pending,
        stages=network.stage_relu_counts,
        sites=tuple(costs),
        unsupported=network.unsupported,
        unsupported_elements=network.unsupported_elements,
        outputs=network.outputs,
        untraceable=network.untraceable,
        hidden_relus=relus_in_no_site(network),
        checked=checked,
        stage_rule=network.stage_rule,
    )


def check_input_size(network: Network) -> None:
    """Raise `ModelError` if a strided convolution gets a feature map smaller than its stride."""
    if network.starved_layers:
        height, width = network.input_shape[1:]
        raise ModelError(
            f"an image of {height}x{width} is too small for {network.name}: the stride of"
            f" {network.starved_layers[0]} exceeds its input's size; give a larger input size"
        )


def _shape(cost: SiteCost) -> str:
    shape = "x".join(str(n) for n in cost.site.shape)
    return f"{shape}, {cost.action}" if cost.action else shape


def _row(name: str, count: str, share: str, macs: str, gc: str, shape: str = "", stage: str | None = None) -> str:
    name = printable(name)  # of a module, which may have any name
    label = f"{name[-38:]:<38} {stage:<6}" if stage is not None else f"{name[-45:]:<45}"
    return f"{label} {count:>12} {share:>7} {macs:>8} {gc:>9}  {shape}".rstrip()


def _short_number(value: float) -> str:
    for unit in ("", "K", "M", "G"):
        if value < 999.5:  # larger values would round to 1,000 of this unit
            return f"{value:.0f}" if unit == "" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} T"
