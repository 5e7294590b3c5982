"""Latency on a machine that is not at hand: by the times and the model of a profile that was written there."""

from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.plan import Plan, Target
from trimtab.search.latency_table import needed_times
from trimtab.search.plan_search import all_costs, option_of
from trimtab.search.profile import Profile


def read_table(path: str | Path) -> bytes:
    """The content of the file. Raises: ConfigError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a profile.json that `trimtab profile` wrote") from error


def timed_elsewhere(content: bytes, target: Target, *, where: str) -> Profile:
    """A profile with the latency of `target` at its batch and threads. Raises: ConfigError for any other."""
    found = Profile.from_json(content, where=where)
    came, wanted = _run_as(found.target, found.batch, found.threads), _run_as(target.name, target.batch, target.threads)
    if came != wanted:
        raise ConfigError(f"{where}: has the latency of {came}, not of {wanted}; profile again there, or run as it was")
    if not found.latency_table or "latency" not in found.baseline:
        raise ConfigError(f"{where}: has no latency; write it with `trimtab profile TASK` where the network will run")
    return found


def of_network(found: Profile, fingerprint: str, *, where: str) -> Profile:
    """The same profile. Raises: ConfigError when it is of another network."""
    if found.fingerprint != fingerprint:
        raise ConfigError(
            f"{where}: is the profile of the network {found.fingerprint[:12]}…, this one is {fingerprint[:12]}…; "
            "profile this task where the network will run, and begin another --run with that file"
        )
    return found


def with_latency_of(profile: Profile, found: Profile) -> Profile:
    """`profile` with the other's latency. Raises: ConfigError when a kernel of this one was not timed there."""
    needed = needed_times(profile.units, profile.layers)
    missing = needed.keys() - found.latency_table.keys()
    if missing:
        raise ConfigError(
            f"latency table: {len(missing)} of {len(needed)} kernels were not timed, such as {min(missing)}; profile "
            "again where the network will run, with this version"
        )
    latency = {"latency": found.baseline["latency"]}
    taken = {"latency_table": found.latency_table, "latency_fit": found.latency_fit}
    return profile.model_copy(update={**taken, "baseline": {**profile.baseline, **latency}})


def latency_of(found: Profile, plan: Plan | None) -> float:
    """Predicted milliseconds of a plan, on offer in the profile or not; the float network's as measured there.

    Raises: ConfigError for a width that was not timed.
    """
    if plan is None or not (plan.groups or plan.branches or plan.layers):
        return found.baseline["latency"]
    units = tuple(unit.model_copy(update={"options": (option_of(unit, plan),)}) for unit in found.units)
    try:
        return all_costs(found.model_copy(update={"units": units}))["latency"].at([0] * len(units))
    except KeyError as missing:
        raise ConfigError(f"latency table: {missing.args[0]} was not timed; choose a width that is") from missing


def _run_as(target: str, batch: int, threads: int) -> str:
    return f"target {target!r}, batch {batch}, threads {threads}"
