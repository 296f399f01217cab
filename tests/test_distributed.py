"""A run over two processes on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rinvid.data.encode import save_h264
from rinvid.training.progress import read_metrics
from tests.test_run import RECIPE, TINY


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(3):
        clip = np.random.default_rng(number).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
        save_h264(clip, root / f"{number}.mp4", fps=8, crf=20)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "RINVID_HOME": str(tmp_path / "home"),
    }
    command = [*launch, str(RECIPE), *TINY, "--data.root", str(root)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results are in runs/smoke") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["smoke"]
    lines = read_metrics(tmp_path / "runs" / "smoke" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert (tmp_path / "runs" / "smoke" / "samples.gif").is_file()
