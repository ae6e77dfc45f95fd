import math
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edgeprune.verdict.gate_figures import standalone, trend
from edgeprune.verdict.trend import TrendPoint, change_points


def points(levels, noise=0.01, seed=0):
    """Results at these levels in ms, each known to about 1 %."""
    chance = random.Random(seed)
    values = [level * math.exp(chance.gauss(0, noise)) for level in levels]
    half = 1.96 * noise
    return [
        TrendPoint(f"2026-01-{n:02d}", f"{n:040x}", "main", "pass", value, (value * (1 - half), value * (1 + half)))
        for n, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_a_lasting_change_is_found_where_it_is(seed):
    (change,) = change_points(points([5.0] * 20 + [5.4] * 15, seed=seed))
    assert abs(change.index - 20) <= 1
    assert change.factor == pytest.approx(0.08, abs=0.02)
    assert change.recorded_at == f"2026-01-{change.index + 1:02d}"


def test_two_changes_are_two():
    changes = change_points(points([5.0] * 15 + [6.0] * 15 + [4.5] * 15))
    assert [change.index for change in changes] == [15, 30]


def test_noise_alone_is_hardly_ever_called_a_change():
    found = sum(bool(change_points(points([5.0] * 60, seed=seed))) for seed in range(200))
    assert found <= 4


def test_a_single_outlier_is_no_change():
    assert change_points(points([5.0] * 15 + [6.0] + [5.0] * 15)) == ()


def test_few_results_say_nothing():
    assert change_points(points([5.0, 9.0, 5.0])) == ()


def test_results_without_noise_are_no_trouble():
    assert change_points(points([5.0] * 12, noise=0.0)) == ()
    assert [change.index for change in change_points(points([5.0] * 6 + [6.0] * 6, noise=0.0))] == [6]


def test_the_picture_stands_alone():
    shown = points([5.0] * 20 + [5.5] * 20)
    root = ElementTree.fromstring(standalone(trend(shown, change_points(shown))))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("count", [2, 7, 11, 13, 40, 60, 200])
def test_labels_leave_each_other_room(count):
    shown = [replace(point, commit=f"{0xABCDEF0 + n:x}" * 5) for n, point in enumerate(points([5.0] * count))]
    labels = [point.commit[:7] for point in shown if point.commit[:7] in trend(shown, ())]
    assert min(count, 4) <= len(labels) <= 7
