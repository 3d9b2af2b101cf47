"""Names next to their points: each nearest to its own, none on the frontier's line."""

from __future__ import annotations

import itertools

import numpy as np

from tests.helpers.figures import drawn, extent, holds, labels_of, line_of, table_of
from tests.helpers.report_examples import candidate, random_run, teacher


def test_a_label_without_a_line_to_its_point_is_nearest_to_its_own() -> None:
    for seed in range(4):
        run = random_run(seed, size=12)
        figure = drawn(run)
        leaders = {str(a.get_gid()).removeprefix("leader-") for a in figure.artists}
        axes = figure.axes[0]
        points = {c.plan_id: c for c in run if c.plan_id in labels_of(figure) and c.relu_count}
        at = {
            plan_id: axes.transData.transform((c.relu_count, 100 * c.measurement.test_accuracy))
            for plan_id, c in points.items()
            if c.measurement
        }
        for text in figure.texts:
            plan_id = str(text.get_gid()).removeprefix("label-")
            if plan_id in at and plan_id not in leaders:
                x0, y0, x1, y1 = extent(text)
                away = {
                    other: float(np.hypot(x - np.clip(x, x0, x1), y - np.clip(y, y0, y1)))
                    for other, (x, y) in at.items()
                }
                assert away[plan_id] == min(away.values()), (seed, text.get_text())


def test_names_that_fit_stand_beside_their_points_and_the_frontier_runs_through_none() -> None:
    counts = [(557_056, 0.76), (229_376, 0.755), (114_688, 0.747), (57_344, 0.727), (28_672, 0.683), (14_336, 0.63)]
    run = [teacher(*counts[0])]
    run += [candidate(n, a, "cull S1, thin, alpha 0.5", plan_id=str(n)) for n, a in counts[1:]]
    figure = drawn(run)
    assert labels_of(figure)["57344"].replace("\n", " ") == "cull S1, thin, alpha 0.5 57.3K"
    assert labels_of(figure)["teacher"] == "teacher\n557.1K"
    assert table_of(figure) == []
    course = figure.axes[0].transData.transform(line_of(figure, "frontier"))
    for a, b in itertools.pairwise(course):
        for step in np.linspace(0, 1, 200):
            x, y = a + step * (b - a)
            inside = [
                t for t in figure.texts if t.get_gid() and "label" in str(t.get_gid()) and holds(extent(t), x, y)
            ]
            assert not inside
