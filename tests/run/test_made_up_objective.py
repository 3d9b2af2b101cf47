"""An objective that a package registers is searched for, tabulated and drawn: one class, and no other edit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import deepreduce
from deepreduce.api import redraw
from deepreduce.candidate import Candidate
from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.objective import COUNT_OF_RELUS, GROUP, PresetObjective, objective_named
from deepreduce.frontier import best, front_by, knee, log_costs
from deepreduce.report.figures.frontier import frontier_figure
from deepreduce.report.published import PublishedPoint
from deepreduce.report.tables import frontier_table
from deepreduce.run.page import page_contents
from deepreduce.utils.format import Step, Unit
from tests.helpers.report_examples import candidate, random_estimate, teacher, with_estimate
from tests.helpers.runs import TINY


class Energy(PresetObjective):
    name, noun, phrase = "energy", "energy", "an energy of"
    unit = Unit((Step(least=1000, size=1000, suffix=" kJ"), Step(least=0, size=1, suffix=" J")))

    def amount(self, estimate: CostEstimate) -> float:
        return 15 * estimate.latency + 2e-6 * estimate.bytes


ENERGY = Energy(preset="cheetah-lan")


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A package with Energy as its entry point, on the path as an installed one is."""
    site = tmp_path_factory.mktemp("site")
    information = site / "energy_objective-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: energy-objective\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\nenergy = {__name__}:Energy\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield


def a_run() -> list[Candidate]:
    found = [teacher(), *(candidate(n, n / 1e6, plan_id=f"p{n}") for n in (1_000, 30_000, 200_000))]
    return [with_estimate(c, "cheetah-lan", random_estimate(seed)) for seed, c in enumerate(found)]


def test_it_is_found_by_its_name() -> None:
    assert objective_named("energy", "cheetah-lan") == ENERGY


def test_it_chooses_the_frontier_its_knee_and_the_best() -> None:
    run = a_run()
    front = front_by(ENERGY, run)
    costs = [ENERGY.cost(c) for c in front]
    assert costs == sorted(costs) and knee(front, objective=ENERGY) in front
    assert log_costs(ENERGY, front) == pytest.approx(log_costs(Energy(preset="cheetah-lan"), front))
    assert best(run, max_cost=costs[0], objective=ENERGY) == front[0]
    with pytest.raises(deepreduce.UserError, match=r"at most 0 J; the cheapest is"):
        best(run, max_cost=0, objective=ENERGY)


def test_it_heads_the_table_with_its_unit_and_relus_beside_it() -> None:
    run = a_run()
    front = front_by(ENERGY, run)
    text = frontier_table(front, teacher=run[0], objective=ENERGY)
    assert text.split()[:3] == ["energy", "less", "ReLUs"]
    assert all(f"{ENERGY.short(ENERGY.cost(c))} " in text for c in front)


def test_it_is_drawn_without_what_papers_say_of_relus() -> None:
    run = a_run()
    published = PublishedPoint(
        method="SNL", year=2022, dataset="CIFAR-100", backbone="ResNet-18", relu_count=10**5, test_accuracy=0.5,
        latency_s=None, source="made up",
    )  # fmt: skip
    drawn = {}
    for objective in (ENERGY, COUNT_OF_RELUS):
        front = front_by(objective, run)
        figure = frontier_figure(run, front, title="made up", published=[published], objective=objective)
        drawn[objective.noun] = figure.axes[0]
    assert drawn["energy"].get_xlabel() == "Energy for one image, cheetah over lan (estimated) (log scale)"
    labels = {name: [str(line.get_label()) for line in axes.lines] for name, axes in drawn.items()}
    assert "SNL" in labels["ReLUs"] and "SNL" not in labels["energy"]


@pytest.mark.slow
def test_it_is_optimized_for_from_config_to_page(tmp_path: Path) -> None:
    values = {
        **TINY,
        "method": {"alphas": [1.0, 0.5], "rhos": [1.0], "cull_order": ["S1"]},
        "cost": {"objective": "energy", "protocol": "delphi", "networks": 4},
    }
    settings = ["data.train_limit=100", "training.epochs=1"]
    energy = Energy(preset="delphi-lan")
    planned = deepreduce.dry_run(deepreduce.load_config(values=values, settings=settings))
    assert planned.to_text().splitlines()[2].split() == ["network", "ReLUs", "fewer", "delphi-lan", "less", "plan_id"]
    result = deepreduce.optimize(out=tmp_path / "run", settings=settings, **values)
    assert result.objective == energy and result.to_json()["objective"] == {"name": "energy", "preset": "delphi-lan"}
    costs = [energy.cost(n) for n in result.frontier]
    assert costs == sorted(costs)
    with open(result.folder / "frontier.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["plan_id"] for row in rows} == {n.plan_id for n in result.frontier} | {"teacher"}
    page = page_contents(result.folder, title="made up", objective=energy).to_json()
    axes = {axis["key"]: axis for axis in page["axes"]}
    assert page["axis"] == "energy delphi-lan" in axes and "relus" in axes
    assert axes["energy delphi-lan"]["unit"] == Energy.unit.to_json()
    before = (result.folder / "frontier.svg").read_bytes()
    redraw(result.folder, objective="latency")
    assert (result.folder / "frontier.svg").read_bytes() != before
    redraw(result.folder)
    assert (result.folder / "frontier.svg").read_bytes() == before
