"""Clips of videos as a data set, and a sampler whose order is a function of seed and position alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm.auto import tqdm

from rinvid.data.decode import Backend, Frames, VideoError, read_clip
from rinvid.data.index import Video

logger = logging.getLogger(__name__)


class ClipRequest(NamedTuple):
    """Which clip is wanted: the video's place in the data set, and a seed that picks the window."""

    video: int
    seed: tuple[int, int]


class VideoClips(Dataset[Tensor]):
    """Clips of ``num_frames`` frames from videos; a request picks the video and, by its seed, the window.

    Args:
        root: Folder that the videos' paths are relative to.
        videos: Probed videos, each long enough for a clip.
        num_frames: Frames of a clip.
        stride: Distance between a clip's frames.
        size: Side of the square frames in pixels.
        backend: Decoder, see :func:`rinvid.data.read_clip`.

    Items are uint8 tensors (num_frames, size, size, 3).
    """

    def __init__(
        self, root: Path, videos: Sequence[Video], num_frames: int, stride: int, size: int, backend: Backend = "auto"
    ) -> None:
        self.root, self.videos = root, list(videos)
        self.num_frames, self.stride, self.size, self.backend = num_frames, stride, size, backend
        self.left_out: list[Video] = []
        self._decoded: list[Frames] | None = None

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def span(self) -> int:
        """Frames of the file that a clip covers."""
        return (self.num_frames - 1) * self.stride + 1

    @property
    def decoded_bytes(self) -> int:
        """Memory that all videos take once they are decoded."""
        return sum(video.frames for video in self.videos) * self.size * self.size * 3

    def decode_all(self, show_progress: bool = True) -> None:
        """Decode every video once into memory; a video that fails is reported by name and dropped."""
        with ThreadPoolExecutor() as pool:
            work = pool.map(self._try_decode, self.videos)
            decoded = list(tqdm(work, total=len(self), desc="decoding videos", disable=not show_progress))
        self.videos = [video for video, frames in zip(self.videos, decoded, strict=True) if frames is not None]
        self._decoded = [frames for frames in decoded if frames is not None]
        if not self._decoded:
            raise VideoError(f"{self.root}: none of {len(decoded)} videos can be decoded")

    def _try_decode(self, video: Video) -> Frames | None:
        try:
            return read_clip(self.root / video.path, 0, None, 1, self.size, self.backend)
        except (VideoError, FileNotFoundError) as error:
            self._leave_out(video, error)
            return None

    def _leave_out(self, video: Video, error: Exception) -> None:
        """Say by name that a video cannot be used, and keep count."""
        if all(known.path != video.path for known in self.left_out):
            logger.warning("left out %s", error)
            self.left_out.append(Video(video.path, 0, str(error).removeprefix(f"{self.root / video.path}: ")))

    def __getitem__(self, request: ClipRequest) -> Tensor:
        """The clip asked for; a video that turns out broken is reported and the next one takes its place.

        Raises:
            VideoError: The video and the nine after it are broken.
        """
        rng = np.random.default_rng(request.seed)
        for attempt in range(10):
            number = (request.video + attempt) % len(self)
            start = int(rng.integers(self.videos[number].frames - self.span + 1))
            try:
                return self.window(number, start)
            except (VideoError, FileNotFoundError) as error:
                self._leave_out(self.videos[number], error)
        raise VideoError(f"{self.root}: ten videos in a row are broken, the last is {self.videos[number].path}")

    def window(self, number: int, start: int) -> Tensor:
        """The clip of video ``number`` that begins at frame ``start``."""
        if self._decoded is None:
            path = self.root / self.videos[number].path
            clip = read_clip(path, start, self.num_frames, self.stride, self.size, self.backend)
        else:
            clip = self._decoded[number][start : start + self.span : self.stride].copy()
        return torch.from_numpy(clip)

    def mean_frame(self, videos: int = 256) -> Tensor:
        """Mean of the frames of up to ``videos`` videos, (3, H, W) in [-1, 1]."""
        return to_model_range(self.held_out(min(videos, len(self)))).mean((0, 2))

    def held_out(self, count: int) -> Tensor:
        """Up to ``count`` windows, spread evenly over the videos, uint8 (N, F, size, size, 3).

        A video that cannot be read is left out by name and never replaced by another clip of the same place.

        Raises:
            VideoError: No video can be read.
        """
        while self.videos:
            windows, broken = [], set()
            for number, start in self.spread(count):
                try:
                    windows.append(self.window(number, start))
                except (VideoError, FileNotFoundError) as error:
                    self._leave_out(self.videos[number], error)
                    broken.add(number)
            if not broken:
                return torch.stack(windows)
            self.videos = [video for number, video in enumerate(self.videos) if number not in broken]
        raise VideoError(f"{self.root}: none of its videos can be read")

    def spread(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` (video, start) windows that do not overlap, spread evenly over the videos."""
        rounds = max(video.frames // self.span for video in self.videos)
        windows = [
            (number, turn * self.span)
            for turn in range(rounds)
            for number, video in enumerate(self.videos)
            if (turn + 1) * self.span <= video.frames
        ]
        # The first turn has every video; where even that is too many, take them at equal distances.
        if count >= len(self.videos):
            return windows[:count]
        return [windows[i * len(self.videos) // count] for i in range(count)]


class ClipSampler(Sampler[list[ClipRequest]]):
    """Endless batches of requests: each epoch is a permutation given by (seed, epoch).

    A batch is cut from the global order by position, so that the order depends neither on the number of processes nor
    on where a run was resumed.

    Args:
        length: Videos in the data set.
        global_batch: Clips a step, over all processes.
        processes: How many equal parts a step's clips are cut into.
        rank: Which part is this process's.
        seed: Seed of the order and of the windows.
        start_step: Steps that are done already.

    Raises:
        ValueError: ``processes`` does not divide ``global_batch``.
    """

    def __init__(
        self, length: int, global_batch: int, processes: int = 1, rank: int = 0, seed: int = 0, start_step: int = 0
    ) -> None:
        if global_batch % processes:
            raise ValueError(f"batch_size={global_batch} does not divide over {processes} processes")
        self.length, self.global_batch, self.part = length, global_batch, global_batch // processes
        self.rank, self.seed, self.start_step = rank, seed, start_step

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in count(self.start_step):
            first = step * self.global_batch + self.rank * self.part
            batch = []
            for position in range(first, first + self.part):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append(ClipRequest(int(order[position % self.length]), (self.seed, position)))
            yield batch


def to_model_range(clips: Tensor) -> Tensor:
    """uint8 (B, F, H, W, C) -> float32 (B, C, F, H, W) in [-1, 1]."""
    return clips.movedim(-1, 1).float().div_(127.5).sub_(1)


def to_uint8(videos: Tensor) -> Tensor:
    """float (B, C, F, H, W) in [-1, 1] -> uint8 (B, F, H, W, C), rounded and clipped."""
    return videos.float().add(1).mul(127.5).round().clamp(0, 255).byte().movedim(1, -1)
