"""The data of report.html: those of the run's tables and folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deepreduce.api import report_run
from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.plan import ReductionPlan
from deepreduce.report.tables import read_candidates_csv
from deepreduce.run.page import page_contents
from tests.helpers.made_up_run import write_run
from tests.helpers.page import Parsed


def test_the_networks_are_those_of_the_tables(run: Path, page: Parsed) -> None:
    data, everything = page.data(), (run / "candidates.csv").read_text()
    front = {c.plan_id for c in read_candidates_csv((run / "frontier.csv").read_text())}
    assert data["csv"] == everything
    assert [n["id"] for n in data["networks"]] == [c.plan_id for c in read_candidates_csv(everything)]
    assert {n["id"] for n in data["networks"] if n["id"] in data["axes"][0]["front"] or n["is_teacher"]} == front
    assert data["axes"][0]["first"] in front and data["complete"] is True


def test_a_network_comes_with_its_sites_history_and_the_way_to_load_it(run: Path, page: Parsed) -> None:
    network = next(n for n in page.data()["networks"] if n["id"] == "plan03")
    assert sum(count for _, _, count in network["sites"]) == network["relu_count"]
    assert sum(network["stages"].values()) == network["relu_count"]
    assert ReductionPlan.from_json(network["plan"]).linearized
    assert network["history"]["epoch"] == list(range(1, 41))
    assert network["history"]["val_accuracy"][0] is None and 0 < network["history"]["val_accuracy"][-1] < 1
    assert network["snippet"].endswith(f"network = deepreduce.load_reduced({str(run / 'candidates/plan03')!r})")


def test_a_network_that_failed_is_listed_with_its_reason(page: Parsed) -> None:
    network = next(n for n in page.data()["networks"] if n["id"] == "broken")
    assert network["failure"] == "the loss is not finite: nan in epoch 3"
    assert network["test_accuracy"] is None and network["stages"] is None and network["relu_count"] > 0


def test_a_network_that_was_dropped_is_listed_apart_from_those_that_failed(page: Parsed) -> None:
    networks = {n["id"]: n for n in page.data()["networks"]}
    assert [name for name, n in networks.items() if n["is_dropped"]] == ["beaten"]
    assert networks["beaten"]["failure"].startswith("its draft has 30.00 %")
    assert networks["beaten"]["test_accuracy"] is None and networks["beaten"]["folder"] == "drafts/beaten"


def test_values_that_json_has_not_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1, epochs=3)
    history = tmp_path / "run" / "teacher" / "history.csv"
    history.write_text(history.read_text().splitlines()[0] + "\n1,0.1,nan,0.5,1.0\n2,0.1,inf,,1.0\n")
    teacher = Parsed(report_run(tmp_path / "run").read_text(encoding="utf-8")).data()["networks"][0]
    assert teacher["history"] == {"epoch": [1, 2], "train_loss": [None, None], "val_accuracy": [0.5, None]}


def test_a_run_that_goes_on_without_a_measured_order_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "run", complete=False, with_criticality=False)
    contents = page_contents(tmp_path / "run", title="run", objective=COUNT_OF_RELUS).to_json()
    assert contents["complete"] is False and contents["criticality"] == []


def test_criticality_and_command_are_those_of_the_run(run: Path, page: Parsed) -> None:
    data, measured = page.data(), json.loads((run / "criticality.json").read_text())
    assert {w["stage"]: w["criticality"] for w in data["criticality"]} == measured["criticality"]
    assert data["commands"]["given"] == "deepreduce optimize --model resnet18 --data cifar100"  # without its folder
    assert data["commands"]["again"].startswith(f"deepreduce optimize --config {run / 'config.yaml'}")
    assert ["torch", "2.14.1"] in data["environment"] and data["config"].startswith("model:")


def test_a_reduction_of_a_python_module_says_what_loading_takes(run: Path) -> None:
    contents = page_contents(run, title="run", objective=COUNT_OF_RELUS)
    files = {key: dataclasses.replace(value, needs_model=True) for key, value in contents.files.items()}
    made = dataclasses.replace(contents, files=files, environment={"command": ["train.py", "--fast"]}).to_json()
    assert "model=original" in made["networks"][0]["snippet"]
    assert made["commands"]["given"] is None  # another program's command is not ours to tell
