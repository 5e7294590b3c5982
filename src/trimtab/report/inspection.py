"""What `trimtab inspect` shows: everything that can be cut, how much that is, and what cannot be cut and why."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from trimtab.graph import ChannelGroup, Network
from trimtab.measure import macs, prunable


def inspection(network: Network) -> dict[str, Any]:
    """As plain data. `prunable` are the shares (0…1) that go when every group is cut to its fewest units."""
    return {
        "fingerprint": network.fingerprint,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": macs(network),
        "prunable": asdict(prunable(network)),
        "groups": [_group(group) for group in network.groups],
        "products": network.products,
        "branches": [
            {"branch": branch.name, "parameters": branch.parameter_count, "layers": branch.layers}
            for branch in network.branches
        ],
        "frozen": [asdict(axis) for axis in network.frozen],
    }


def _group(group: ChannelGroup) -> dict[str, Any]:
    return {
        "group": group.name,
        "width": group.width,
        "unit_size": group.unit_size,
        "multiple_of": group.multiple_of,
        "at_least": group.at_least,
        "exact": group.exact,
        "reason": group.reason,
        "members": [
            {"parameter": member.parameter, "dim": member.dim, "role": member.role} for member in group.members
        ],
    }


def inspection_tables(found: dict[str, Any]) -> Group:
    """As tables for the terminal."""
    share = found["prunable"]
    groups = [
        {
            "group": group["group"],
            "width": group["width"],
            "channels a unit": group["unit_size"],
            "kept in multiples of": group["multiple_of"],
            "at least": group["at_least"],
            "made by": _layers(group, "out"),
            "read by": _layers(group, "in"),
        }
        for group in found["groups"]
    ]
    for column in ("channels a unit", "kept in multiples of", "at least"):
        if all(row[column] == 1 for row in groups):
            groups = [{key: value for key, value in row.items() if key != column} for row in groups]
    frozen = [
        {"axis": axis["name"], "width": axis["width"], "why": axis["reason"], "operator": axis["operator"]}
        | {"where": axis["source"]}
        for axis in found["frozen"]
    ]
    tables = [_table("channel groups", groups)]
    if found["branches"]:
        tables.append(_table("residual branches, which can be removed whole", found["branches"]))
    if frozen:
        tables.append(_table("frozen", frozen))
    said = (
        f"{found['parameters']:,} parameters and {found['macs']:,} multiply-accumulates a sample; "
        f"with every group at its fewest units, {share['parameters']:.1%} and {share['macs']:.1%} of them go"
    )
    return Group(*tables, said)


def _layers(group: dict[str, Any], role: str) -> list[str]:
    """The modules whose parameters have that role."""
    names = (member["parameter"] for member in group["members"] if member["role"] == role)
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ("none",):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    return table


def _text(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
