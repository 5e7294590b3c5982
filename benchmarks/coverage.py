"""Every architecture: which networks are captured, cut to half of every dimension, and proved equal to the masked one.

`--quick` takes a few networks of each family. Each network has a process of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

import harness
from harness import Claim
from zoo import FAMILIES, networks

PROTOCOL = """\
Random weights (seed 0); batch norms have the statistics of the masked network. Plan.uniform(keep=0.5): every dimension
keeps half of its units, evenly spread. captured: by trimtab, through torch.export with a free batch.
max_abs_diff: cut against masked network, float64, five random rows, relative to the largest output (or to 1).
Where a norm runs over a cut axis (exact: false) the reference takes the kept units' statistics, and nothing else may
differ. response: how much outputs differ between inputs, relative to the largest: errors fade as inputs do.
own seconds: capture without torch.export, analysis and cut, on two threads. Peak memory is that of the process.
Torch-Pruning 1.6.1: MagnitudePruner, pruning_ratio 0.5, told which layer is the classifier; a network counts when it
still runs with outputs of the same shape and fewer parameters (nothing is compared with a masked one); 60 s a network.
"""
QUICK = {
    "classification": ["resnet18", "mobilenet_v3_small", "regnet_x_400mf", "swin_t"],
    "segmentation": ["lraspp_mobilenet_v3_large"],
    "video": ["r3d_18"],
    "detection": ["ssdlite320_mobilenet_v3_large/body"],
    "transformers": ["bert", "qwen3", "t5"],
    "other": ["lstm", "unet", "two_towers"],
}
ROOT = Path(__file__).parent
TOLERANCE = 1e-9
LIMIT_SECONDS = 1800.0
PEER_LIMIT_SECONDS = 60.0


def run(module: str, *arguments: str, limit_seconds: float = LIMIT_SECONDS) -> dict[str, Any]:
    """The JSON that a module of this folder prints in its own process; `error` where it fails or takes too long."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit_seconds:g} s", "seconds": limit_seconds}
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")
    return {"error": last[:300], "seconds": time.perf_counter() - started}


def proved(row: dict[str, Any]) -> bool:
    """Captured, cut, and nothing differs that the reason does not name."""
    explained = row.get("exact") or "otherwise nothing differs" in row.get("reason", "")
    return bool(explained) and row["max_abs_diff"] <= TOLERANCE


def own_seconds(row: dict[str, Any]) -> float:
    return float(row["capture_seconds"] + row["cut_seconds"])


def cover(console: Console, quick: bool) -> list[dict[str, Any]]:
    """A row a network."""
    rows = []
    todo = [(family, name) for family in FAMILIES for name in (QUICK[family] if quick else networks(family))]
    started = time.perf_counter()
    for i, (family, name) in enumerate(todo):
        row = {"family": family, "network": name, "captured": False} | run("zoo.one", family, name)
        rows.append(row)
        left = (time.perf_counter() - started) / (i + 1) * (len(todo) - i - 1)
        said = (
            row.get("error")
            or f"{row['parameters_left']:.3f} of the parameters left, differs by {row['max_abs_diff']:.1e}"
        )
        console.print(
            f"{i + 1}/{len(todo)} {family} {name}: {said} ({left / 60:.0f} min left)", highlight=False, soft_wrap=True
        )
    return rows


def beside_torch_pruning(rows: Iterable[dict[str, Any]]) -> list[Claim]:
    """Runs the peer on the same classifiers, and adds its columns to their rows."""
    ours = [row for row in rows if row["family"] == "classification"]
    for row in ours:
        peer = run("zoo.torch_pruning_peer", row["network"], limit_seconds=PEER_LIMIT_SECONDS)
        row["torch_pruning"] = peer.get("error") or ("cut" if peer["cut"] else "output shape changed")
        row["torch_pruning_left"] = peer.get("parameters_left")
        row["torch_pruning_seconds"] = peer["seconds"]
    cut = sum(row["torch_pruning"] == "cut" for row in ours)
    seconds = sum(row["torch_pruning_seconds"] for row in ours)
    mine = sum(own_seconds(row) + row["export_seconds"] for row in ours if row["captured"])
    return [
        Claim(
            f"classifiers proved, where Torch-Pruning cuts {cut}",
            cut,
            sum(map(proved, ours)),
            "networks",
            at_least=True,
        ),
        Claim(f"seconds for the list, where Torch-Pruning takes {seconds:.0f}", seconds, mine, "s"),
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a family of which any is proved: how many, and medians of what is left and of our seconds."""
    lines = []
    for family in FAMILIES:
        cut = [row for row in rows if row["family"] == family and proved(row)]
        if not cut:
            continue
        left = [row["parameters_left"] for row in cut]
        lines.append(
            {
                "family": family,
                "proved": len(cut),
                "exact": sum(row["exact"] for row in cut),
                "median_parameters_left": median(left),
                "most_parameters_left": max(left),
                "largest_difference": max(row["max_abs_diff"] for row in cut),
                "median_own_seconds": median(map(own_seconds, cut)),
            }
        )
    return lines


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The goals for the rows; a network that failed counts as worst."""
    found = []
    for family in FAMILIES:
        of_family = [row for row in rows if row["family"] == family]
        count = sum(map(proved, of_family))
        found.append(Claim(f"{family}: captured, cut and proved", len(of_family), count, "networks", at_least=True))
        if family in ("classification", "segmentation", "video"):
            left = max(row.get("parameters_left", 1.0) for row in of_family)
            found.append(Claim(f"{family}: most parameters left", 0.45, left, "share"))
        slowest = max((own_seconds(row) for row in of_family if row["captured"]), default=float("inf"))
        found.append(Claim(f"{family}: slowest, beside torch.export", 3.0, slowest, "s"))
    seen = max((row["max_abs_diff"] / row["response"] for row in rows if "response" in row), default=float("inf"))
    found.append(Claim("largest difference, relative to the response", TOLERANCE, seen, "relative"))
    return found


def large() -> list[Claim]:
    """Eight billion parameters on the meta device."""
    row = run("zoo.large")
    seconds, peak = row.get("seconds", float("inf")), row.get("peak_bytes", float("inf"))
    if "error" in row:
        seconds = peak = float("inf")
    return [
        Claim("Qwen3 8B on meta: capture, groups, cut and run", 20.0, seconds, "s"),
        Claim("Qwen3 8B on meta: peak memory", 1.5e9, peak, "bytes"),
    ]


def main() -> None:
    options = harness.arguments(__doc__ or "")
    console = Console()
    rows = cover(console, options.quick)
    if lines := summary(rows):
        console.print(harness.table("families", lines))
    found = claims(rows)
    if not options.quick:
        found += large()
        found += beside_torch_pruning(rows)
    harness.finish(options, PROTOCOL, rows, found)


if __name__ == "__main__":
    main()
