"""report.html as a file: what it holds, and that nothing in it can be more than text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import deepreduce
from deepreduce.api import report_run
from deepreduce.cli.main import run_command
from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.errors import CheckpointError, UserError
from deepreduce.plan import ReductionPlan
from deepreduce.report.tables import read_candidates_csv
from deepreduce.run.page import page_contents
from tests.helpers.made_up_run import HOSTILE, write_run
from tests.helpers.runs import NUM_CANDIDATES, TINY, TINY_RELUS


class Parsed(HTMLParser):
    """A page's elements in their order, and the text of its title and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag in ("title", "script")
        if self.inside:
            self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before + data)

    def scripts(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "script"]

    def data(self) -> Any:
        return json.loads(self.scripts()[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "run"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Parsed:
    return Parsed(report_run(run).read_text(encoding="utf-8"))


def test_the_page_is_one_file_that_names_no_address(page: Parsed) -> None:
    addresses = [value for _, attributes in page.elements for name, value in attributes.items() if name == "href"]
    assert addresses and all(address and address.startswith(("#", "data:")) for address in addresses)
    assert not any({"src", "srcset", "action", "onclick"} & set(attributes) for _, attributes in page.elements)
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "img"} & set(tags)
    assert [tag for tag in tags if tag == "link"] == ["link"]  # the icon, which is empty


def test_the_policy_lets_exactly_the_page_s_own_scripts_run(page: Parsed) -> None:
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts()[1:]]
    assert rules["script-src"].split() == [f"'sha256-{h}'" for h in hashes] and len(hashes) == 2
    assert rules["default-src"] == "'none'" and "http" not in policy


def test_the_page_has_a_language_a_title_and_headings(page: Parsed) -> None:
    assert ("html", {"lang": "en"}) in page.elements
    assert page.texts[0] == ("title", "resnet18 on cifar100: ReLUs against accuracy")
    ids = {a["id"] for _, a in page.elements if "id" in a}
    pointed = {a[key] for _, a in page.elements for key in ("aria-labelledby", "aria-describedby") if key in a}
    assert pointed <= ids
    assert [tag for tag, _ in page.elements].count("h1") == 1


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


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    stages = {f"S1{HOSTILE}": (64, 2), "S2 {{script}} & \u2028 \u00e9": (32, 2)}
    write_run(tmp_path / "run", model=HOSTILE, stages=stages, size=4)
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"processor": HOSTILE, "command": ["x", HOSTILE]}))
    text = report_run(tmp_path / "run").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in parsed.elements}
    assert parsed.texts[0] == ("title", f"{HOSTILE} on cifar100: ReLUs against accuracy")
    data = parsed.data()
    assert data["stages"] == list(stages)
    assert HOSTILE in data["config"] and ["processor", HOSTILE] in data["environment"]
    assert text.count("alert(1)") > 3 and "<script>alert" not in text


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


def test_a_network_whose_folder_is_corrupt_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    plan = tmp_path / "run" / "candidates" / "plan00" / "plan.json"
    plan.write_text('{"sites": 3}')
    with pytest.raises(CheckpointError, match=r"plan00/plan.json does not describe a network"):
        report_run(tmp_path / "run")
    plan.unlink()
    with pytest.raises(CheckpointError, match=r"plan00/plan.json can't be read"):
        report_run(tmp_path / "run")


def test_without_plotly_the_error_names_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UserError, match=r"pip install 'deepreduce\[report\]'"):
        report_run(run)


def test_the_command_writes_where_it_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_bytes() == report_run(run).read_bytes()
    assert run_command(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert run_command(["report", str(run), "--out", str(tmp_path / "nowhere" / "page.html")]) == 2


@pytest.mark.slow
def test_the_page_of_a_real_run_loads_each_network_as_it_says(tmp_path: Path) -> None:
    """The runs of the other tests are made up; this one holds them to what optimize leaves."""
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    data = Parsed(report_run(result.folder).read_text(encoding="utf-8")).data()
    assert data["complete"] and len(data["networks"]) == NUM_CANDIDATES + 1
    assert {w["stage"] for w in data["criticality"]} == set(TINY_RELUS)
    for network in data["networks"]:
        assert sum(count for _, _, count in network["sites"]) == network["relu_count"]
        is_teacher = network["is_teacher"]
        assert not is_teacher or len(network["history"]["epoch"]) == TINY["training"]["epochs"]
        assert network["is_dropped"] == (network["history"]["epoch"] == [])
        names: dict[str, Any] = {}
        exec(network["snippet"], names)
        assert isinstance(names["network"], torch.nn.Module)
