"""Places in the user's code: from a node's stack trace, or from a traceback."""

import os
import re
import traceback

import torch
from torch.fx import Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_TORCH = os.path.dirname(torch.__file__)
_OURS = os.path.dirname(os.path.dirname(__file__))


def is_users(path: str) -> bool:
    """Whether a file is the user's: not torch's, not the standard library's, not this package's."""
    if path.startswith(("<", "torch/", _TORCH, _OURS + os.sep)):
        return False
    return not path.startswith(os.path.dirname(os.__file__)) or "site-packages" in path


def place(path: str, line: int | str, function: str) -> str:
    """`file.py:12 in forward`."""
    return f"{os.path.basename(path)}:{line} in {function}"


def of_text(text: str) -> str | None:
    """The innermost frame of the user's in a printed stack trace."""
    frames = [m for m in _FRAME.findall(text) if is_users(m[0])]
    return place(*frames[-1]) if frames else None


def of_node(node: Node) -> str:
    """The user's line that made `node`, or the node's name."""
    return of_text(node.meta.get("stack_trace") or "") or node.name


def of_error(error: BaseException) -> str | None:
    """The innermost frame of the user's in an error's message or traceback, causes included."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if is_users(f.filename) and _in_model(f)]
        found = of_text(str(seen)) or (
            place(frames[-1].filename, frames[-1].lineno or 0, frames[-1].name) if frames else None
        )
        if found:
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def _in_model(frame: traceback.FrameSummary) -> bool:
    return frame.name not in {"<module>", "<lambda>"}
