"""A layer with ranks between two groups of channels: the program against every choice there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.controllers._program import Cost, Limit, Node, merged, solve

LEFT, RIGHT, RANK = (1, 2, 4), (2, 3), (1, 2, 9)  # 9 is the whole layer


def tables(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    first, last = generator.uniform(0, 5, (3, 3)), generator.uniform(0, 5, (3, 2))
    first[:, -1], last[-1, :] = 0.0, 0.0
    first[0, 1] = np.inf  # one input is too few for the rank of two
    return {"first": first, "last": last, "whole": generator.uniform(0, 10, (3, 2))}


def cost_of(found: dict[str, np.ndarray], left: int, rank: int, right: int) -> float:
    whole = found["whole"][left, right] if rank == len(RANK) - 1 else 0.0
    return found["first"][left, rank] + found["last"][rank, right] + whole


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(1.0, 14.0), st.booleans())
def test_the_best_choice_is_found(seed, most, turned):
    found = tables(seed)
    generator = np.random.default_rng(seed + 1)
    values = {
        name: np.cumsum(generator.uniform(0.1, 1, size)).tolist() for name, size in (("a", 3), ("z", 2), ("m", 3))
    }
    nodes = [Node(name, counts, tuple(values[name])) for name, counts in (("a", LEFT), ("z", RIGHT), ("m", RANK))]
    whole = Cost(("z", "a"), {"ms": found["whole"].T}, "m") if turned else Cost(("a", "z"), {"ms": found["whole"]}, "m")
    costs = [Cost(("a", "m"), {"ms": found["first"]}), Cost(("z", "m"), {"ms": found["last"].T}), whole]
    best = max(
        (
            values["a"][left] + values["m"][rank] + values["z"][right]
            for left, rank, right in itertools.product(range(3), range(3), range(2))
            if cost_of(found, left, rank, right) <= most
        ),
        default=None,
    )
    solution = solve(nodes, costs, {"ms": Limit(most)})
    if best is None:
        assert solution is None
        return
    assert solution is not None
    left, rank, right = (
        counts.index(solution.counts[name]) for name, counts in (("a", LEFT), ("m", RANK), ("z", RIGHT))
    )
    assert cost_of(found, left, rank, right) <= most + 1e-6
    assert values["a"][left] + values["m"][rank] + values["z"][right] == pytest.approx(best, rel=2e-3)


def test_costs_behind_different_gates_are_not_added_up():
    table = {"ms": np.ones((2, 2))}
    pairs = [
        Cost(("a", "b"), table),
        Cost(("b", "a"), table),
        Cost(("a", "b"), table, "m"),
        Cost(("a", "b"), table, "n"),
    ]
    assert [(cost.key, cost.amounts["ms"].max()) for cost in merged(pairs)] == [
        (("a", "b"), 2.0),
        (("a", "b", "m"), 1.0),
        (("a", "b", "n"), 1.0),
    ]
