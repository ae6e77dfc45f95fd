import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from run_folders import example_trials, measurement, ranked_layers

from edgeprune.errors import UsageError
from edgeprune.verdict.figures import outside_part, shown_range
from edgeprune.verdict.history import read_history
from edgeprune.verdict.report import write_report
from edgeprune.verdict.result import AskedBudget, LayerTime, LayerTimes, SlowerCut, Stages
from edgeprune.verdict.tables import group_bars, layer_bars

_VOID = {"meta", "br", "link", "img", "hr", "input"}
_HOSTILE = "<script>alert(1)</script>&\"'|`$\\frac{1}{2}$"


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order; collects attributes, ids and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def report(run_dir):
    html, markdown = write_report(run_dir)
    return Page(html.read_text()), html.read_text(), markdown.read_text()


@pytest.mark.parametrize("blocks", [1, 2, 9, 20])
def test_every_group_is_shown_with_its_counts(make_run, blocks):
    run_dir = make_run(blocks=blocks)
    page, _, _ = report(run_dir)
    result = json.loads((run_dir / "result.json").read_text())
    assert len(result["group_sizes"]) == 3 * blocks
    for name, size in result["group_sizes"].items():
        assert f"{name} {result['allocation'][name]} of {size}" in page.words


def test_the_first_sentence_is_the_verdict(make_run):
    page, _, markdown = report(make_run())
    sentence = (
        "resnet56 runs in 1.791 ms on host, 42 % less time than before, within the limit of 1.866 ms; "
        "it is 92.87 % accurate (\N{MINUS SIGN}0.52 points)."
    )
    assert sentence in page.words
    assert markdown.startswith(f"### Passed: {sentence}\n")


def test_the_page_loads_nothing(make_run):
    page, html, _ = report(make_run())
    assert not re.search(r"https?://|@import|url\((?!['\"]?#)", html)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "img", "object"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_ids_are_unique_and_every_reference_is_answered(make_run):
    page, html, _ = report(make_run())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert used
    assert set(used) <= set(ids)


def test_every_drawing_has_a_description_and_text_that_is_text(make_run):
    page, _, _ = report(make_run())
    drawings = [a for tag, a in page.elements if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(drawings) == 3
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    assert "latency of one inference, milliseconds" in page.words
    assert "limit 1.866 ms" in page.words


def test_drawings_take_their_colours_from_the_page(make_run):
    _, html, _ = report(make_run())
    drawings = re.findall(r'<svg role="img".*?</svg>', html, re.DOTALL)
    assert drawings
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--ink)" in drawing or "var(--muted)" in drawing


def test_hostile_names_stay_text(make_run, result):
    sizes = {_HOSTILE: 8, **result.group_sizes}
    layers = LayerTimes((replace(result.layers.original[0], name=_HOSTILE),), ())
    run_dir = make_run(
        group_sizes=sizes,
        layers=layers,
        target=_HOSTILE,
        method=_HOSTILE,
        warnings=(_HOSTILE,),
        violations=(_HOSTILE,),
        command=("edgeprune", _HOSTILE),
        proofs=(replace(result.proofs[0], what=_HOSTILE),),
        budget=AskedBudget({_HOSTILE: _HOSTILE}),
    )
    page, html, markdown = report(run_dir)
    assert "<script" not in html
    assert page.words.count(_HOSTILE) >= 5
    assert "<script" not in markdown
    for line in markdown.splitlines():
        assert not line.startswith("|") or line.count("|") in {5, 6}


def test_no_home_folder_and_no_user_name_is_passed_on(make_run, result):
    run_dir = make_run(
        command=(
            "/home/jane/bin/edgeprune",
            "compress",
            "/home/jane/net.pt",
            "--data",
            "/root/images",
            "--out",
            "/Users/jane/runs",
        ),
        model=replace(result.model, path="/home/jane/net.pt"),
        warnings=("Could not read /home/jane/.cache.",),
    )
    (run_dir / "manifest.json").write_text(json.dumps({"request": {"data": "/home/jane/images"}}))
    page, html, markdown = report(run_dir)
    for text in (html, markdown):
        assert "jane" not in text
        assert "/root" not in text
    assert "edgeprune compress ~/net.pt --data ~/images --out ~/runs" in page.words


