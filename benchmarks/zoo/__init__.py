"""Networks of every family with random weights, by family and name. Nothing is downloaded.

The packages that they come from are imported from the folder ZOO (see the Makefile), or from where they are installed.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

if "ZOO" in os.environ:
    sys.path.append(os.environ["ZOO"])

Make = Callable[[], tuple[nn.Module, Any]]
"""Gives a module and example inputs of a few rows."""

FAMILIES = ("classification", "segmentation", "video", "detection", "transformers", "other")


def networks(family: str) -> dict[str, Make]:
    """The networks of a family by name."""
    found: dict[str, Make] = import_module(f"zoo.{family}").NETWORKS
    return found
