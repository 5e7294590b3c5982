"""The CPU that executes: its name, the cores that this process may use, and its instructions for integer products."""

import os
import platform
import re
from pathlib import Path

from trimtab.plan import Cpu

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_ARM = ("asimddp", "i8mm")


def cpu() -> Cpu:
    """Of this machine. What Linux does not say in /proc/cpuinfo stays unknown."""
    return read_cpu(_CPUINFO.read_text() if _CPUINFO.exists() else "", usable_cores())


def read_cpu(cpuinfo: str, cores: int) -> Cpu:
    """From the text of /proc/cpuinfo: `model name` and `flags` of x86, `Features` of ARM."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE))
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags") or fields.get("Features")
    known = None if flags is None else tuple(flag for flag in (*_X86, *_ARM) if flag in flags.split())
    return Cpu(name=name, cores=cores, integer_dots=known)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
