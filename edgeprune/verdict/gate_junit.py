"""Writes the outcome of a gate the way CI servers read tests: a suite for each network, a case for each limit."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgeprune.verdict.gate import Check, GateResult, Judgement

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite


def junit_xml(result: GateResult) -> str:
    """Return JUnit XML: a limit that fails is a failure, one that could not be decided an error.

    A limit at the level `warn` never fails a case; what came of it stands in its output.
    """
    from junitparser import JUnitXml

    document = JUnitXml("edgeprune gate")
    for judgement in result.judgements:
        document.add_testsuite(_suite(judgement))
    document.update_statistics()
    root = ElementTree.fromstring(document.tostring())
    root.attrib.pop("skipped", None)  # the schema of Jenkins counts skipped cases in a suite only
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(judgement: Judgement) -> TestSuite:
    from junitparser import TestSuite

    record = judgement.candidate
    suite = TestSuite(f"{record.model} on {record.target}")
    facts = {
        "kind": record.kind,
        "runtime": record.runtime,
        "board": record.fingerprint or "unknown",
        "how": judgement.effort.how,
        "processes": str(judgement.effort.pairs),
    }
    for name, value in facts.items():
        suite.add_property(name, value)
    for check in judgement.checks:
        suite.add_testcase(_case(check, judgement))
    return suite


def _case(check: Check, judgement: Judgement) -> TestCase:
    from junitparser import Error, Failure, Skipped, TestCase

    record = judgement.candidate
    case = TestCase(f"{check.limit.name} {check.limit.text}".strip(), f"{record.target}.{record.model}", 0.0)
    if check.outcome == "off":
        case.result = [Skipped(check.sentence)]
    elif check.counts and check.outcome != "pass":
        kind = Failure if check.outcome == "fail" else Error
        found = kind(check.sentence, check.outcome)
        found.text = "\n".join([check.sentence, *judgement.why.sentences(), *judgement.warnings])
        case.result = [found]
    else:
        case.system_out = check.sentence if check.outcome == "pass" else f"Warning: {check.sentence}"
    return case
