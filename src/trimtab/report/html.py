"""`report.html`: the whole answer on one page that needs no network and no other file."""

from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from trimtab.errors import RunError
from trimtab.plan import Record, Result
from trimtab.report import frontier, numbers, summary, why
from trimtab.report.behaviour import Changed
from trimtab.run import atomic_write


class LayerRow(Record):
    """One layer as it came out. Bits are 32 where a side stays in float; `bytes` is its weight's share of the file.

    `zeros` is the share (0..1) of exact zeros in what is left of the weight.
    """

    name: str
    operator: str
    width_before: int
    width_after: int
    weight_bits: int
    activation_bits: int
    bytes: int
    kernel: Literal["integer", "float"]
    zeros: float = 0.0


class ReportDetails(Record):
    """What the page shows beside the Result: layers, rows that changed, and the command that does it all again."""

    layers: tuple[LayerRow, ...]
    changed: tuple[Changed, ...] = ()
    command: str


def render_report(result: Result, details: ReportDetails) -> str:
    """The page, as text."""
    environment = Environment(
        loader=PackageLoader("trimtab", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stages = [(name, spent) for name, spent in result.seconds.items() if name != "total"]
    return environment.get_template("template.html").render(
        result=result,
        details=details,
        limits=summary.limit_rows(result),
        quantities=summary.quantity_rows(result),
        interval=summary.interval(result),
        conditions=summary.conditions(result.compressed),
        chart=frontier.chart(result),
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
    return atomic_write(Path(path), render_report(result, details))


def report(run: str | Path) -> Path:
    """Write `report.html` of a finished run folder again, from its `result.json` and `details.json`.

    Raises: RunError when the run has not got that far, ConfigError when a file is damaged.
    """
    folder = Path(run)
    result = Result.from_json(_read(folder / "result.json"), where=str(folder / "result.json"))
    details = ReportDetails.from_json(_read(folder / "details.json"), where=str(folder / "details.json"))
    return write_report(result, details, folder / "report.html")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}; finish the run with `trimtab compress` first") from error
