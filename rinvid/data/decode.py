"""Video files to uint8 frames, with PyAV or decord behind one small contract.

A reader is opened, used and closed within one call and is never shared. Frames are cropped and resized one by one
into a preallocated array, so that no more than one full-size frame is held.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Backend = Literal["auto", "pyav", "decord"]
Frames = NDArray[np.uint8]


class VideoError(ValueError):
    """A video file that cannot give what was asked of it; the text names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds: frames that can be asked for, frames per second, pixels, codec name."""

    frames: int
    fps: float
    width: int
    height: int
    codec: str


class VideoReader(ABC):
    """Contract of a decoder: a context manager over one open file."""

    info: VideoInfo

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open ``path``; any exception says that it is not a readable video."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Frames]:
        """The frames of increasing ``indices``, in presentation order, each RGB uint8 (H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the file and the decoder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class PyAVReader(VideoReader):
    """Reads with PyAV: seeks to the key frame before the first frame wanted and decodes on from there."""

    def __init__(self, path: Path) -> None:
        import av

        # FFmpeg's own log lines go through Python's lock and say nothing that the error does not.
        av.logging.set_level(None)
        self._container = av.open(str(path))
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{path}: has no video stream")
        self._stream = self._container.streams.video[0]
        # Frame threads can hang when decoding stops early; slices of one frame cannot.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = 1
        packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        times = {p.pts for p in packets if p.pts is not None}
        # avi carries no presentation times and FFmpeg's guesses are wrong where frames are reordered; in MPEG program
        # streams a seek lands anywhere. Frames of these can only be counted from the start.
        exact = len(times) == len(packets) and self._container.format.name not in ("avi", "mpeg")
        self._times = sorted(times) if exact else None
        self._keys = [
            (p.pts, p.pts if p.dts is None else p.dts) for p in packets if p.is_keyframe and p.pts is not None
        ]
        codec = self._stream.codec_context
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.info = VideoInfo(len(packets), float(rate or 0), codec.width, codec.height, codec.name)

    def read(self, indices: Sequence[int]) -> Iterator[Frames]:
        from av.video.reformatter import VideoReformatter

        # One converter for all frames: a new one per frame costs more than decoding it.
        to_rgb = VideoReformatter()
        times = self._times
        wanted = [times[i] for i in indices] if times else list(indices)
        done = 0
        for target in self._seek_targets(wanted[0]):
            self._container.seek(target, stream=self._stream, backward=True)
            for number, frame in enumerate(self._container.decode(self._stream)):
                key = frame.pts if times else number
                if key is None or key < wanted[done]:
                    continue
                if key > wanted[done]:
                    break  # the seek went past it
                yield np.asarray(to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
                done += 1
                if done == len(wanted):
                    return

    def _seek_targets(self, first: int) -> list[int]:
        """Where to begin: the last key frame shown at or before the time ``first``, and if that fails, the start.

        Key frames are given by decoding time: by presentation time mp4 finds one that is shown after ``first``.
        """
        near = [dts for pts, dts in self._keys if pts <= first] if self._times else []
        start = self._keys[0][1] if self._keys else 0
        return [*near[-1:], start]

    def close(self) -> None:
        self._container.close()


class DecordReader(VideoReader):
    """Reads with decord (its maintained fork decord2)."""

    def __init__(self, path: Path) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        first = self._reader[0].asnumpy()
        codec = "unknown"
        self.info = VideoInfo(
            len(self._reader), float(self._reader.get_avg_fps()), first.shape[1], first.shape[0], codec
        )

    def read(self, indices: Sequence[int]) -> Iterator[Frames]:
        # decord's random access gives other frames in avi, in MPEG streams and where groups of pictures are open.
        wanted = set(indices)
        self._reader.seek(0)
        for index in range(indices[-1] + 1):
            frame = self._reader.next()
            if index in wanted:
                # Rows of narrow frames come with their padding.
                rows = frame.asnumpy().reshape(self.info.height, -1)[:, : 3 * self.info.width]
                yield rows.reshape(self.info.height, self.info.width, 3)

    def close(self) -> None:
        del self._reader


_PACKAGES = {"pyav": "av", "decord": "decord2"}
_READERS: dict[str, tuple[str, type[VideoReader]]] = {"pyav": ("av", PyAVReader), "decord": ("decord", DecordReader)}


def choose_backend(backend: Backend = "auto") -> Literal["pyav", "decord"]:
    """The decoder to use: PyAV if it is installed, else decord; both bundle FFmpeg, so a process loads only one.

    Raises:
        ValueError: Unknown name, not installed, or the other decoder is already loaded in this process.
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
    return backend  # type: ignore[return-value]


def claim_backend(backend: Backend) -> Literal["pyav", "decord"]:
    """Choose a decoder as :func:`choose_backend` does and load it, so that this process keeps to it."""
    chosen = choose_backend(backend)
    import_module(_READERS[chosen][0])
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
    reader = _READERS[choose_backend(backend)][1]
    try:
        opened = reader(path)
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({_first_line(error)})") from error
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
) -> Frames:
    """Read ``num_frames`` frames from frame ``start`` on, every ``stride``-th one.

    Args:
        path: A video file.
        start: Index of the first frame in presentation order, from 0.
        num_frames: How many frames; None for all that follow.
        stride: Distance between frames, at least 1.
        size: Side of the square frames in pixels: the shortest side is resized to it and the centre cut out. None
            keeps the frames as they are.
        backend: "pyav", "decord", or "auto" for the one that is installed.

    Returns:
        uint8 RGB, shape (num_frames, height, width, 3).

    Raises:
        FileNotFoundError: No such file.
        VideoError: Not a video, broken, or too short for the frames asked for.
        ValueError: An argument is out of range.
    """
    if start < 0 or stride < 1 or (num_frames is not None and num_frames < 1) or (size is not None and size < 1):
        raise ValueError(
            "read_clip needs start >= 0, stride >= 1, num_frames >= 1 and size >= 1, "
            f"got {start=}, {stride=}, {num_frames=}, {size=}"
        )
    with open_video(path, backend) as reader:
        total = reader.info.frames
        end = total if num_frames is None else start + (num_frames - 1) * stride + 1
        if end > total or start >= total:
            raise VideoError(f"{path}: has {total} frames, too few to read up to frame {max(end - 1, start)}")
        indices = range(start, end, stride)
        height, width = (reader.info.height, reader.info.width) if size is None else (size, size)
        clip = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        done = 0
        try:
            for frame in reader.read(indices):
                clip[done] = frame if size is None else _fit_square(frame, size)
                done += 1
        except Exception as error:
            raise VideoError(f"{path}: broken at frame {indices[done]} ({_first_line(error)})") from error
    if done < len(indices):
        raise VideoError(f"{path}: broken, frame {indices[done]} of {total} cannot be decoded")
    return clip


def _fit_square(frame: Frames, size: int) -> Frames:
    """Centre square of a frame, resized: averaged over areas when it shrinks, bilinear when it grows."""
    height, width = frame.shape[:2]
    side = min(height, width)
    if height == width == size:
        return frame
    left, top = (width - side) / 2, (height - side) / 2
    how = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    image = Image.fromarray(frame).resize((size, size), how, box=(left, top, left + side, top + side))
    return np.asarray(image)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
