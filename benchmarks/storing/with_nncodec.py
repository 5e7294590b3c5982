"""Code and decode weights with NNCodec: `python with_nncodec.py WEIGHTS.npz CODED.npz QP`; prints the bytes.

Runs in an environment of its own (`make nncodec`): NNCodec wants an older NumPy. It imports torchvision, whose compiled
operators do not load beside a CPU build of torch, and of which it needs none.
"""

import sys

import numpy as np
import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from nncodec.nn import decode, encode  # noqa: E402  after the declarations

_, before, after, qp = sys.argv
with np.load(before) as arrays:
    weights = dict(arrays)
coded = encode(weights, args={"qp": int(qp), "use_dq": True, "verbose": False})
np.savez(after, **{name: np.asarray(value, np.float32) for name, value in decode(coded).items()})
print(len(coded))
