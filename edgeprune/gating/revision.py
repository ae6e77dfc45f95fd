"""Which commit and branch a result belongs to: what the CI says, else what git says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from edgeprune.verdict.store import Revision

# In the order of trust: a merge request's own branch before the name that the CI checked out.
_COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA")
_BRANCHES = ("GITHUB_HEAD_REF", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")


def current_revision() -> Revision:
    """Return where the project stands; empty where neither CI nor git knows."""
    commit = _first(_COMMITS) or _git("rev-parse", "HEAD")
    branch = _first(_BRANCHES) or _git("symbolic-ref", "--short", "--quiet", "HEAD")
    return Revision(commit, branch)


def commit_of(ref: str) -> str:
    """Return the commit that git knows under a name; "" where it knows none."""
    return "" if ref.startswith("-") else _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")


def _first(names: Sequence[str]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
