"""Small video files for the tests, and pictures whose number can be read back after encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

BITS = 8
BLOCKS = 4  # a numbered frame is BLOCKS x BLOCKS squares: the number's bits, then the same bits turned round


def numbered(count: int, side: int = 64, first: int = 0) -> Frames:
    """Frames (count, side, side, 3) that show their number, from ``first`` on, as dark and light squares."""
    numbers = np.arange(first, first + count)
    bits = (numbers[:, None] >> np.arange(BITS)) & 1
    squares = np.concatenate([bits, 1 - bits], axis=1).reshape(count, BLOCKS, BLOCKS)
    grey = (20 + 215 * squares).astype(np.uint8)
    grey = grey.repeat(side // BLOCKS, axis=1).repeat(side // BLOCKS, axis=2)
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def numbers(clip: Frames) -> list[int]:
    """The numbers that the frames of a clip show; fails if a frame is not a numbered one."""
    return [_number(frame) for frame in clip]


def _number(frame: Frames) -> int:
    side = frame.shape[0] // BLOCKS
    centre = slice(side // 4, side - side // 4)
    squares = frame.mean(-1).reshape(BLOCKS, side, BLOCKS, side)[:, centre, :, centre].mean((1, 3)).reshape(-1)
    bits, turned = squares[:BITS] > 128, squares[BITS:] > 128
    assert (bits != turned).all(), "this is not a numbered frame"
    return int((bits << np.arange(BITS)).sum())


def write_video(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    fps: int = 16,
    options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Write frames (F, H, W, 3) as a video file; ``times`` are in milliseconds, for a variable frame rate."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=fps, options={"threads": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        unit = Fraction(1, fps) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        container.start_encoding()  # so that there is a file even without frames
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file with sound and no picture."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        samples = np.sin(np.arange(16000, dtype=np.float32) / 20)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