@pytest.mark.parametrize("kind", ["icount", "emulated"])
def test_a_board_that_is_not_real_is_named_so_everywhere(make_run, kind):
    page, _, markdown = report(make_run(kind=kind))
    assert f"target host, {kind}" in page.words
    assert f"No real board was timed ({kind})" in page.words
    assert page.words.count(kind) >= 4
    assert markdown.count(kind) >= 2


def test_a_real_board_is_not_called_unreal(make_run):
    page, _, _ = report(make_run())
    assert "No real board" not in page.words


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_violations_and_warnings_are_in_both_files(make_run, verdict):
    run_dir = make_run(verdict=verdict, violations=("The size is too large.",), warnings=("The machine was busy.",))
    page, _, markdown = report(run_dir)
    for sentence in ("The size is too large.", "The machine was busy."):
        assert sentence in page.words
        assert sentence in markdown
    assert markdown.startswith("### Failed" if verdict == "fail" else "### Inconclusive")


def test_cuts_that_are_slower_than_the_layer_are_shown_as_rejected(make_run):
    page, _, markdown = report(make_run(slower_cuts=(SlowerCut("layer1.0.conv1", 64, 62, 2.44, 2.0),)))
    assert "rejected because they are slower" in page.words
    assert "layer1.0.conv1 64 62 2.440 ms 2.000 ms" in page.words
    assert "| layer1.0.conv1 | 64 | 62 | 2.440 ms | 2.000 ms |" in markdown
    page, _, markdown = report(make_run())
    assert "rejected because" not in page.words
    assert "Rejected" not in markdown


def test_a_limit_inside_the_interval_is_unsure(make_run):
    page, _, markdown = report(make_run(budget=AskedBudget({"latency": "1.8ms"}, latency_ms=1.8)))
    assert "too close to the limit of 1.800 ms to be sure" in page.words
    assert "1.800 ms, unsure" in page.words
    assert "1.800 ms, **unsure**" in markdown


def test_a_report_without_profile_data_and_trials_says_why(make_run, result):
    run_dir = make_run(
        trials=[],
        layers=LayerTimes(),
        stages=Stages(),
        proofs=(),
        recovery=(),
        original=replace(result.original, accuracy=None, latency_p90_ms=None),
        final=replace(result.final, accuracy=None, latency_p90_ms=None),
    )
    (run_dir / "manifest.json").unlink()
    page, _, _ = report(run_dir)
    assert "The runtime onnxruntime gave no times per layer" in page.words
    assert "no raw samples of both networks" in page.words
    assert "No accuracy was evaluated" in page.words
    assert "too few samples" in page.words


def test_the_slowest_layers_keep_their_order_and_the_rest_is_summed(result):
    bars = layer_bars(result)
    assert len(bars) == 17
    total = sum(layer.milliseconds for layer in result.layers.original)
    assert sum(float(bar.before) for bar in bars) == pytest.approx(total, abs=0.01)
    order = [layer.name for layer in result.layers.original]
    assert [bar.name for bar in bars[:-1]] == sorted((bar.name for bar in bars[:-1]), key=order.index)
    assert max(bar.before_part for bar in bars) == 100


def test_a_chain_is_shown_beside_the_layer_that_it_replaced(result):
    (chain, *_) = ranked_layers()
    parts = [LayerTime(f"{chain.layer}.{place}", 1.0 + place) for place in (0, 1)]
    others = [layer for layer in result.layers.final if layer.name != chain.layer]
    layers = LayerTimes(result.layers.original, (*parts, *others))
    bars = {bar.name: bar for bar in layer_bars(replace(result, layers=layers, ranked_layers=(chain,)))}
    assert float(bars[chain.layer].after) == pytest.approx(3.0)
    assert not {part.name for part in parts} & bars.keys()


def test_a_group_that_was_left_alone_is_whole(result):
    bars = group_bars(replace(result, allocation={}))
    assert {bar.after_part for bar in bars} == {100.0}


