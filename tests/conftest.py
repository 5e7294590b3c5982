"""For all tests: one torch thread (the machine is shared with other test processes), and how many random examples.

`pytest --hypothesis-profile=zoo` draws a thousand, fresh every time. The user's cache folder is left alone.
"""

import os
import tempfile

import torch
from hypothesis import settings

_CACHE = tempfile.TemporaryDirectory(prefix="trimtab-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

torch.set_num_threads(1)

settings.register_profile("zoo", max_examples=1000, deadline=None, derandomize=False, print_blob=True)
