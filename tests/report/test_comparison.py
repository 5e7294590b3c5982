"""Runs side by side: every quantity of every run, the best marked, and what cannot be compared refused."""

from pathlib import Path

import pytest
from test_report import AFTER, BEHAVIOUR, Page, result
from typer.testing import CliRunner

from trimtab.cli import app
from trimtab.errors import ConfigError, RunError
from trimtab.plan import Drop
from trimtab.report import Comparison, write_comparison
from trimtab.report.figures import artifacts

SMALL = result()
EXACT = result(
    met=False,
    compressed=AFTER.model_copy(update={"file_bytes": 99_999, "latency_ms": None}),
    drop=Drop(value=0.001, ci95=(-0.002, 0.004)),
    behaviour=BEHAVIOUR,
)


def test_every_quantity_is_there_and_the_best_is_marked(tmp_path: Path) -> None:
    compared = Comparison({"small": SMALL, "exact": EXACT})
    assert compared.columns == ("run", "budget", "metric", "drop", "file size", "latency", "MACs", "BOPs")
    small, exact = compared.rows
    assert [cell.text for cell in small][:6] == ["small", "✓ met", "0.9917", "0.0027", "61.2 kB", "81 µs"]
    assert [cell.text for cell in exact][1:6] == ["✕ not met", "0.9917", "0.0010", "100 kB", "–"]
    assert [cell.best for cell in small[3:8]] == [False, True, False, False, False]  # no other has a latency
    assert [cell.best for cell in exact[3:8]] == [True, False, False, False, False]
    text = write_comparison(compared, tmp_path / "compare.html").read_text(encoding="utf-8")
    found = Page(text).text
    for words in (
        "2 runs",
        "exact ✕ not met",
        "agreement – ✕ 0.2",
        "classes – ✓ 0",
        "drop of the metric against file size",
    ):
        assert words in found


def test_the_intervals_of_the_drops_are_drawn() -> None:
    figure = artifacts({"small": SMALL, "exact": EXACT})
    assert figure is not None
    assert figure.rows[1] == ("exact", "100 kB", "0.0010", "−0.0020 … +0.0040")


def test_names_are_text_in_the_page(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    text = write_comparison(Comparison({nasty: SMALL, "b": EXACT}), tmp_path / "x.html").read_text(encoding="utf-8")
    assert nasty not in text


def test_the_command_reads_runs_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, of in (("a", SMALL), ("b", EXACT)):
        Path(name).mkdir()
        Path(name, "result.json").write_text(of.to_json())
    ran = CliRunner().invoke(app, ["compare", "a", "b"])
    assert ran.exit_code == 0, ran.output
    assert "✓ met" in ran.output
    assert Path("compare.html").exists()


@pytest.mark.parametrize(
    ("runs", "error", "says"),
    [
        (["a"], ConfigError, "give two runs or more, each once; got a only"),
        (["a", "a"], ConfigError, "got a twice"),
        (["a", "nowhere"], RunError, "nowhere/result.json.*finish the run"),
        (["a", "b", "--html", "a/result.json/x.html"], RunError, "x.html: cannot be written .*; give another place"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs, error, says) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "result.json").write_text(SMALL.to_json())
    ran = CliRunner().invoke(app, ["compare", *runs])
    assert isinstance(ran.exception, error)
    with pytest.raises(error, match=says):
        raise ran.exception
