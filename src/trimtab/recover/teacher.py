"""The teacher: any network or module, asked in eval mode and never changed."""

import copy
from typing import Any

import torch
from torch import fx, nn

from trimtab.graph import Network
from trimtab.graph.copying import copy_module
from trimtab.recover.precision import set_layout

Teacher = Network | nn.Module


def copied(teacher: Teacher, layout: torch.memory_format) -> Any:
    """A copy in eval mode, with its 4-D weights in `layout`."""
    if isinstance(teacher, nn.Module):
        module = copy_module(teacher) if isinstance(teacher, fx.GraphModule) else copy.deepcopy(teacher)
        set_layout(module, layout)
        return module.eval()
    network = teacher.clone()
    set_layout(network.module, layout)
    return network.eval()
