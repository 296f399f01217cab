"""The clip cache: every video decoded once to small frames, in memory-mapped Arrow files that need no decoder.

A cache is a folder: ``manifest.json`` with settings, counts and a fingerprint; ``index.parquet`` with a row a video;
``data/SPLIT-NNNNN-of-NNNNN.arrow``, which Hugging Face's ``load_dataset("arrow", ...)`` reads and streams as well.
:mod:`rinvid.data.prepare` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rinvid.data.decode import Resize, frame_offsets
from rinvid.data.index import Selection, VideoIndex, select
from rinvid.data.readers import Frames
from rinvid.data.sources import ListedVideos, VideoTable

MANIFEST = "manifest.json"
INDEX = "index.parquet"
DATA = "data"
VERSION = 1


@dataclass(frozen=True)
class CacheSettings:
    """How the frames of a cache were made.

    Attributes:
        size: Side of the square frames in pixels.
        resize: "crop" or "stretch".
        fps: Frames a second that were kept; None for all.
        max_frames: The first so many frames of each video were kept; None for all.
    """

    size: int
    resize: Resize = "crop"
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize not in ("crop", "stretch"):
            raise ValueError(
                f"a clip cache needs size >= 1 and resize crop or stretch, got size={self.size}, resize={self.resize!r}"
            )
        if (self.fps is not None and not self.fps > 0) or (self.max_frames is not None and self.max_frames < 1):
            raise ValueError(f"a clip cache needs fps above 0 and max_frames >= 1, got {self.fps=}, {self.max_frames=}")


@dataclass(frozen=True)
class CacheFolder:
    """A finished cache: its settings, counts and index."""

    root: Path
    settings: CacheSettings
    manifest: dict[str, Any]
    index: VideoIndex


def is_cache(root: Path) -> bool:
    """Whether a folder is a clip cache that is finished."""
    return (root / MANIFEST).is_file() and (root / INDEX).is_file() and (root / DATA).is_dir()


def open_cache(root: Path) -> CacheFolder:
    """Read what a cache says of itself, and check that its files are all there.

    Raises:
        ValueError: It was made by another version, or a file of it is missing or of another size.
    """
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        settings = CacheSettings(**manifest["settings"])
        if manifest["version"] != VERSION:
            raise ValueError(f"{root}: is a clip cache of version {manifest['version']}, this is {VERSION}")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{root / MANIFEST}: is not the manifest of a clip cache") from error
    for name, facts in manifest["files"].items():
        file = root / DATA / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise ValueError(f"{root}: its file {DATA}/{name} is missing or not as it was made; prepare it again")
    return CacheFolder(root, settings, manifest, VideoIndex.load(root / INDEX, root, check=False))


def check_settings(cache: CacheFolder, wanted: CacheSettings) -> None:
    """Refuse a cache whose frames are not those that a run asks for.

    Raises:
        ValueError: The size, the resizing or the frame rate differs.
    """
    for name in ("size", "resize"):
        has, wants = getattr(cache.settings, name), getattr(wanted, name)
        if has != wants:
            raise ValueError(f"{cache.root}: is a clip cache with {name}={has}, this run wants {name}={wants}")


class CachedVideos(ListedVideos):
    """Videos of a clip cache; a clip is a slice of a memory-mapped file.

    Args:
        root: The cache.
        table: Its rows to use, with the columns file and row.
        files: Names of its Arrow files.
        size: Side of the frames in pixels.
        classes: Names of the classes that the table's labels stand for.
    """

    def __init__(
        self, root: Path, table: VideoTable, files: Sequence[str], size: int, classes: Sequence[str] = ()
    ) -> None:
        self.root, self.table, self.files = root, table, list(files)
        self.size, self.classes = size, tuple(classes)
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def name(self, video: int) -> str:
        return f"{self.root / DATA / self.files[self.table.column('file')[video]]} ({self.table.path(video)})"

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        chunk = self._column(int(self.table.column("file")[video])).chunk(int(self.table.column("row")[video]))
        # The bytes themselves: a scalar of them would be a copy of the whole video.
        frames = np.frombuffer(chunk.buffers()[2], np.uint8).reshape(-1, self.size, self.size, 3)
        step = float(self.steps[video])
        if step.is_integer():
            return frames[start : start + (num_frames - 1) * int(step) + 1 : int(step)]
        return frames[[start + offset for offset in frame_offsets(num_frames, step)]]

    def _column(self, file: int) -> Any:
        """The frames in a file, one chunk a video."""
        if file not in self._open:
            with pa.memory_map(str(self.root / DATA / self.files[file])) as mapped:
                self._open[file] = pa.ipc.open_stream(mapped).read_all()["frames"]
        return self._open[file]


def select_cached(
    cache: CacheFolder, num_frames: int, stride: int = 1, fps: float | None = None
) -> tuple[Selection, dict[str, CachedVideos]]:
    """What a run can use of a cache, as :func:`rinvid.data.index.select` says, and the videos of each part."""
    selection = select(cache.index, num_frames, stride, fps)
    files = list(cache.manifest["files"])
    return selection, {
        part: CachedVideos(cache.root, table, files, cache.settings.size, selection.classes)
        for part, table in selection.parts.items()
    }
