"""Does every decoder return exactly the frames asked for? Random reads of videos whose frames show their numbers.

python -m benchmarks.exactness
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rinvid.data import read_clip
from rinvid.data.decode import claim_backend
from rinvid.data.encode import call_with_pyav
from rinvid.report import versions
from tests.video.make import numbered, numbers, write_video

RESULTS = Path(__file__).parent / "results" / "exactness.json"
COUNT, READS = 120, 200
TIMES = np.random.default_rng(0).choice([20, 33, 40, 90, 200], COUNT).cumsum().tolist()
B_FRAMES = {"g": "12", "bf": "3", "crf": "10"}
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}
FILES: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"options": B_FRAMES},
    "b_frames.mkv": {"options": B_FRAMES},
    "b_frames.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "b": "4M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "variable_rate.mp4": {"options": B_FRAMES, "times": TIMES},
    "variable_rate.mkv": {"options": B_FRAMES, "times": TIMES},
    "variable_rate.webm": {"codec": "libvpx-vp9", "options": VP9, "times": TIMES},
}


def write_all(folder: Path) -> None:
    """All kinds of files below a folder."""
    for name, options in FILES.items():
        write_video(folder / name, numbered(COUNT), **options)


def wrong_reads(path: Path, backend: str) -> int:
    """How many of the random clips hold other frames than those asked for."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(READS):
        stride, length = int(rng.integers(1, 4)), int(rng.integers(1, 9))
        start = int(rng.integers(COUNT - (length - 1) * stride))
        clip = read_clip(path, start, length, stride, size=None, backend=backend)  # type: ignore[arg-type]
        wrong += numbers(clip) != list(range(start, start + length * stride, stride))
    return wrong


def in_process(method: str, path: Path, backend: str) -> int:
    """The same in a process that is started by ``method``, from one that has loaded the decoder."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(wrong_reads, (path, backend))


def check(folder: Path, backend: str) -> dict[str, int]:
    """Wrong reads by file and start method."""
    claim_backend(backend)  # type: ignore[arg-type]
    found = {}
    for name in FILES:
        for method in ("fork", "spawn"):
            wrong = found[f"{backend} {method} {name}"] = in_process(method, folder / name, backend)
            print(f"{backend:<8} {method:<6} {name:<20} {wrong} of {READS} reads wrong")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs=2, metavar=("BACKEND", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(check(Path(options.only[1]), options.only[0])))
        return
    results: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        call_with_pyav(write_all, Path(folder))
        for backend in ("pyav", "decord"):  # each needs a process of its own
            command = [sys.executable, "-m", "benchmarks.exactness", "--only", backend, folder]
            *lines, found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            print("\n".join(lines), flush=True)
            results |= json.loads(found)
    RESULTS.write_text(json.dumps({"reads": READS, "wrong": results, "machine": versions()}, indent=2) + "\n")
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
