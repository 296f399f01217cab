"""Video files to uint8 clips: which decoder, which frames, which part of each frame.

Frames are cropped and resized one by one into a preallocated array, so that no more than one full-size frame is held.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from rinvid.data.readers import DecordReader, Frames, PyAVReader, VideoError, VideoReader, first_line

Backend = Literal["auto", "pyav", "decord"]
Resize = Literal["crop", "stretch"]

_PACKAGES = {"pyav": "av", "decord": "decord2"}
_READERS: dict[str, tuple[str, Callable[[Path], VideoReader]]] = {
    "pyav": ("av", PyAVReader),
    "decord": ("decord", DecordReader),
}
# Frame rates this near count as equal: 29.97 for 30.
_NEAR = 0.95


def choose_backend(backend: Backend = "auto") -> Literal["pyav", "decord"]:
    """The decoder to use: PyAV if it is installed, else decord; both bundle FFmpeg, so a process loads only one.

    Raises:
        ValueError: Unknown name, not installed, the other decoder is already loaded in this process, or decord in a
            process that uses CUDA, where loading it can crash.
    """
    if backend not in ("auto", *_READERS):
        raise ValueError(f"unknown video backend {backend!r}; known: auto, {', '.join(_READERS)}")
    loaded = next((name for name, (module, _) in _READERS.items() if module in sys.modules), None)
    if backend == "auto":
        installed = (name for name, (module, _) in _READERS.items() if find_spec(module))
        backend = cast(Backend, loaded or next(installed, "pyav"))
    if loaded and backend != loaded:
        raise ValueError(
            f"video backend {backend!r} cannot be loaded beside {loaded!r}: each brings its own FFmpeg and they clash; "
            "use one backend a process"
        )
    if not find_spec(_READERS[backend][0]):
        raise ValueError(f"video backend {backend!r} is not installed; try: pip install {_PACKAGES[backend]}")
    torch = sys.modules.get("torch")
    if backend == "decord" and not loaded and torch is not None and torch.cuda.is_initialized():
        raise ValueError(
            "video backend 'decord' cannot be loaded into a process that uses CUDA; "
            "let workers decode (data.num_workers of at least 1), or use 'pyav'"
        )
    return cast(Literal["pyav", "decord"], backend)


def claim_backend(backend: Backend) -> Literal["pyav", "decord"]:
    """Choose a decoder as :func:`choose_backend` does and load it, so that this process keeps to it."""
    chosen = choose_backend(backend)
    module = _READERS[chosen][0]
    if backend == "auto" and module not in sys.modules and multiprocessing.parent_process() is None:
        print(f"videos are read with {chosen}", file=sys.stderr)
    import_module(module)
    return chosen


def open_video(path: str | os.PathLike[str], backend: Backend = "auto") -> VideoReader:
    """Open a video file for reading.

    Raises:
        FileNotFoundError: No such file.
        OSError: The file may not be read.
        VideoError: The file is not a video, or is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    # A file that may not be read is not a broken video: let the system's error through.
    path.open("rb").close()
    reader = _READERS[claim_backend(backend)][1]
    try:
        opened = reader(path)
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({first_line(error)})") from error
    if opened.info.frames == 0:
        opened.close()
        raise VideoError(f"{path}: holds no frames")
    return opened


