"""The decoders, PyAV and decord, behind one small contract.

A reader is opened, used and closed within one call and is never shared between calls, threads or processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


class VideoError(ValueError):
    """A video file that cannot give what was asked of it; the text names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its video: frames to show, frames per second on average, stored pixels, codec name."""

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
        """The frames of increasing ``indices``, in presentation order, upright, each RGB uint8 (H, W, 3)."""

    @abstractmethod
    def scan(self) -> Iterator[tuple[int, int, int]]:
        """Decode all frames in order, without their pixels: height and width as shown, and the rotation, of each."""

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

        # FFmpeg's own log lines go through Python's lock, which can deadlock, and say nothing that the error does not.
        av.logging.set_level(None)
        self._container = av.open(str(path))
        try:
            self._open_stream(path)
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self, path: Path) -> None:
        from av.stream import Disposition

        # A cover picture of a sound file is a video stream too.
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{path}: has no video stream")
        self._stream = streams[0]
        # Frame threads can hang when decoding stops early; slices of one frame cannot.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = 1
        packets = _decodable([p for p in self._container.demux(self._stream) if p.size and not p.is_discard])
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
                pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                yield upright(np.asarray(pixels, np.uint8), frame.rotation)
                done += 1
                if done == len(wanted):
                    return

    def scan(self) -> Iterator[tuple[int, int, int]]:
        self._container.seek(self._keys[0][1] if self._keys else 0, stream=self._stream, backward=True)
        for frame in self._container.decode(self._stream):
            if frame.is_corrupt:
                raise VideoError("its data are damaged")
            turned = round(frame.rotation / 90) % 2
            yield (frame.width, frame.height, frame.rotation) if turned else (frame.height, frame.width, frame.rotation)

    def _seek_targets(self, first: int) -> list[int]:
        """Where to begin: the last key frame shown at or before the time ``first``, and if that fails, the start.

        Key frames are given by decoding time: by presentation time mp4 finds one that is shown after ``first``.
        """
        near = [dts for pts, dts in self._keys if pts <= first] if self._times else []
        start = self._keys[0][1] if self._keys else 0
        return [*near[-1:], start]

    def close(self) -> None:
        self._container.close()


def _decodable(packets: list[Any]) -> list[Any]:
    """Packets without those that a cut before the first key frame has left over: no decoder shows them."""
    first = next((number for number, packet in enumerate(packets) if packet.is_keyframe), 0)
    rest = packets[first:]
    start = rest[0].pts if rest else None
    return [p for p in rest if start is None or p.pts is None or p.pts >= start]


class DecordReader(VideoReader):
    """Reads with decord (its maintained fork decord2)."""

    def __init__(self, path: Path) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        first = self._reader[0].asnumpy()
        self.info = VideoInfo(
            len(self._reader), float(self._reader.get_avg_fps()), first.shape[1], first.shape[0], codec="unknown"
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

    def scan(self) -> Iterator[tuple[int, int, int]]:
        self._reader.seek(0)
        for _ in range(self.info.frames):
            height, width = self._reader.next().shape[:2]
            yield height, width, 0

    def close(self) -> None:
        del self._reader


def first_line(error: BaseException) -> str:
    """What an exception says, on one line, without a number or a path that an error of the system brings."""
    said = getattr(error, "strerror", None) or str(error)
    return (said.strip() or type(error).__name__).splitlines()[0]


def upright(frame: Frames, rotation: int) -> Frames:
    """The frame (H, W, C) turned as its container asks, ``rotation`` degrees counterclockwise, to a right angle."""
    return np.rot90(frame, round(rotation / 90) % 4)
