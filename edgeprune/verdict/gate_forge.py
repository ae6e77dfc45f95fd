"""Says what failed where a forge shows it: annotations of GitHub, the code quality report of GitLab."""

from __future__ import annotations

import hashlib
import json

from edgeprune.verdict.gate import Check, GateResult


def github_annotations(result: GateResult) -> str:
    """Return one workflow command a line, for each limit that did not pass."""
    lines = []
    for place, check in _not_passed(result):
        command = "warning" if not check.counts else "error"
        title = f"{check.limit.name} of {place}" + ("" if check.outcome == "fail" else " is inconclusive")
        properties = f"file={_property(result.limits)},line={check.limit.line},title={_property(title)}"
        lines.append(f"::{command} {properties}::{_data(check.sentence)}")
    return "".join(f"{line}\n" for line in lines)


def gitlab_code_quality(result: GateResult) -> str:
    """Return the JSON that GitLab shows beside the changed lines."""
    findings = [
        {
            "description": f"{place}: {check.sentence}",
            "check_name": f"edgeprune.{check.limit.name}",
            "fingerprint": hashlib.sha256(f"{place} {check.limit.name}".encode()).hexdigest(),
            "severity": "minor" if not check.counts else "major" if check.outcome == "inconclusive" else "critical",
            "location": {"path": result.limits, "lines": {"begin": check.limit.line}},
        }
        for place, check in _not_passed(result)
    ]
    return json.dumps(findings, indent=1) + "\n"


def _not_passed(result: GateResult) -> list[tuple[str, Check]]:
    return [
        (f"{judgement.candidate.model} on {judgement.candidate.target}", check)
        for judgement in result.judgements
        for check in judgement.checks
        if check.outcome in ("fail", "inconclusive")
    ]


def _data(text: str) -> str:
    """Escape what follows a workflow command's second colons."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
