"""`report.html`: the whole answer on one page that needs no network and no other file."""

from pathlib import Path

from trimtab.errors import RunError
from trimtab.plan import Result
from trimtab.report import numbers, summary, why
from trimtab.report.advice import advice
from trimtab.report.details import ReportDetails
from trimtab.report.figures import figures
from trimtab.report.page import render, write_page


def render_report(result: Result, details: ReportDetails) -> str:
    """The page, as text."""
    stages = [(name, spent) for name, spent in result.seconds.items() if name != "total"]
    drawn = figures(result, details)
    there = {"frontier": "frontier" in drawn, "speed": result.hotspots, "behaviour": result.behaviour}
    return render(
        "report.html",
        result=result,
        details=details,
        tabs=[tab for tab in ("summary", "frontier", "layers", "speed", "behaviour", "run") if there.get(tab, True)],
        figures=drawn,
        advice=advice(result),
        limits=summary.limit_rows(result),
        quantities=summary.quantity_rows(result),
        interval=summary.interval(result),
        conditions=summary.conditions(result.compressed),
        times=why.time_rows(result.hotspots) if result.hotspots else (),
        hottest=why.layer_rows(result.hotspots) if result.hotspots else (),
        ran_on=why.why_conditions(result.hotspots) if result.hotspots else "",
        stored=summary.stored_rows(result.stored) if result.stored else (),
        stored_kinds=summary.STORED_KINDS,
        stages=stages,
        total=result.seconds.get("total", sum(spent for _, spent in stages)),
        widest=max((layer.width_before for layer in details.layers), default=1),
        heaviest=max((layer.bytes for layer in details.layers), default=1),
        numbers=numbers,
    )


def write_report(result: Result, details: ReportDetails, path: str | Path) -> Path:
    """Write the page, in place of an older one, and return its path."""
    return write_page(render_report(result, details), path)


def report(run: str | Path) -> Path:
    """Write `report.html` of a finished run folder again, from its `result.json` and `details.json`.

    Raises: RunError when the run has not got that far, ConfigError when a file is damaged.
    """
    folder = Path(run)
    result = result_of(folder)
    details = ReportDetails.from_json(_read(folder / "details.json"), where=str(folder / "details.json"))
    return write_report(result, details, folder / "report.html")


def result_of(run: str | Path) -> Result:
    """What a run folder's `result.json` says. Raises: RunError when there is none, ConfigError when it is damaged."""
    file = Path(run) / "result.json"
    return Result.from_json(_read(file), where=str(file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}; finish the run with `trimtab compress` first") from error