def test_layers_with_ranks_are_listed_with_both_times_and_their_spectra(make_run):
    page, html, markdown = report(make_run(ranked_layers=ranked_layers()))
    row = "layer1.0.conv1 factorised spatial 12 0.04130 0.02870 99.91 %"
    assert row in page.words
    assert "layer1.1.<i> rejected: slower tucker-2 4 x 6 0.01190 0.01720" in page.words
    assert "| layer1.0.conv1 | factorised | spatial 12 | 0.04130 | 0.02870 | 99.91 % |" in markdown
    assert 'aria-label="Energy by rank of 3 layers, before and after"' in html
    assert "after the training" in page.words


def test_a_run_without_ranks_says_nothing_of_them(make_run):
    page, _, markdown = report(make_run())
    assert "low rank" not in page.words
    assert "energy kept" not in markdown


def test_rounds_are_read_in_the_order_of_the_search(make_run):
    history = read_history(make_run())
    assert [point.label for point in history.rounds] == ["1", "2", "3", "4", "5", "6"]
    assert [point.feasible for point in history.rounds] == [False, True, False, True, True, True]
    assert len(history.before.pooled) == 720
    assert len(history.before.processes) == 3


def test_the_original_is_shown_as_measured_beside_the_final(make_run):
    trials = example_trials()
    trials[-1]["original_measurement"] = measurement(3.2, seed=1)
    history = read_history(make_run(trials=trials))
    assert history.before.median_ms == 3.2
    assert history.after.median_ms == 1.791


def test_the_last_line_of_a_killed_run_does_not_count(make_run):
    run_dir = make_run()
    with (run_dir / "trials.jsonl").open("a") as file:
        file.write('{"stage": "search", "index": 6, "outc')
    assert len(read_history(run_dir).rounds) == 6


def test_a_stall_does_not_squeeze_the_distributions(make_run):
    history = read_history(make_run())
    low, high = shown_range(history.before, history.after, 1.866)
    assert 1.6 < low < 1.791
    assert 3.110 < high < 3.5
    assert outside_part(history.before, history.after, 1.866) == pytest.approx(6 / 1440, abs=0.006)


def test_a_limit_is_drawn_unless_it_is_so_far_that_it_squeezes_the_rest(make_run):
    history = read_history(make_run())
    low, high = shown_range(history.before, history.after, 0.5)
    assert low < 0.5 < 3.110 < high
    assert shown_range(history.before, history.after, 5.0)[1] > 5.0
    assert shown_range(history.before, history.after, 100.0)[1] < 3.5


def test_a_limit_far_above_leaves_the_drawings_readable(make_run):
    page, _, _ = report(make_run(budget=AskedBudget({"latency": "100ms"}, latency_ms=100.0)))
    assert "within the limit of 100.0 ms" in page.words
    assert "limit 100.0 ms" not in page.words


@pytest.mark.parametrize("line", ['{"stage": "search"}', '{"stage": "final", "measurement": {"runs": 3}}'])
def test_a_trial_of_another_form_is_one_clear_error(make_run, line):
    run_dir = make_run()
    (run_dir / "trials.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=r"trials\.jsonl is not of this version"):
        write_report(run_dir)


def test_a_folder_without_a_result_leaves_nothing_behind(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read .*result\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_run_gives_the_same_bytes(make_run):
    run_dir = make_run()
    first = [path.read_bytes() for path in write_report(run_dir)]
    assert [path.read_bytes() for path in write_report(run_dir)] == first


def test_sixty_groups_and_ten_thousand_samples_are_drawn_quickly(make_run):
    begin = time.perf_counter()
    html, _ = write_report(make_run(blocks=20))
    assert time.perf_counter() - begin < 10
    assert html.stat().st_size < 400_000


def test_ranks_are_not_counted_among_the_channels(result, make_run):
    layers = tuple(replace(layer, group=f"{layer.layer}:rank") for layer in ranked_layers())
    ranks = {layer.group: 48 for layer in layers}
    both = replace(result, ranked_layers=layers, group_sizes={**result.group_sizes, **ranks})
    assert [bar.name for bar in group_bars(both)] == list(result.group_sizes)
    _, html, markdown = report(make_run(ranked_layers=layers, group_sizes=ranks, allocation={}))
    assert "What stays of each group" not in html
    assert "units stay" not in markdown
