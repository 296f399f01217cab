"""What data loading costs: clips a second from files and from the clip cache, by workers; memory; hangs.

python benchmarks/data.py             all of it, some minutes
python benchmarks/data.py --quick     does it run
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rinvid.data.cache import CacheSettings, open_cache, select_cached
from rinvid.data.clips import VideoClips
from rinvid.data.encode import call_with_pyav, save_h264
from rinvid.data.index import select
from rinvid.data.loader import Loader
from rinvid.data.prepare import prepare
from rinvid.data.sampler import ResumableSampler
from rinvid.data.scan import scan
from rinvid.data.sources import VideoFiles, VideoSource
from rinvid.report import versions

RESULTS = Path(__file__).parent / "results" / "data.json"
FRAMES, SIZE, BATCH = 16, 64, 32


def write_videos(folder: Path, count: int, frames: int = 300) -> None:
    """Videos of Kinetics' length and size, 10 s of 340x256 pixels, of noise that moves."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (33 + frames // 8, 43, 3), dtype=np.uint8)
        large = small.repeat(8, 0).repeat(8, 1)
        video = np.stack([large[frame : frame + 256, :340] for frame in range(frames)])
        save_h264(video, folder / f"class{number % 3}" / f"clip{number:03d}_000000_000010.mp4", fps=30, crf=23)


def rate(source: VideoSource, clips: int, workers: int) -> float:
    """Clips a second out of a loader that has started; nothing is done with them."""
    batches = Loader(VideoClips(source, FRAMES), ResumableSampler(len(source), BATCH), workers)
    # What workers have read ahead when the clock starts would count for nothing.
    for _ in range(2 + 4 * workers):
        next(batches)
    begin, seen = time.perf_counter(), 0
    while seen < clips:
        seen += len(next(batches).samples)
    return seen / (time.perf_counter() - begin)


@contextmanager
def sources(videos: int) -> Iterator[dict[str, VideoSource]]:
    """The same videos as files and as a clip cache."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "videos"
        for number in range(3):
            (root / f"class{number}").mkdir(parents=True)
        call_with_pyav(write_videos, root, videos)
        index = scan(root, Path(name) / "index.parquet", show_progress=False)
        prepare(index, Path(name) / "cache", CacheSettings(SIZE), workers=0, show_progress=False)
        _, cached = select_cached(open_cache(Path(name) / "cache"), FRAMES)
        selection = select(index, FRAMES)
        files = VideoFiles(root, selection.parts["train"], SIZE, selection.classes)
        yield {"files": files, "cache": cached["train"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    rates: dict[str, list[float]] = {}
    with sources(4 if options.quick else 24) as of:
        for _ in range(rounds):
            for name, source in of.items():
                for workers in (0, 1, 2):
                    clips = (64 if options.quick else 96) if name == "files" else (2_000 if options.quick else 40_000)
                    rates.setdefault(f"{name}, {workers} workers", []).append(rate(source, clips, workers))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:<20} {value:9.0f} clips of {FRAMES}x{SIZE}x{SIZE} a second (median of {rounds})")
    ratios: dict[str, Any] = {
        "cache over files, in process": medians["cache, 0 workers"] / medians["files, 0 workers"],
        "cache, 2 workers over 1": medians["cache, 2 workers"] / medians["cache, 1 workers"],
        "files, 2 workers over 1": medians["files, 2 workers"] / medians["files, 1 workers"],
    }
    for name, value in ratios.items():
        print(f"{name:<32} {value:6.2f}")
    if not options.quick:
        RESULTS.write_text(
            json.dumps({"clips_per_second": rates, "ratios": ratios, "machine": versions()}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
