"""A whole run for OpenVINO from the command line: compressed, lowered, proved, measured; then for another runtime."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import tiny
from trimtab.cli import app
from trimtab.plan import Result


def called(*arguments: object) -> Any:
    """What `trimtab … --json` prints, in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_run_for_openvino_then_for_another_runtime(tmp_path: Path) -> None:
    task, run = tiny.write_task(tmp_path), tmp_path / "run"
    with tiny.quick():
        limits = ("--size", "12kB", "--drop", "0.2", "--epochs", 1)
        printed = called("compress", task, *limits, "--target", "openvino", "--run", run)
    result = Result.from_json(json.dumps(printed), where="stdout")
    assert (result.target, result.met) == ("openvino", True)
    assert result.proof.executed_on.startswith("openvino ")
    assert result.proof.agreement >= 0.98
    assert result.proof.integer_ops["Convolution"] == 2
    assert result.compressed.file_bytes == (run / "model.onnx").stat().st_size
    assert result.compressed.peak_bytes is not None

    kept = (run / "model.onnx").read_bytes()
    assert called("lower", run)["file_bytes"] == len(kept)
    assert (run / "model.onnx").read_bytes() == kept
    assert called("prove", run)["agreement"] == result.proof.agreement
    other = called("prove", run, "--target", "onnxruntime")
    assert other["executed_on"].startswith("onnxruntime ")
    assert other["identical_rows"] == 1.0
    assert (run / "model.onnx").read_bytes() == kept
    assert (run / "model-onnxruntime.onnx").is_file()
    measured = called("measure", run / "model.onnx", "--task", task, "--target", "openvino")
    assert measured["metric"] == result.compressed.metric
    assert measured["peak_bytes"] > 0
