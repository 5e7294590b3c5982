"""Where a network will run, as defaults for what the user leaves open."""

from pydantic import Field

from trimtab.errors import ConfigError
from trimtab.plan.record import Record


class Scenario(Record):
    """A target, how it runs the network, and `limits` on costs. `threads` None: as many as there are cores to use."""

    target: str = "onnxruntime"
    batch: int = 1
    threads: int | None = 1
    limits: dict[str, str] = Field(default_factory=dict)


SCENARIOS = {
    "server": Scenario(batch=32, threads=None),
    "mobile": Scenario(target="executorch", threads=4),
    "microcontroller": Scenario(limits={"size": "512kB"}),
}
"""No target here runs on a microcontroller: that one limits the size and writes an ONNX file, still to be converted. It
limits no memory: that is what ONNX Runtime takes here, which for any network is more than a microcontroller has.
"""


def scenario(name: str | None) -> Scenario:
    """The defaults for `name`; those of trimtab for None. Raises: ConfigError for an unknown name."""
    if name is None:
        return Scenario()
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; known: {', '.join(sorted(SCENARIOS))}")
    return SCENARIOS[name]