def read_clip(
    path: str | os.PathLike[str],
    start: int = 0,
    num_frames: int | None = 16,
    stride: int = 1,
    size: int | None = 64,
    backend: Backend = "auto",
    fps: float | None = None,
    resize: Resize = "crop",
    crop_at: float = 0.5,
) -> Frames:
    """Read ``num_frames`` frames from frame ``start`` on, every ``stride``-th one or ``fps`` a second.

    Args:
        path: A video file.
        start: Index of the first frame in presentation order, from 0.
        num_frames: How many frames; None for all that follow.
        stride: Distance between frames, at least 1.
        size: Side of the square frames in pixels; None keeps the frames as they are.
        backend: "pyav", "decord", or "auto" for the one that is installed.
        fps: Frames of the clip per second of the video, picked by the file's average rate; excludes ``stride``.
        resize: "crop" resizes the shortest side to ``size`` and cuts a square out; "stretch" makes the whole frame
            square. Pixels are averaged over areas when a frame shrinks.
        crop_at: Where the square lies along the longer side: 0 left or top, 0.5 the centre, 1 right or bottom.

    Returns:
        uint8 RGB, upright, shape (num_frames, height, width, 3).

    Raises:
        FileNotFoundError: No such file.
        VideoError: Not a video, broken, too short, or of a lower frame rate than asked for.
        ValueError: An argument is out of range.
    """
    if start < 0 or stride < 1 or (num_frames is not None and num_frames < 1) or (size is not None and size < 1):
        raise ValueError(
            "read_clip needs start >= 0, stride >= 1, num_frames >= 1 and size >= 1, "
            f"got {start=}, {stride=}, {num_frames=}, {size=}"
        )
    if resize not in ("crop", "stretch") or not 0 <= crop_at <= 1:
        raise ValueError(f"resize must be 'crop' or 'stretch' and crop_at in [0, 1], got {resize=}, {crop_at=}")
    with open_video(path, backend) as reader:
        total = reader.info.frames
        step = frame_step(stride, fps, reader.info.fps)
        if step is None:
            raise VideoError(f"{path}: has {reader.info.fps:g} frames a second, fewer than the {fps:g} asked for")
        count = num_frames or max(1, frames_within(total - start, step))
        indices = [start + offset for offset in frame_offsets(count, step)]
        if indices[-1] >= total:
            raise VideoError(f"{path}: has {total} frames, too few to read up to frame {indices[-1]}")
        clip: Frames | None = None
        done = 0
        try:
            for frame in reader.read(indices):
                fitted = frame if size is None else _fit_square(frame, size, resize, crop_at)
                clip = np.empty((count, *fitted.shape), np.uint8) if clip is None else clip
                clip[done] = fitted
                done += 1
        except Exception as error:
            raise VideoError(f"{path}: broken at frame {indices[done]} ({first_line(error)})") from error
    if clip is None or done < count:
        raise VideoError(f"{path}: broken, frame {indices[done]} of {total} cannot be decoded")
    return clip


def frame_step(stride: int, fps: float | None, file_fps: float) -> float | None:
    """Distance between a clip's frames in frames of the file; None if the file has fewer a second than ``fps``.

    Raises:
        ValueError: ``fps`` is not above 0, or comes with a stride.
    """
    if fps is None:
        return stride
    if not fps > 0 or stride != 1:
        raise ValueError(f"fps must be above 0 and excludes a stride, got {fps=}, {stride=}")
    step = file_fps / fps
    return max(step, 1.0) if step >= _NEAR else None


def frame_offsets(count: int, step: float) -> list[int]:
    """Places of ``count`` frames at distances of ``step``, which may be a fraction, from the first one on."""
    return [int(number * step + 0.5) for number in range(count)]


def frame_span(count: int, step: Any) -> Any:
    """Frames of the file that a clip of ``count`` frames covers; for an array of steps, an array."""
    return np.floor((count - 1) * np.asarray(step) + 0.5).astype(np.int64) + 1


def frames_within(span: int, step: float) -> int:
    """How many frames at distances of ``step`` there are among ``span`` frames, the inverse of :func:`frame_span`."""
    count = max(int((span - 1) / step) + 2, 0)
    while count and frame_span(count, step) > span:
        count -= 1
    return count


def _fit_square(frame: Frames, size: int, resize: Resize, crop_at: float) -> Frames:
    """A frame as a square: averaged over areas where it shrinks, bilinear where it grows."""
    height, width = frame.shape[:2]
    if height == width == size:
        return frame
    side = min(height, width)
    box = (0.0, 0.0, float(width), float(height))
    if resize == "crop":
        left, top = (width - side) * crop_at, (height - side) * crop_at
        box = (left, top, left + side, top + side)
    how = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    image = Image.fromarray(np.ascontiguousarray(frame)).resize((size, size), how, box=box)
    return np.asarray(image)
