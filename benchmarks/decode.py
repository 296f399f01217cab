"""Frames a second out of small H.264 files: read_clip, and PyAV's own conversion frame by frame.

python benchmarks/decode.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from rinvid.data import read_clip
from rinvid.data.digits import FRAMES, write_digits
from rinvid.report import versions

RESULTS = Path(__file__).parent / "results" / "decode.json"


def convert_by_frame(path: Path) -> None:
    """Decode a whole file with a new pixel converter for every frame, which is what to_ndarray does."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways: dict[str, Callable[[Path], object]] = {
        "read_clip": lambda path: read_clip(path, 0, None, size=None),
        "read_clip, resized": lambda path: read_clip(path, 0, None, size=32),
        "to_ndarray": convert_by_frame,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), limit=12)
        files = sorted(Path(folder).rglob("*.mp4"))
        for _ in range(options.rounds):
            for name, read in ways.items():
                begin = time.perf_counter()
                for path in files:
                    read(path)
                rates[name].append(len(files) * FRAMES / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name:<20} {statistics.median(values):8.0f} frames a second (median of {options.rounds} rounds)")
    RESULTS.write_text(json.dumps({"frames_per_second": rates, "machine": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
