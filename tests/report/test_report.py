import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trimtab.plan import (
    Aspect,
    Behaviour,
    Budget,
    Check,
    Cpu,
    Drop,
    Finding,
    FrontierPoint,
    Hotspots,
    Measurement,
    OperatorTime,
    Plan,
    Proof,
    Result,
    Spread,
    Timeline,
)
from trimtab.report import (
    LayerRow,
    ReportDetails,
    Stages,
    before_after,
    behaviour_lines,
    limit_rows,
    quantity_rows,
    terminal,
    why_lines,
    write_report,
)
from trimtab.report import numbers as say
from trimtab.report.advice import advice
from trimtab.report.behaviour import Changed
from trimtab.report.details import Histogram, Sensitivity
from trimtab.report.figures import figures

BEFORE = Measurement(metric=0.9944, file_bytes=672_345, macs=4_060_000, bops=4_157_440_000, latency_ms=0.312)
AFTER = Measurement(
    metric=0.9917,
    file_bytes=61_234,
    macs=903_000,
    bops=57_792_000,
    latency_ms=0.081,
    spread=Spread(q25_ms=0.079, q75_ms=0.088, runs=400),
)


def result(**changed):
    parts = {
        "trimtab": "0.1.0",
        "task": "digits",
        "target": "onnxruntime",
        "seed": 0,
        "budget": Budget(drop=0.01, size="10%"),
        "met": True,
        "why": "every limit holds",
        "baseline": BEFORE,
        "compressed": AFTER,
        "drop": Drop(value=0.0027, ci95=(-0.0028, 0.0083)),
        "plan": Plan(fingerprint="ab" * 32, target="onnxruntime"),
        "proof": Proof(
            executed_on="ONNX Runtime",
            integer_ops={"QLinearConv": 6},
            float_ops={"Softmax": 1},
            max_abs_diff=0.03125,
            agreement=0.9972,
            identical_rows=1.0,
            rows=360,
        ),
        "artifact": "runs/digits/model.onnx",
        "seconds": {"profile": 8.3, "recover": 125.0, "total": 140.0},
        "frontier": tuple(
            FrontierPoint(costs={"size": 40_000.0 * step}, drop=0.03 / step - 0.01, recovered=step == 2)
            for step in range(1, 6)
        ),
    }
    return Result(**(parts | changed))


LAYER = LayerRow(
    name="conv1",
    operator="convolution",
    width_before=32,
    width_after=24,
    weight_bits=8,
    activation_bits=8,
    bytes_before=16_800,
    bytes=4200,
    kernel="integer",
)
DETAILS = ReportDetails(layers=(LAYER,), command="trimtab compress digits --drop 0.01 --size 10%")


