"""A sample of `benchmarks/coverage.py`: other people's networks are captured, cut and proved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COVERAGE = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.mark.timeout(900)
@pytest.mark.skipif("ZOO" not in os.environ, reason="`make test` says where the networks are installed")
def test_a_sample_of_every_family_is_cut_and_proved(tmp_path: Path) -> None:
    written = tmp_path / "coverage.json"
    done = subprocess.run(
        [sys.executable, COVERAGE, "--quick", "--json", written], capture_output=True, text=True, check=False
    )
    assert written.exists(), done.stderr
    found = json.loads(written.read_text())
    assert [row["network"] for row in found["rows"] if "error" in row] == []
    # How long it takes is for a quiet machine to say.
    claims = [claim for claim in found["claims"] if claim["unit"] != "s"]
    assert claims
    assert [claim for claim in claims if not claim["holds"]] == []
