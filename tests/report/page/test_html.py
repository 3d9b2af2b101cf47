"""report.html as a file: nothing of a run can be more than text in it."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest

from deepreduce.api import report_run
from deepreduce.errors import UserError
from tests.helpers.made_up_run import HOSTILE, write_run
from tests.helpers.page import Parsed
from tests.helpers.records import change_record, changed


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


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    stages = {f"S1{HOSTILE}": (64, 2), "S2 {{script}} & \u2028 \u00e9": (32, 2)}
    write_run(tmp_path / "run", model=HOSTILE, stages=stages, size=4)
    changes = changed(processor=HOSTILE, command=["x", HOSTILE])
    change_record(tmp_path / "run" / "environment.json", changes)
    text = report_run(tmp_path / "run").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in parsed.elements}
    assert parsed.texts[0] == ("title", f"{HOSTILE} on cifar100: ReLUs against accuracy")
    data = parsed.data()
    assert data["stages"] == list(stages)
    assert HOSTILE in data["config"] and ["processor", HOSTILE] in data["environment"]
    assert text.count("alert(1)") > 3 and "<script>alert" not in text


def test_without_plotly_the_error_names_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UserError, match=r"pip install 'deepreduce\[report\]'"):
        report_run(run)
