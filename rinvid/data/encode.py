"""Frames to H.264 files, with PyAV."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rinvid.data.decode import Frames


def save_h264(video: Frames, path: Path, fps: int, crf: int) -> None:
    """Encode uint8 frames, grey (F, H, W) or RGB (F, H, W, 3), with even sides.

    Args:
        video: The frames.
        path: File to write; its suffix picks the container.
        fps: Frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.
    """
    if "decord" not in sys.modules:
        return _encode(video, path, fps, crf)
    # decord's FFmpeg and PyAV's clash within one process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_encode, video, path, fps, crf).result()


def _encode(video: Frames, path: Path, fps: int, crf: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], "yuv420p"
        pixels = "gray" if video.ndim == 3 else "rgb24"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=pixels)))
        container.mux(stream.encode())
