"""The whole chain at work: a small RIN learns eight pictures by heart, and samples them."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "overfit.py"


@pytest.mark.slow
def test_eight_pictures_are_learned_and_sampled() -> None:
    figures, made, _ = runpy.run_path(str(SCRIPT))["run"]()
    assert made.shape == (64, 3, 16, 16)
    assert figures["worst_mean_squared_error"] < 0.01
    assert min(figures["samples_by_picture"]) > 0, "each of the eight is found"
