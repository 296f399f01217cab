"""From a folder to the videos that a run trains on and those it holds out: scanned, selected, and cached if small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rinvid.data.cache import CacheFolder, CacheSettings, check_settings, is_cache, open_cache, select_cached
from rinvid.data.decode import Backend, Resize, frame_span
from rinvid.data.home import home
from rinvid.data.index import LeftOut, VideoIndex, select
from rinvid.data.prepare import fingerprint, prepare
from rinvid.data.scan import cores, scan
from rinvid.data.sources import VideoFiles, VideoSource


@dataclass(frozen=True)
class Videos:
    """The videos of a run.

    Attributes:
        root: The folder that was asked for.
        parts: The videos of "train" and "val".
        classes: Names of the classes, in the order of the labels; empty if there are none.
        left_out: Videos that are not used, and why.
        fingerprint: Hash of what is used.
        read_as: How clips are read: "video files" or "clip cache FOLDER".
    """

    root: Path
    parts: Mapping[str, VideoSource]
    classes: tuple[str, ...]
    left_out: list[LeftOut]
    fingerprint: str
    read_as: str


def open_videos(
    root: Path,
    num_frames: int,
    size: int,
    stride: int = 1,
    fps: float | None = None,
    resize: Resize = "crop",
    backend: Backend = "auto",
    index: Path | None = None,
    cache_mb: int = 0,
    show_progress: bool = True,
) -> Videos:
    """Open a folder of videos, or a clip cache, for clips of ``num_frames`` frames.

    A folder is scanned on first use, and what was found is remembered. Where all its frames fit into ``cache_mb``
    MiB, they are decoded once into a clip cache in :func:`rinvid.data.home.home`.

    Args:
        root: Folder of videos, or one that ``rinvid data prepare`` made.
        num_frames: Frames of a clip.
        size: Side of the square frames in pixels.
        stride: Distance between a clip's frames.
        fps: Frames a second instead of a stride.
        resize: "crop" or "stretch".
        backend: Decoder.
        index: What ``rinvid data scan`` found in the folder; None scans it.
        cache_mb: 0 reads from the files.
        show_progress: Show progress bars.

    Raises:
        FileNotFoundError: No such folder, or it holds no videos.
        ValueError: The index is of another folder, or the cache was made with other settings.
        VideoError: No video can be used.
        OSError: A place to remember things in cannot be written.
    """
    if is_cache(root):
        cache = open_cache(root)
        check_settings(cache, CacheSettings(size, resize))
        return _cached(root, cache, num_frames, stride, fps, [])
    span = int(frame_span(num_frames, stride))
    found = (
        VideoIndex.load(index, root)
        if index
        else scan(root, min_frames=span, backend=backend, show_progress=show_progress)
    )
    selection = select(found, num_frames, stride, fps)
    if _decoded_bytes(found, size) <= cache_mb * 2**20:
        folder = _own_cache(found, CacheSettings(size, resize), backend, show_progress)
        return _cached(root, open_cache(folder), num_frames, stride, fps, selection.left_out)
    parts = {
        name: VideoFiles(root, table, size, selection.classes, backend, stride, fps, resize)
        for name, table in selection.parts.items()
    }
    return Videos(root, parts, selection.classes, selection.left_out, selection.fingerprint, "video files")


def _cached(
    root: Path, cache: CacheFolder, num_frames: int, stride: int, fps: float | None, left_out: list[LeftOut]
) -> Videos:
    selection, parts = select_cached(cache, num_frames, stride, fps)
    broken = [LeftOut(pair) for pair in cache.manifest["left_out"]]
    left_out = left_out or selection.left_out
    return Videos(root, parts, selection.classes, left_out + broken, selection.fingerprint, f"clip cache {cache.root}")


def _own_cache(index: VideoIndex, settings: CacheSettings, backend: Backend, show_progress: bool) -> Path:
    """The clip cache of a folder that nobody prepared one for."""
    key = fingerprint(index, settings)
    folder = home() / "clips" / f"{index.root.resolve().name}-{settings.size}-{key}"
    if not is_cache(folder):
        prepare(index, folder, settings, workers=cores(), backend=backend, show_progress=show_progress)
    return folder


def _decoded_bytes(index: VideoIndex, size: int) -> int:
    usable = pc.is_in(index.table["status"], pa.array(["ok", "short"]))
    return int(pc.sum(index.table.filter(usable)["frames"]).as_py() or 0) * size * size * 3
