"""Pages from templates: one file each, with everything in it that it needs."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from trimtab.errors import RunError
from trimtab.run import atomic_write


def render(template: str, **values: Any) -> str:
    """A page, as text; what the values hold is text in it, never markup."""
    environment = Environment(
        loader=PackageLoader("trimtab", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values, plotly=get_plotlyjs())


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, in place of an older one, and return its path. Raises: RunError where that cannot be."""
    try:
        return atomic_write(Path(path), text)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); give another place") from error
