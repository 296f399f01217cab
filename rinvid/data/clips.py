"""Clips of videos as a data set: which window, which augmentation, and what happens to a broken video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rinvid.data.decode import frame_span
from rinvid.data.readers import Frames, VideoError, first_line
from rinvid.data.sampler import Request, as_request
from rinvid.data.sources import VideoSource

ClipRule = Literal["random", "first", "centre", "all"]
# So many videos are tried in the place of a broken one.
_TRIES = 10


class Failure(NamedTuple):
    """What could not be read, and why, in one line."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @classmethod
    def of(cls, name: str, error: Exception) -> Failure:
        """The failure that an exception tells of, whose text may begin with the name."""
        return cls(name, first_line(error).removeprefix(f"{name}: "))


class Batch(NamedTuple):
    """Samples of one step.

    Attributes:
        samples: uint8, clips (B, F, H, W, C) or images (B, H, W, C).
        labels: int64 (B,); -1 for a sample without a label.
        broken: What could not be read, each try of its own.
    """

    samples: Tensor
    labels: Tensor
    broken: list[Failure]


class VideoClips(Dataset[Batch]):
    """Clips of ``num_frames`` frames; a request picks the video and seeds all that is random about its clip.

    Args:
        source: The videos.
        num_frames: Frames of a clip.
        rule: Which window of a video: "random", "first", "centre", or "all": every window that does not overlap
            another is an item of its own.
        flip: Mirror half of the clips left to right, each as a whole.
        crop: "centre", or "random" for one random place a clip along the frame's longer side.
        replace: Let other videos, drawn from the request's seed, take the places of broken ones; without it a broken
            video is an error.

    Items are batches of one; a list of requests is a batch read at once.

    Raises:
        VideoError: No video is long enough for a clip.
        ValueError: An unknown rule or crop.
    """

    def __init__(
        self,
        source: VideoSource,
        num_frames: int,
        rule: ClipRule = "random",
        flip: bool = False,
        crop: Literal["centre", "random"] = "centre",
        replace: bool = False,
    ) -> None:
        if rule not in ("random", "first", "centre", "all") or crop not in ("centre", "random"):
            raise ValueError(
                f"rule must be random, first, centre or all, and crop centre or random, got {rule=}, {crop=}"
            )
        self.source, self.num_frames, self.rule = source, num_frames, rule
        self.flip, self.crop, self.replace = flip, crop, replace
        # Called with a video's name before it is read; loader workers say with it what they are at.
        self.on_read: Callable[[str], None] | None = None
        windows = self._windows()
        if not len(windows) or windows.min() < 1:
            raise VideoError(f"a clip of {num_frames} frames does not fit into every video of the data set")
        # For "all", items are counted through video by video: this is the number at which each video's end.
        self._ends = windows.cumsum() if rule == "all" else None

    def _windows(self) -> NDArray[np.int64]:
        """How many windows each video has that do not overlap."""
        return self.source.frames // frame_span(self.num_frames, self.source.steps)

    def _span(self, video: int) -> int:
        return int(frame_span(self.num_frames, self.source.steps[video]))

    def __len__(self) -> int:
        return len(self.source) if self._ends is None else int(self._ends[-1])

    def __getitem__(self, request: Request | int) -> Batch:
        """The clip that a request asks for; a plain number asks with itself as the seed.

        Raises:
            IndexError: There is no such item.
            VideoError: The video is broken and is not to be replaced, or all those tried in its place are broken too.
            OSError: The file cannot be read.
        """
        return self.__getitems__([request])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of a clip (F, H, W, C)."""
        return self.num_frames, self.source.size, self.source.size, 3

    def __getitems__(self, requests: Sequence[Request | int]) -> Batch:
        samples = torch.empty((len(requests), *self.sample_shape), dtype=torch.uint8)
        return self.fill([as_request(request) for request in requests], samples)

    def fill(self, requests: Sequence[Request], samples: Tensor) -> Batch:
        """Write the clips asked for into the memory given, uint8 (B, F, H, W, C)."""
        places, labels = samples.numpy(), torch.empty(len(requests), dtype=torch.int64)
        broken: list[Failure] = []
        for place, request in enumerate(requests):
            if not 0 <= request.item < len(self):
                raise IndexError(f"item {request.item} of a data set of {len(self)}")
            clip, video, failures = self._take(request)
            np.copyto(places[place], clip)
            labels[place] = self.source.label(video)
            broken += failures
        return Batch(samples, labels, broken)

    def _take(self, request: Request) -> tuple[Frames, int, list[Failure]]:
        """The clip asked for, the video it is from, and what was broken on the way."""
        rng = np.random.default_rng(request.seed)
        item, failures = request.item, list[Failure]()
        for _ in range(_TRIES if self.replace else 1):
            video, start = self._window(item, rng)
            crop_at = rng.random() if self.crop == "random" else 0.5
            flipped = self.flip and rng.random() < 0.5
            try:
                clip = self.window(video, start, crop_at)
            except (VideoError, OSError) as error:
                if not self.replace:
                    raise
                failures.append(Failure.of(self.source.name(video), error))
                item = int(rng.integers(len(self)))
            else:
                return clip[:, :, ::-1] if flipped else clip, video, failures
        raise VideoError(f"{_TRIES} videos in a row cannot be read; the last: {failures[-1]}")

    def _window(self, item: int, rng: np.random.Generator) -> tuple[int, int]:
        """Video and first frame of an item."""
        if self._ends is not None:
            video = int(np.searchsorted(self._ends, item, side="right"))
            before = int(self._ends[video - 1]) if video else 0
            return video, (item - before) * self._span(video)
        room = int(self.source.frames[item]) - self._span(item)
        starts = {"random": lambda: int(rng.integers(room + 1)), "first": lambda: 0, "centre": lambda: room // 2}
        return item, starts[self.rule]()

    def window(self, video: int, start: int, crop_at: float = 0.5) -> Frames:
        """The clip of a video that begins at frame ``start``, perhaps read-only."""
        if self.on_read:
            self.on_read(self.source.name(video))
        return self.source.read(video, start, self.num_frames, crop_at)

    def spread(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` (video, start) windows that do not overlap, spread evenly over the videos."""
        windows = self._windows()
        videos = len(windows)
        # The first turn has every video; where even that is too many, take them at equal distances.
        if count < videos:
            return [(place * videos // count, 0) for place in range(count)]
        found: list[tuple[int, int]] = []
        for turn in range(int(windows.max())):
            found += [(video, turn * self._span(video)) for video in np.flatnonzero(windows > turn).tolist()]
            if len(found) >= count:
                break
        return found[:count]


def to_model_range(samples: Tensor) -> Tensor:
    """uint8 (B, ..., C) -> float32 (B, C, ...) in [-1, 1], clips and images alike."""
    return samples.movedim(-1, 1).float().div_(127.5).sub_(1)


def to_uint8(samples: Tensor) -> Tensor:
    """float (B, C, ...) in [-1, 1] -> uint8 (B, ..., C), rounded and clipped."""
    return samples.float().add(1).mul(127.5).round().clamp(0, 255).byte().movedim(1, -1)
