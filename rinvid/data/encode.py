"""Frames to H.264 files, with PyAV."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from rinvid.data.readers import Frames


def save_h264(video: Frames, path: Path, fps: int, crf: int) -> None:
    """Encode uint8 frames, grey (F, H, W) or RGB (F, H, W, 3).

    Args:
        video: The frames; H and W even.
        path: File to write; its suffix picks the container.
        fps: Frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: A side is odd, which H.264 cannot hold.
    """
    if video.shape[1] % 2 or video.shape[2] % 2:
        raise ValueError(f"{path}: H.264 needs even sides, got frames of {video.shape[1]}x{video.shape[2]}")
    call_with_pyav(_encode, video, path, fps, crf)


def call_with_pyav(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function that needs PyAV; in a process of its own if this one has loaded decord."""
    if "decord" not in sys.modules:
        return function(*arguments)
    # decord's FFmpeg and PyAV's clash within one process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def _encode(video: Frames, path: Path, fps: int, crf: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        # Without mbtree=0 x264 gives other pixels every time for frames as small as the digits'.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], "yuv420p"
        pixels = "gray" if video.ndim == 3 else "rgb24"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=pixels)))
        container.mux(stream.encode())
