"""Published points from a CSV file, and choosing among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.errors import UserError
from deepreduce.report.published import PublishedPoint, read_published_csv, select_published
from tests.helpers import REPOSITORY

SHIPPED = REPOSITORY / "docs" / "published_results.csv"
HEADER = "method,year,dataset,backbone,relu_count,accuracy_pct,latency_s,source\n"
ROW = "SNL,2022,CIFAR-100,ResNet18,49900,73.75,1.066,Table 1\n"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "points.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_published_csv(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_in_the_checkout_is_read_whole() -> None:
    points = read_published_csv(SHIPPED)
    assert len(points) == len(SHIPPED.read_text(encoding="utf-8").splitlines()) - 1
    assert {p.dataset for p in points} == {"CIFAR-10", "CIFAR-100", "TinyImageNet"}
    assert all(0.1 < p.test_accuracy <= 1 and p.relu_count > 0 and p.source for p in points)
    assert select_published(points, dataset="cifar-100", methods=["deepreduce"])


def test_percent_become_fractions_and_an_empty_latency_none(tmp_path: Path) -> None:
    content = HEADER + ROW + '"AutoReP (DaPa, poly deg 2)",2023,CIFAR-10,,12900,94.31,,"a, b"\n'
    assert read_published_csv(written(tmp_path, content)) == [
        PublishedPoint(
            method="SNL",
            year=2022,
            dataset="CIFAR-100",
            backbone="ResNet18",
            relu_count=49_900,
            test_accuracy=pytest.approx(0.7375),  # type: ignore[arg-type]
            latency_s=1.066,
            source="Table 1",
        ),
        PublishedPoint(
            method="AutoReP (DaPa, poly deg 2)",
            year=2023,
            dataset="CIFAR-10",
            backbone="",
            relu_count=12_900,
            test_accuracy=pytest.approx(0.9431),  # type: ignore[arg-type]
            latency_s=None,
            source="a, b",
        ),
    ]


def test_columns_may_stand_in_any_order_among_others_and_lines_may_be_empty(tmp_path: Path) -> None:
    names = HEADER.strip().split(",")
    cells = ROW.strip().split(",")
    turned = ",".join([*reversed(names), "note"]) + "\n\n" + ",".join([*reversed(cells), "mine"]) + "\r\n\n"
    want = read_published_csv(written(tmp_path, HEADER + ROW))
    assert read_published_csv(written(tmp_path, "\ufeff" + turned)) == want


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2022", "last year", "year is 'last year'"),
        ("49900", "49.9K", "relu_count is '49.9K'"),
        ("49900", "49900.5", "relu_count is '49900.5'; give a whole number"),
        ("49900", "-1", "relu_count is '-1'"),
        ("73.75", "100.1", "accuracy_pct is '100.1'; give a percentage, at most 100"),
        ("73.75", "nan", "accuracy_pct is 'nan'"),
        ("73.75", "", "accuracy_pct is ''"),
        ("1.066", "fast", "latency_s is 'fast'"),
        ("SNL", "", "method is empty"),
        ("CIFAR-100", " ", "dataset is empty"),
        (",Table 1", "", "the row has 7 cells, the header 8"),
    ],
)
def test_a_cell_that_does_not_fit_is_named_with_file_and_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    message = refusal(written(tmp_path, HEADER + ROW + ROW.replace(old, new)))
    assert "points.csv, line 3: " in message
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: the file is empty"),
        ("method,year\n", "line 1: the header lacks the columns dataset, backbone"),
        (HEADER + '"SNL', "line 2: unexpected end of data"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    assert words in refusal(written(tmp_path, content))


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    assert "absent.csv" in refusal(tmp_path / "absent.csv")
    assert str(tmp_path) in refusal(tmp_path)
    assert "points.csv" in refusal(written(tmp_path, b"\xff\xfe\xfa"))


def point(method: str, dataset: str, backbone: str = "ResNet18") -> PublishedPoint:
    return PublishedPoint(
        method=method, year=2021, dataset=dataset, backbone=backbone, relu_count=1, test_accuracy=0.5, latency_s=None,
        source="",
    )  # fmt: skip


POINTS = [point("SNL", "CIFAR-10"), point("SNL", "CIFAR-100", "WRN-22-8"), point("SENet", "CIFAR-100")]


def test_points_are_chosen_by_data_set_network_and_method_whatever_the_case() -> None:
    assert select_published(POINTS) == POINTS
    assert select_published(POINTS, dataset="cifar-100") == POINTS[1:]
    assert select_published(POINTS, methods=["snl"]) == POINTS[:2]
    assert select_published(POINTS, backbone="resnet18") == [POINTS[0], POINTS[2]]
    assert select_published(POINTS, dataset="CIFAR-100", backbone="WRN-22-8", methods=["SNL"]) == [POINTS[1]]
    assert select_published(iter(POINTS), methods=["SNL", "SENet"]) == POINTS


def test_a_choice_that_no_point_meets_is_refused_with_the_nearest_that_one_does() -> None:
    with pytest.raises(UserError, match="published data set 'CIFAR100'; did you mean 'CIFAR-100'"):
        select_published(POINTS, dataset="CIFAR100")
    with pytest.raises(UserError, match="published network 'ResNet-18'; did you mean 'ResNet18'"):
        select_published(POINTS, backbone="ResNet-18")
    with pytest.raises(UserError, match=r"published method 'SENet'; .*known: SNL"):
        select_published(POINTS, dataset="CIFAR-10", methods=["SNL", "SENet"])
