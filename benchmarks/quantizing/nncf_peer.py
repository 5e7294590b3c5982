"""NNCF's post-training quantization for OpenVINO, where NNCF is installed: in a folder of its own, named by NNCF."""

import importlib.util
import os
import sys
from pathlib import Path

import torch

if "NNCF" in os.environ:
    sys.path.append(os.environ["NNCF"])


def quantized_by_nncf(float_file: Path, batches: list[torch.Tensor], folder: Path) -> Path | None:
    """The OpenVINO model that `nncf.quantize` makes of the float file; None without NNCF."""
    if importlib.util.find_spec("nncf") is None:
        return None
    import nncf
    import openvino

    model = openvino.Core().read_model(float_file)
    quantized = nncf.quantize(model, nncf.Dataset(batches, lambda batch: batch.numpy()))
    path = folder / "nncf.xml"
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return path