class Page(HTMLParser):
    """Checks that elements nest, and collects text, tags and addresses."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.words, self.tags, self.addresses = [], [], [], []
        self.feed(text)
        assert self.stack == []

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in {"src", "href"}]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in {"style", "script"}:
            self.words.append(data)


def page(tmp_path, details=DETAILS, **changed):
    text = write_report(result(**changed), details, tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_the_page_says_it_all_and_needs_nothing_else(tmp_path):
    found, source = page(tmp_path)
    for words in (
        "✓ budget met",
        "every limit holds",
        "61.2 kB at most 67.2 kB (10 %)",
        "0.0027 at most 0.0100",
        "0.9944 0.9917",
        "99.72 % of predictions agree",
        "100 % of rows equal the integer simulation",
        "QLinearConv × 6",
        "Softmax × 1",
        "conv1 convolution 32 → 24 8 8 integer 4.2 kB",
        "recover 2 min 05 s",
        "2 min 20 s in all",
        "trimtab compress digits --drop 0.01 --size 10%",
        "95 % interval of the drop: −0.0028 … +0.0083",
    ):
        assert words in found.text
    assert found.addresses == []
    assert "default-src 'none'" in source
    own = source.partition("<script>")[0]
    assert not re.search(r"https?:|url\(|@import", own)
    assert len(source) < 6_000_000


def test_a_budget_not_met_shows_which_limit(tmp_path):
    found, source = page(
        tmp_path, met=False, why="the file is too large", compressed=AFTER.model_copy(update={"file_bytes": 99_999})
    )
    assert "✕ budget not met" in found.text
    assert "the file is too large" in found.text
    assert "100 kB at most 67.2 kB" in found.text
    assert source.count('class="over"') == 1


def test_names_are_text_and_not_markup(tmp_path):
    nasty = "<script>alert(1)</script>"
    details = ReportDetails(layers=(LAYER.model_copy(update={"name": nasty}),), command=nasty)
    points = (FrontierPoint(costs={"size": 1000.0}, drop=0.0, recovered=False, label=nasty),)
    found, source = page(tmp_path, details, task=nasty, why=nasty, notes=(nasty,), artifact=nasty, frontier=points)
    assert nasty not in source
    assert found.text.count(nasty) >= 6


def test_a_page_with_little_to_say(tmp_path):
    bare = Measurement()
    found, _ = page(
        tmp_path,
        ReportDetails(layers=(), command="x"),
        baseline=bare,
        compressed=bare,
        frontier=(),
        seconds={},
    )
    assert "not measured" in found.text
    assert "Frontier" not in found.text


def test_limits_are_judged_by_what_was_measured():
    rows = {row.quantity: row for row in limit_rows(result(budget=Budget(drop=0.002, size="10%", latency="50us")))}
    assert (rows["drop"].holds, rows["size"].holds, rows["latency"].holds) == (False, True, False)
    assert rows["size"].used == pytest.approx(61_234 / 67_234.5)
    assert rows["latency"].used == pytest.approx(81 / 50)
    memory = limit_rows(result(budget=Budget(memory="64MB")))[0]
    assert (memory.holds, memory.used, memory.measured) == (None, None, "not measured")
    at_all = limit_rows(result(budget=Budget(drop=0.0), drop=Drop(value=-0.001, ci95=(0.0, 0.0))))[0]
    assert at_all.holds
    assert at_all.used == 0


def test_with_a_confidence_the_bound_is_what_is_held_against_the_limit():
    sure = Drop(value=0.004, ci95=(0.0, 0.011), confidence=0.95, bound=0.0105)
    row = limit_rows(result(drop=sure))[0]
    assert (row.quantity, row.holds, row.measured) == ("drop", False, "0.0105")


def test_quantities_that_were_measured_once_are_left_out():
    rows = quantity_rows(result(baseline=BEFORE.model_copy(update={"macs": None})))
    assert [row.quantity for row in rows] == ["drop", "size", "latency", "bops"]
    assert rows[1].change == "11× less"
    assert rows[1].left == pytest.approx(61_234 / 672_345)


def test_zeros_are_a_row_where_there_are_any():
    sparse = result(compressed=AFTER.model_copy(update={"zeros": 0.905}))
    assert [(row.name, row.before, row.after) for row in quantity_rows(sparse)][-1] == ("zero weights", "0 %", "90.5 %")
    assert "zeros" not in {row.quantity for row in quantity_rows(result())}


POINTS = st.lists(
    st.builds(
        FrontierPoint,
        costs=st.fixed_dictionaries({"size": st.floats(1e3, 1e6)}),
        drop=st.floats(-0.01, 1.0),
        recovered=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def drawn(name, details=DETAILS, **changed):
    figure = figures(result(**changed), details).get(name)
    return figure and json.loads(figure.spec)


@given(POINTS)
def test_every_point_of_the_frontier_is_drawn_and_the_best_are_joined(points):
    traces = drawn("frontier", frontier=tuple(points))["data"]
    dots = {(x, y) for trace in traces[:2] for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert dots == {(point.costs["size"], point.drop) for point in points}
    assert len(traces[0]["x"]) == sum(not point.recovered for point in points)
    line = list(zip(traces[2]["x"], traces[2]["y"], strict=True))
    for x, y in dots:
        beaten = any((a <= x and b < y) or (a < x and b <= y) for a, b in dots)
        assert ((x, y) in line) == (not beaten)
    low, high = drawn("frontier", frontier=tuple(points))["layout"]["yaxis"]["range"]
    assert low < min(y for _, y in dots)
    assert sum(point.drop <= high for point in points) >= len(points) / 2


def test_the_limits_and_the_artifact_are_where_their_values_are():
    points = (
        FrontierPoint(costs={"size": 67_234.5}, drop=0.01, recovered=False),
        FrontierPoint(costs={"latency": 1.0}, drop=0.5, recovered=False),
    )
    spec = drawn("frontier", frontier=points)
    across, up = spec["layout"]["shapes"]
    assert across["x0"] == across["x1"] == pytest.approx(67_234.5)
    assert up["y0"] == up["y1"] == 0.01
    assert (spec["data"][3]["x"], spec["data"][4]["x"]) == ([672_345], [61_234])
    assert spec["data"][4]["y"] == [0.0027]
    assert drawn("frontier", frontier=()) is None
    over = drawn("frontier", budget=Budget(latency="0.5x"), frontier=points)
    assert over["layout"]["xaxis"]["title"]["text"] == "latency"


def test_figures_of_layers_weights_and_sensitivity():
    details = ReportDetails(
        layers=(LAYER,),
        command="x",
        histograms=tuple(
            Histogram(layer=name, low=-1.0, width=0.5, before=(0.1, 0.4, 0.4, 0.1), after=(0, 0.5, 0.5, 0))
            for name in ("a", "b")
        ),
        sensitivity=(
            Sensitivity(unit="conv1", losses={"½ width": 0.1, "4 bits": 0.001}),
            Sensitivity(unit="block", losses={"removed": 0.02}),
        ),
    )
    assert drawn("bytes", details)["data"][0]["y"] == [16_800]
    weights = drawn("weights", details)
    assert [trace["visible"] for trace in weights["data"]] == [True, True, False, False]
    assert [button["label"] for button in weights["layout"]["updatemenus"][0]["buttons"]] == ["a", "b"]
    assert weights["layout"]["updatemenus"][0]["buttons"][1]["args"] == ["visible", [False, False, True, True]]
    heat = drawn("sensitivity", details)["data"][0]
    assert (heat["x"], heat["y"]) == (["½ width", "4 bits", "removed"], ["conv1", "block"])
    assert heat["text"] == [["0.1", "0.001", ""], ["", "", "0.02"]]
    assert heat["z"][0][:2] == pytest.approx([-1.0, -3.0])


def test_every_figure_has_its_numbers_as_a_table(tmp_path):
    found, _ = page(tmp_path)
    assert "The numbers" in found.text
    figure = figures(result(), DETAILS)["frontier"]
    assert len(figure.rows) == 7
    assert all(len(row) == len(figure.columns) for row in figure.rows)


BEHAVIOUR = Behaviour(
    checks=(
        Check(name="agreement", measured=0.2, at_most=0.1, verdict="20 % changed <b>"),
        Check(
            name="classes",
            measured=0.0,
            at_most=0.02,
            verdict="none paid",
            aspects=tuple(Aspect(label=f"class {n}", before=0.9, after=0.8 + n / 100) for n in range(4)),
        ),
    ),
    left_out={"calibration": "3 labels are too few"},
)


def test_the_page_shows_behaviour_and_the_rows_that_changed(tmp_path):
    row = Changed(
        row=17, label="3", before="3 (90 %)", after="5 (51 %)", right=False, picture="data:image/png;base64,AA"
    )
    details = DETAILS.model_copy(update={"changed": (row,)})
    found, _ = page(tmp_path, details, behaviour=BEHAVIOUR)
    for words in (
        "✕ agreement 0.2 0.1 20 % changed <b>",
        "✓ classes 0 0.02 none paid",
        "– calibration left out: 3 labels are too few",
        "row 17, is 3 3 (90 %) ✕ 5 (51 %)",
    ):
        assert words in found.text
    assert found.addresses == ["data:image/png;base64,AA"]
    assert drawn("classes", behaviour=BEHAVIOUR)["data"][1]["y"] == pytest.approx([0.8, 0.81, 0.82, 0.83])
    assert Result.from_json(result(behaviour=BEHAVIOUR).to_json(), where="it").behaviour == BEHAVIOUR
    lines = behaviour_lines(BEHAVIOUR).plain.splitlines()
    assert lines[1] == "✕ agreement: 20 % changed <b>"
    assert lines[3] == "– calibration left out: 3 labels are too few"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "drop of the metric: 73 % of the limit is not used"),
        ({"met": False, "drop": Drop(value=0.03, ci95=(0.0, 0.1))}, "--minutes or --epochs"),
        (
            {"met": False, "compressed": AFTER.model_copy(update={"file_bytes": 90_000})},
            "the least file size within the drop was 80 kB: ask for that with --size",
        ),
        (
            {"compressed": AFTER.model_copy(update={"latency_ms": 0.31})},
            "it is hardly faster: limit the latency itself",
        ),
        ({"behaviour": BEHAVIOUR}, "agreement: 20 % changed <b>"),
        (
            {"budget": Budget(size="10%"), "compressed": AFTER.model_copy(update={"file_bytes": 67_000})},
            "nothing: every limit is nearly used up",
        ),
    ],
)
def test_what_to_try_next(changed, says):
    assert any(says in sentence for sentence in advice(result(**changed)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (say.size(999), "999 B"),
        (say.size(61_234), "61.2 kB"),
        (say.size(1_500_000), "1.5 MB"),
        (say.count(40_600_000), "40.6 M"),
        (say.count(12), "12"),
        (say.milliseconds(0.081), "81 µs"),
        (say.milliseconds(12.34), "12.3 ms"),
        (say.milliseconds(1234.0), "1234 ms"),
        (say.seconds(0.84), "0.8 s"),
        (say.seconds(59.7), "1 min 00 s"),
        (say.seconds(125), "2 min 05 s"),
        (say.percent(1.0), "100 %"),
        (say.percent(0.9999, 2), "99.99 %"),
        (say.percent(0.999999, 2), "99.99 %"),
        (say.percent(0.1), "10 %"),
        (say.percent(0.0), "0 %"),
        (say.signed(-0.0028), "−0.0028"),
        (say.three(0), "0"),
        (say.three(0.00001234), "1.2e-05"),
        (say.three(0.001234), "0.00123"),
        (say.three(123456.0), "123456"),
    ],
)
def test_numbers_as_people_read_them(text, expected):
    assert text == expected


@given(st.floats(1.0, 1e14))
def test_counts_keep_three_digits(value):
    number, _, letter = say.count(value).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[letter]
    assert math.isclose(float(number) * factor, value, rel_tol=0.006)


def console(**options):
    return Console(file=io.StringIO(), width=100, color_system=None, **options)


def test_the_table_in_the_terminal():
    out = console()
    out.print(before_after(result(why="every limit [of all] holds")))
    text = out.file.getvalue()
    for words in ("digits  ✓ budget met", "672 kB", "61.2 kB", "11× less", "✓ ≤ 67.2 kB (10 %)", "[of all]"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    out = console()
    out.print(before_after(result(met=False, budget=Budget(memory="1MB", drop=0.001))))
    text = out.file.getvalue()
    assert "✕ budget not met" in text
    assert "? ≤" in text
    assert "✕ ≤ 0.0010" in text


def test_stages_are_one_line_each_outside_a_terminal():
    out = console()
    stages = Stages(quiet=False, console=out)
    with stages.stage("profile", total=2) as advance:
        advance()
        advance(1)
    with stages.stage("search"):
        pass
    assert re.fullmatch(r"profile +0\.0 s\nsearch +0\.0 s\n", out.file.getvalue())


def test_a_stage_that_fails_is_not_called_done():
    out = console()

    def fail():
        with Stages(quiet=False, console=out).stage("lower"):
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert out.file.getvalue() == ""


def test_quiet_is_silent():
    out = console(force_terminal=True)
    with Stages(quiet=True, console=out).stage("profile", total=3) as advance:
        advance()
    assert out.file.getvalue() == ""


def test_a_terminal_shows_a_bar_only_when_a_stage_takes_long(monkeypatch):
    def shown(patience):
        monkeypatch.setattr(terminal, "PATIENCE_S", patience)
        out = console(force_terminal=True)
        with Stages(quiet=False, console=out).stage("profile", total=3) as advance:
            advance()
        return out.file.getvalue()

    assert "━" in shown(-1.0)
    quick = shown(60.0)
    assert "━" not in quick
    assert "profile" in quick


def test_why_it_is_not_faster(tmp_path):
    conv = OperatorTime(operator="QLinearConv", kind="integer", layer="conv1", calls=2, milliseconds=0.4)
    sigmoid = OperatorTime(operator="Sigmoid", kind="float", calls=1, milliseconds=0.1)
    before = OperatorTime(operator="Conv", kind="float", calls=2, milliseconds=1.2)
    finding = Finding(about="fallback", says="Sigmoid runs in float <b>", remedy="take ReLU", share=0.2)
    dots = Finding(about="instructions", says="no VNNI", remedy="measure elsewhere")
    found = Hotspots(
        before=Timeline(total_ms=1.3, operators=(before,)),
        after=Timeline(total_ms=0.52, operators=(conv, sigmoid)),
        cpu=Cpu(name="EPYC", cores=2, integer_dots=("avx_vnni",)),
        threads=1,
        findings=(dots, finding),
    )
    assert "faster?" not in page(tmp_path)[0].text
    text = page(tmp_path, hotspots=found)[0].text
    for words in (
        "Why is it not faster?",
        "Sigmoid runs in float <b> 20 % take ReLU",
        "no VNNI – measure elsewhere",
        "convolution 1.2 ms 0.4 ms 3× less",
        "activation 0.1 ms –",
        "conv1 0.4 ms",
        "EPYC, 1 of 2 cores, int8 products by avx_vnni.",
        "artifact 0.52 ms, float 1.3 ms",
    ):
        assert words in text
    lines = why_lines(found).plain.splitlines()
    assert lines[1] == "• Sigmoid runs in float <b>; take ReLU"
    assert lines[2] == "• no VNNI; measure elsewhere"
    assert "nothing stands out" in why_lines(found.model_copy(update={"findings": ()})).plain
    assert Result.from_json(result(hotspots=found).to_json(), where="it").hotspots == found
