"""Clips: which window, by which rule, mirrored and cropped how, and what stands in the place of a broken video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rinvid.data.clips import Batch, ClipRule, VideoClips, to_model_range, to_uint8
from rinvid.data.decode import frame_offsets
from rinvid.data.readers import Frames, VideoError
from rinvid.data.sampler import Request
from rinvid.data.sources import VideoSource

LENGTHS = (12, 20, 9, 15)
SIZE = 4
# What the channels of a pixel of ``Pictures`` say.
VIDEO, FRAME, COLUMN = range(3)


class Pictures(VideoSource):
    """Videos made up as they are read, whose pixels say where they are from; the class of video k is k % 3."""

    classes = ("a", "b", "c")
    size = SIZE

    def __init__(self, lengths: Sequence[int] = LENGTHS, step: float = 2, broken: Collection[int] = ()) -> None:
        self._lengths, self._step, self._broken = list(lengths), step, broken
        self.crops: list[float] = []

    @property
    def frames(self) -> NDArray[np.int32]:
        return np.array(self._lengths, np.int32)

    @property
    def steps(self) -> NDArray[np.float64]:
        return np.full(len(self._lengths), self._step, np.float64)

    def name(self, video: int) -> str:
        return f"folder/{video}.mp4"

    def label(self, video: int) -> int:
        return video % len(self.classes)

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        if video in self._broken:
            raise VideoError(f"{self.name(video)}: is broken: at once")
        self.crops.append(crop_at)
        indices = np.array([start + offset for offset in frame_offsets(num_frames, self._step)])
        assert indices[-1] < self._lengths[video], "read past the end"
        clip = np.empty((num_frames, SIZE, SIZE, 3), np.uint8)
        clip[..., VIDEO], clip[..., FRAME], clip[..., COLUMN] = video, indices[:, None, None], np.arange(SIZE)
        clip.flags.writeable = False
        return clip


def make(rule: ClipRule = "random", source: VideoSource | None = None, **options: Any) -> VideoClips:
    return VideoClips(source or Pictures(), 4, rule, **options)


def places(batch: Batch) -> list[tuple[int, int]]:
    """Video and first frame of each clip."""
    return [(int(clip[0, 0, 0, VIDEO]), int(clip[0, 0, 0, FRAME])) for clip in batch.samples]


def requests(count: int, item: int = 0) -> list[Request]:
    return [Request(item, (3, seed)) for seed in range(count)]


def equal(first: Batch, second: Batch) -> bool:
    return bool((first.samples == second.samples).all() and (first.labels == second.labels).all())


# -- windows


def test_random_windows_are_given_by_the_seed() -> None:
    clips = make()
    assert len(clips) == 4
    found = clips.__getitems__(requests(300, item=1))
    # All that fit, the last one too: 4 frames at a distance of 2 cover 7 of 20.
    counts = Counter(places(found))
    assert counts.keys() == {(1, start) for start in range(14)}
    assert max(counts.values()) < 50
    for clip in found.samples[..., FRAME]:
        assert (clip[:, 0, 0] - clip[0, 0, 0]).tolist() == [0, 2, 4, 6]
        assert (clip == clip[:, :1, :1]).all()
    assert equal(found, make().__getitems__(requests(300, item=1)))
    for place, request in enumerate(requests(9, item=1)):  # whatever is read beside it
        assert torch.equal(clips[request].samples[0], found.samples[place])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ("centre", [(0, 2), (1, 6), (2, 1), (3, 4)]),
        ("all", [(0, 0), (1, 0), (1, 7), (2, 0), (3, 0), (3, 7)]),
    ],
)
def test_rules_without_chance(rule: ClipRule, expected: list[tuple[int, int]]) -> None:
    clips = make(rule)
    assert len(clips) == len(expected)
    for seed in range(5):
        batch = clips.__getitems__([Request(item, (0, seed)) for item in range(len(clips))])
        assert places(batch) == expected
        assert batch.labels.tolist() == [video % 3 for video, _ in expected]


@pytest.mark.parametrize("step", [1.0, 1.5, 2.9])
def test_all_windows_touch_and_never_overlap(step: float) -> None:
    lengths = (10, 30, 11, 61)
    clips = make("all", Pictures(lengths, step))
    span = frame_offsets(4, step)[-1] + 1
    found = places(clips.__getitems__([Request(item, (0, 0)) for item in range(len(clips))]))
    assert found == [(v, start) for v, frames in enumerate(lengths) for start in range(0, frames - span + 1, span)]


def test_a_video_that_just_fits() -> None:
    batch = make(source=Pictures([7])).__getitems__(requests(20))
    assert set(places(batch)) == {(0, 0)}


def test_items_by_number() -> None:
    clips = make()
    assert [places(clips[item])[0][0] for item in range(4)] == [0, 1, 2, 3]
    assert equal(clips[2], clips[2])
    assert len({places(make(source=Pictures([90] * 30))[item])[0][1] for item in range(30)}) > 10
    for item in (-1, 4):
        with pytest.raises(IndexError, match=f"item {item} of a data set of 4"):
            clips[item]
    with pytest.raises(IndexError):
        make("all")[6]
    assert sum(1 for _ in make("all")) == 6


def test_refused() -> None:
    with pytest.raises(VideoError, match="a clip of 4 frames does not fit"):
        make(source=Pictures([12, 6]))
    with pytest.raises(ValueError, match="rule='last'"):
        VideoClips(Pictures(), 4, "last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="crop='left'"):
        VideoClips(Pictures(), 4, crop="left")  # type: ignore[arg-type]


# -- augmentation


def test_half_of_the_clips_are_mirrored_as_a_whole() -> None:
    plain, flipping = make().__getitems__(requests(400)), make(flip=True).__getitems__(requests(400))
    flipped = 0
    for before, after in zip(plain.samples, flipping.samples, strict=True):
        mirrored = not torch.equal(before, after)
        assert torch.equal(after, before.flip(2) if mirrored else before)
        flipped += mirrored
    assert 150 < flipped < 250
    assert equal(flipping, make(flip=True).__getitems__(requests(400)))


def test_a_random_crop_is_one_place_a_clip() -> None:
    source = Pictures()
    batch = make(source=source, crop="random").__getitems__(requests(300))
    crops = source.crops.copy()
    assert len(crops) == len(set(crops)) == 300  # asked for once a clip
    assert 0 <= min(crops) < 0.05
    assert 0.95 < max(crops) < 1
    assert equal(batch, make(source=source, crop="random").__getitems__(requests(300)))
    assert source.crops[300:] == crops
    source.crops.clear()
    make(source=source).__getitems__(requests(9))
    assert set(source.crops) == {0.5}


# -- batches


def test_a_batch_owns_its_samples_and_nothing_else() -> None:
    clips = make()
    batch = clips.__getitems__([Request(item, (0, 0)) for item in (2, 0, 3)])
    assert (batch.samples.shape, batch.samples.dtype) == ((3, 4, SIZE, SIZE, 3), torch.uint8)
    assert batch.samples.untyped_storage().nbytes() == batch.samples.numel()
    assert batch.samples.is_contiguous()
    assert (batch.labels.tolist(), batch.labels.dtype, batch.broken) == ([2, 0, 0], torch.int64, [])
    before = clips[0].samples.clone()
    clips[0].samples.zero_()
    assert torch.equal(clips[0].samples, before)


def test_clips_are_written_where_they_are_wanted() -> None:
    memory = torch.zeros(5, 4, SIZE, SIZE, 3, dtype=torch.uint8)
    clips = make()
    batch = clips.fill(requests(2, item=1), memory[1:3])
    assert batch.samples.data_ptr() == memory[1:3].data_ptr()
    assert torch.equal(memory[1:3], clips.__getitems__(requests(2, item=1)).samples)
    assert memory[0].sum() == memory[3:].sum() == 0


# -- broken videos


def test_a_broken_video_is_replaced() -> None:
    clips = make(source=Pictures([20] * 8, broken={1, 2}), replace=True)
    batch = clips.__getitems__(requests(200, item=1))
    replacements = Counter(video for video, _ in places(batch))
    assert replacements.keys() == {0, 3, 4, 5, 6, 7}  # drawn, not simply the next
    assert batch.labels.tolist() == [video % 3 for video, _ in places(batch)]
    assert Counter(batch.broken).keys() == {(f"folder/{video}.mp4", "is broken: at once") for video in (1, 2)}
    assert 230 < len(batch.broken) < 300  # a quarter of those drawn are broken as well
    again = make(source=Pictures([20] * 8, broken={1, 2}), replace=True).__getitems__(requests(200, item=1))
    assert equal(batch, again)
    assert again.broken == batch.broken


def test_what_is_whole_is_the_same_beside_broken_videos() -> None:
    options = {"flip": True, "crop": "random"}
    whole = make(**options).__getitems__(requests(20, item=3))
    found = make(source=Pictures(broken={1}), replace=True, **options).__getitems__(requests(20, item=3))
    assert equal(whole, found)
    assert found.broken == []


def test_replacements_of_windows_are_windows() -> None:
    clips = make("all", Pictures(broken={1}), replace=True)
    assert {place for item in (1, 2) for seed in range(40) for place in places(clips[Request(item, (0, seed))])} == {
        (0, 0),
        (2, 0),
        (3, 0),
        (3, 7),
    }


def test_without_replacement_a_broken_video_is_an_error() -> None:
    clips = make(source=Pictures(broken={1}))
    assert places(clips[0])[0][0] == 0
    with pytest.raises(VideoError, match=r"^folder/1.mp4: is broken: at once$"):
        clips[1]


def test_a_file_that_cannot_be_read_is_replaced_too() -> None:
    class Unreadable(Pictures):
        def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
            if video == 1:
                raise PermissionError(13, "Permission denied")
            return super().read(video, start, num_frames, crop_at)

    batch = make(source=Unreadable(), replace=True)[Request(1, (0, 0))]
    assert places(batch)[0][0] != 1
    assert len(batch.broken) >= 1
    with pytest.raises(PermissionError):
        make(source=Unreadable())[1]


def test_nothing_but_broken_videos() -> None:
    with pytest.raises(VideoError, match=r"10 videos in a row cannot be read; the last: folder/\d.mp4: is broken"):
        make(source=Pictures(broken=range(4)), replace=True)[0]


def test_names_are_told_before_they_are_read() -> None:
    clips = make(source=Pictures(broken={1}))
    told: list[str] = []
    clips.on_read = told.append
    clips.window(0, 0)
    with pytest.raises(VideoError):
        clips[1]
    assert told == ["folder/0.mp4", "folder/1.mp4"]


# -- windows for evaluation


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 99])
def test_spread(count: int) -> None:
    clips = make()
    windows = clips.spread(count)
    assert len(windows) == min(count, 6)  # 1 + 2 + 1 + 2 windows of 7 frames fit
    covered = [(video, frame) for video, start in windows for frame in range(start, start + 7)]
    assert len(set(covered)) == len(covered)
    assert all(frame < LENGTHS[video] for video, frame in covered)
    turns = Counter(Counter(video for video, _ in windows).values())
    assert turns == {1: min(count, 4)} if count <= 4 else turns.keys() == {1, 2}
    assert windows == clips.spread(count)


def test_spread_takes_few_at_equal_distances() -> None:
    many = make(source=Pictures([10] * 100))
    assert many.spread(5) == [(0, 0), (20, 0), (40, 0), (60, 0), (80, 0)]
    assert len({video for video, _ in many.spread(99)}) == 99


def test_spread_is_the_same_for_every_rule() -> None:
    assert make("all").spread(99) == make("centre").spread(99) == make("random").spread(99)


# -- ranges


def test_ranges_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(2, 3, 8, 16, 1)
    floats = to_model_range(every)
    assert (floats.shape, floats.dtype) == ((2, 1, 3, 8, 16), torch.float32)
    assert (float(floats.min()), float(floats.max())) == (-1, 1)
    assert torch.equal(to_uint8(floats), every)


def test_axes() -> None:
    clip = torch.zeros(1, 2, 3, 4, 3, dtype=torch.uint8)
    clip[0, 1, 2, 3, 0] = 255
    floats = to_model_range(clip)
    assert floats.shape == (1, 3, 2, 3, 4)
    assert floats[0, 0, 1, 2, 3] == 1
    assert floats.sum() == 2 - floats.numel()


def test_to_uint8_rounds_and_clips() -> None:
    values = torch.tensor([-3.0, -1, -0.9999, 0, 0.5, 0.9999, 1, 7]).reshape(1, 1, 1, 1, -1)
    assert to_uint8(values).flatten().tolist() == [0, 0, 0, 128, 191, 255, 255, 255]
    assert to_uint8(values.bfloat16()).dtype == torch.uint8
