"""int8 without training: trimtab against ONNX Runtime's own `quantize_static`, on pretrained CIFAR-10 ResNets.

Both start from the same float network and 1024 training images. Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import harness
import trimtab as tt
from harness import Claim
from trimtab.lower import Artifact, load
from trimtab.measure import evaluate, first_rows
from trimtab.measure.measurement import latencies
from trimtab.report import stages

PROTOCOL = """\
compress(--size 25% --no-recover) of the pretrained network; 1024 training images drawn with seed 0 set the ranges.
quantize_static: QDQ, per channel, uint8 activations, int8 weights, min-max, 1024 training images,
after quant_pre_process.
Accuracy on all 10 000 test images, executed by ONNX Runtime. Latency: one thread, the three files in turn in one run,
medians; batch 1 and 32. identical: rows of the artifact's output that equal trimtab's integer simulation bit for bit.
"""
EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10_resnet.py"
SECONDS = {1: 20.0, 32: 40.0}


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data, one image at a time as quantize_static's min–max wants it."""

    def __init__(self, name: str, batches: list[Any]) -> None:
        self.feeds = iter([{name: batch.numpy()} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantized_by_runtime(float_file: Path, batches: list[Any], folder: Path) -> Artifact:
    """What ONNX Runtime's own tool makes of the float file."""
    prepared, quantized = folder / "prepared.onnx", folder / "quantize_static.onnx"
    quant_pre_process(str(float_file), str(prepared))
    session = onnxruntime.InferenceSession(str(prepared), providers=["CPUExecutionProvider"])
    quantize_static(
        str(prepared),
        str(quantized),
        Batches(session.get_inputs()[0].name, batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return load("onnxruntime", quantized)


def compare(depth: int, folder: Path, *, quick: bool) -> tuple[dict[str, Any], list[Claim]]:
    """One network: a row, and its claims."""
    task = tt.load_task(str(EXAMPLE), {"depth": str(depth)})
    budget = tt.Budget(size="25%")
    options = tt.Options(recover=False)
    run = folder / f"resnet{depth}"
    result = tt.compress(task, budget=budget, run=run, options=options, progress=stages())
    original, ours = load("onnxruntime", run / "float.onnx"), load("onnxruntime", Path(result.artifact))
    peer = quantized_by_runtime(run / "float.onnx", calibration_images(task), folder)
    accuracy = {name: evaluate(a, task.test, task.metric).value for name, a in (("float", original), ("peer", peer))}
    times = {}
    for batch, seconds in SECONDS.items():
        contestants = {"float": original, "trimtab": ours, "quantize_static": peer}
        inputs = first_rows(task.test, batch)
        times[batch] = latencies(contestants, inputs, threads=1, seconds=seconds / (10 if quick else 1))
    ratio = {b: t["quantize_static"].median_ms / t["trimtab"].median_ms for b, t in times.items()}
    name = f"ResNet-{depth}"
    row = {
        "network": name,
        "float_accuracy": accuracy["float"],
        "accuracy": result.compressed.metric,
        "quantize_static_accuracy": accuracy["peer"],
        "float_bytes": original.file_bytes,
        "bytes": ours.file_bytes,
        "quantize_static_bytes": peer.file_bytes,
        **{f"ms_b{b}_{who}": t.median_ms for b, found in times.items() for who, t in found.items()},
        "identical_rows": result.proof.identical_rows,
        "agreement": result.proof.agreement,
        "float_ops": sum(result.proof.float_ops.values()),
        "seconds": result.seconds["total"],
    }
    claims = [
        Claim(f"{name}: drop, points", 0.1, 100 * result.drop.value, "points"),
        Claim(f"{name}: file, % of the float file", 25.0, 100 * ours.file_bytes / original.file_bytes, "%"),
        Claim(f"{name}: rows equal to the integer simulation", 1.0, result.proof.identical_rows, "fraction", True),
        *(Claim(f"{name}: speed against quantize_static, batch {b}", 1.0, r, "×", True) for b, r in ratio.items()),
    ]
    return row, claims


def calibration_images(task: tt.Task) -> list[Any]:
    """1024 training images, in batches of 1 for the peer's reader."""
    images: list[Any] = []
    for inputs, _ in task.train:
        images += list(inputs.split(1))
        if len(images) >= 1024:
            return images[:1024]
    return images


def main() -> None:
    options = harness.arguments(__doc__ or "")
    rows, claims = [], []
    with tempfile.TemporaryDirectory() as folder:
        for depth in (20,) if options.quick else (20, 56):
            row, more = compare(depth, Path(folder), quick=options.quick)
            rows.append(row)
            claims += more
    harness.finish(options, PROTOCOL, rows, claims)


if __name__ == "__main__":
    sys.exit(main())
