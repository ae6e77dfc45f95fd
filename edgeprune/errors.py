"""What can go wrong, as a tree; each branch carries the exit code of the command line.

EdgepruneError
├── UsageError                 2  the caller can fix it by asking differently
│   ├── ModelError                the network cannot be loaded or does not fit
│   ├── DataError                 the data cannot be loaded or does not fit
│   ├── PlanError                 the plan breaks a constraint of the network
│   ├── UnknownNameError          no plug-in, group or flag of that name
│   └── MissingExtraError         an optional package is not installed
├── BudgetError                1  the budget or gate failed
├── InconclusiveError          3  too noisy to say
├── BoardError                 4  the board is unreachable or unhealthy
│   └── LinkLostError             the connection broke: asking again reconnects
└── StepError                  5  a step failed
    ├── ExportError               the network could not be exported
    ├── BuildError                the runtime refused the exported network
    ├── VerificationError         two versions of a network disagree
    ├── TrainingError             training diverged or could not go on
    └── StorageError              a file could not be written or read back
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgepruneError(Exception):
    """Anything edgeprune refuses or fails to do; `exit_code` is what the command line returns."""

    exit_code = 5


class UsageError(EdgepruneError):
    """The request cannot be carried out as asked; asking differently fixes it."""

    exit_code = 2


class ModelError(UsageError):
    """The network cannot be loaded, or does not fit its weights or inputs."""


class DataError(UsageError):
    """The data cannot be loaded, or does not fit the network."""


class PlanError(UsageError):
    """A plan breaks a constraint of the network; the message says which."""


class UnknownNameError(UsageError):
    """A name that nothing answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """State what was asked for, the nearest known name and where to see all of them."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listing = ", ".join(known) if known else "none"
        super().__init__(f"Unknown {kind} {name!r}.{hint} Known: {listing}.")


class MissingExtraError(UsageError):
    """An optional package is missing; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the missing package and the extra that brings it."""
        super().__init__(f"{package} is not installed. Run: pip install 'edgeprune[{extra}]'")


class BudgetError(EdgepruneError):
    """The budget could not be met; the best found is kept on disk."""

    exit_code = 1


class InconclusiveError(EdgepruneError):
    """The measurement is too noisy to decide."""

    exit_code = 3


class BoardError(EdgepruneError):
    """The board cannot be reached, or is not fit to be measured."""

    exit_code = 4


class LinkLostError(BoardError):
    """The connection to the board broke in the middle of something; what is asked next connects again."""


class StepError(EdgepruneError):
    """A step of the pipeline failed on valid input."""


class ExportError(StepError):
    """The network could not be exported."""


class BuildError(StepError):
    """The runtime could not build or open the artifact."""


class VerificationError(StepError):
    """Two versions of a network that must agree do not; the message names the place."""


class TrainingError(StepError):
    """Training diverged or could not go on."""


class StorageError(StepError):
    """A file could not be written or read back intact."""
