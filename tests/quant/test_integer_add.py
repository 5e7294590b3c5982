"""The integer sum, against ONNX Runtime's kernel over every pair of codes."""

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from trimtab.quant.integer import Codes, _add

SIDE = 256
ROUNDS = 40
A_TIE = ((0.044325996190309525, 167), (0.02749674580991268, 0), (0.032585661858320236, 0))  # met in a real network


def kernel(parameters: tuple[tuple[float, int], ...], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Codes of QLinearAdd for (scale, zero point) of a, b and the sum."""
    names = [name for operand in "abc" for name in (f"{operand}_scale", f"{operand}_zero")]
    values = [value for scale, zero in parameters for value in (np.float32(scale), np.uint8(zero))]
    inputs = ["a", *names[:2], "b", *names[2:]]
    graph = helper.make_graph(
        [helper.make_node("QLinearAdd", inputs, ["c"], domain="com.microsoft")],
        "sum",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, list(a.shape)) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.UINT8, list(a.shape))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, values, strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": a, "b": b})[0])


def test_every_sum_of_two_codes_is_the_kernels() -> None:
    drawn = np.random.default_rng()
    codes = np.arange(SIDE, dtype=np.uint8)
    a, b = (grid.reshape(1, 1, SIDE, SIDE).copy() for grid in np.meshgrid(codes, codes))
    for round_number in range(ROUNDS):
        parameters = tuple((float(drawn.uniform(0.005, 0.06)), int(drawn.integers(0, SIDE))) for _ in range(3))
        parameters = A_TIE if round_number == 0 else parameters
        left, right, (scale, zero) = parameters
        operands = [
            Codes(torch.from_numpy(grid).float(), torch.tensor(s, dtype=torch.float32), torch.tensor(float(z)))
            for grid, (s, z) in ((a, left), (b, right))
        ]
        written = _add(*operands).write(torch.tensor(scale, dtype=torch.float32), torch.tensor(float(zero)))
        simulated = written.clamp(0, SIDE - 1).numpy().astype(np.uint8)
        assert (simulated == kernel(parameters, a, b)).all(), parameters
