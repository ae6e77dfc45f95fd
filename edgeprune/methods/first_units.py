"""Removes the last units of every group: a baseline that looks at nothing.

No paper: what stays is what a narrower network would have had from the start, and any criterion has to beat it.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.network.groups import Scores


class FirstUnits(Method):
    """Importance = how far in front a unit stands in its group, 1 down to near 0; needs no data."""

    def score(self, context: Context) -> Scores:
        """Score every unit."""
        return {
            group.name: tuple(1 - unit / group.size for unit in range(group.size)) for group in context.structure.groups
        }
