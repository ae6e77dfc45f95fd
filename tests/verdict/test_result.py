import json
import math
from dataclasses import replace

import pytest

from edgeprune.contracts import Limits
from edgeprune.errors import StorageError, UsageError
from edgeprune.verdict.decision import Decision, decide, joined
from edgeprune.verdict.result import AskedBudget, read_result, result_to_dict, write_result


def final_of(result, **changes):
    return replace(result.final, **changes)


def test_a_result_reads_back_equal(result, tmp_path):
    write_result(result, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result


def test_absent_values_read_back_as_absent(result, tmp_path):
    bare = replace(
        result,
        budget=AskedBudget({}),
        final=final_of(result, accuracy=None, latency_p90_ms=None),
        model=replace(result.model, arch=None),
    )
    write_result(bare, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == bare


def test_the_fields_that_people_script_against_keep_their_names(result):
    data = result_to_dict(result)
    assert data["schema"] == 1
    promised = "verdict target kind method controller budget original final rounds allocation stages seconds warnings"
    assert set(promised.split()) <= set(data)
    costs = "latency_p50_ms latency_interval_ms size_bytes macs parameters accuracy"
    assert set(costs.split()) <= set(data["original"])
    assert set(data["seconds"]) == {"training", "measuring", "rest"}
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize("length", [0, 1, 50, 1000])
def test_a_file_that_was_cut_short_is_refused(result, tmp_path, length):
    path = tmp_path / "result.json"
    write_result(result, path)
    path.write_text(path.read_text()[:length])
    with pytest.raises(UsageError, match=r"result\.json is damaged or cut short.*--resume"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema=2), "has schema 2; this version reads schema 1"),
        (lambda data: data.pop("schema"), "has schema None"),
        (lambda data: data.pop("final"), "final: Field required"),
        (lambda data: data["final"].pop("macs"), r"final\.macs: Field required"),
        (lambda data: data["final"].update(macs="many"), r"final\.macs: .*integer"),
        (lambda data: data.update(verdict="maybe"), "verdict: .*'pass', 'fail' or 'inconclusive'"),
        (lambda data: data.update(kind="guess"), "kind: "),
        (lambda data: data["final"].update(latency_interval_ms=[1.0]), r"final\.latency_interval_ms"),
        (lambda data: data["final"].update(latency_interval_ms=[2.0, 3.0]), "final latency .* not inside its interval"),
        (lambda data: data["original"].update(latency_p50_ms=-1.0), "original latency -1.0 ms is not inside"),
        (lambda data: data["allocation"].update(nowhere=3), "group 'nowhere' keeps 3 of None units"),
        (lambda data: data["allocation"].update({"layer1.0.conv1": 17}), "keeps 17 of 16 units"),
    ],
)
def test_a_wrong_field_is_named(result, tmp_path, change, message):
    data = result_to_dict(result)
    change(data)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=message):
        read_result(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_refused(result, tmp_path, value):
    path = tmp_path / "result.json"
    write_result(result, path)
    path.write_text(path.read_text().replace("3.11,", f"{value},", 1))
    with pytest.raises(UsageError, match=f"{value} is not a number"):
        read_result(path)


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="holds a list, not a result"):
        read_result(tmp_path / "result.json")


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read .*result\.json: No such file"):
        read_result(tmp_path / "result.json")


def test_nothing_is_written_when_a_value_is_not_finite(result, tmp_path):
    broken = replace(result, final=final_of(result, latency_p50_ms=math.nan))
    with pytest.raises(UsageError, match="not finite"):
        write_result(broken, tmp_path / "result.json")
    assert not list(tmp_path.iterdir())


def test_an_old_result_survives_a_write_that_fails(result, tmp_path):
    path = tmp_path / "result.json"
    path.mkdir()
    with pytest.raises(StorageError):
        write_result(result, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


class TestDecide:
    def test_everything_inside_passes(self, result):
        limits = Limits(latency_ms=1.9, size_bytes=2e6, macs=61e6)
        assert decide(limits, 0.92, result.final).verdict == "pass"

    def test_no_limits_pass(self, result):
        assert decide(Limits(), None, result.final).verdict == "pass"

    def test_each_violation_is_one_sentence_with_its_numbers(self, result):
        decision = decide(Limits(latency_ms=1.5, size_bytes=1e6, macs=50e6), 0.93, result.final)
        assert decision.verdict == "fail"
        latency, size, macs, accuracy = decision.violations
        assert latency == "The median latency is 1.791 ms, 19.4% above the limit of 1.5 ms."
        assert size == "The size is 1,620,422 bytes, 62.0% above the limit of 1,000,000."
        assert macs.startswith("The work is 60,112,300 multiply-accumulates, 20.2% above")
        assert accuracy == "The accuracy is 92.87%, 0.13 points below the floor of 93.00%."

    def test_memory_at_the_peak_is_limited_where_it_was_measured(self, result):
        final = final_of(result, memory_bytes=9_000_000)
        (sentence,) = decide(Limits(memory_bytes=8e6), None, final).violations
        assert sentence.startswith("The memory of the network at its peak is 9,000,000 bytes, 12.5% above")
        assert decide(Limits(memory_bytes=9e6), None, final).verdict == "pass"

    def test_a_median_at_the_limit_is_inside(self, result):
        final = final_of(result, latency_interval_ms=(1.78, 1.791))
        assert decide(Limits(latency_ms=1.791), None, final).verdict == "pass"

    def test_an_interval_across_the_limit_is_inconclusive(self, result):
        decision = decide(Limits(latency_ms=1.8), None, result.final)
        assert decision.verdict == "inconclusive"
        assert decision.violations == ()
        assert "reaches 1.806 ms" in decision.doubts[0]

    def test_a_median_above_fails_though_the_interval_reaches_below(self, result):
        decision = decide(Limits(latency_ms=1.785), None, result.final)
        assert decision.verdict == "fail"
        assert decision.doubts == ()

    def test_an_unevaluated_accuracy_floor_is_inconclusive(self, result):
        decision = decide(Limits(), 0.9, final_of(result, accuracy=None))
        assert decision.verdict == "inconclusive"
        assert "--data" in decision.doubts[0]

    def test_a_violation_outweighs_a_doubt(self, result):
        decision = decide(Limits(latency_ms=1.8, macs=1.0), None, result.final)
        assert decision.verdict == "fail"
        assert len(decision.doubts) == 1


def test_one_target_that_fails_or_is_unsure_decides_for_all():
    passed, failed = Decision("pass", (), ()), Decision("fail", ("Too slow.",), ())
    unsure = Decision("inconclusive", (), ("Too noisy.",))
    assert joined({"one": passed, "two": passed}) == passed
    assert joined({"one": failed}) == failed
    assert joined({"one": passed, "two": unsure}) == Decision("inconclusive", (), ("On two: Too noisy.",))
    both = Decision("fail", ("On one: Too slow.",), ("On two: Too noisy.",))
    assert joined({"one": failed, "two": unsure}) == both
