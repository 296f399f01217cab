"""Clips: windows by seed, the same from memory and from files, and an order that any number of processes share."""

from __future__ import annotations

import itertools
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rinvid.data.clips import ClipRequest, ClipSampler, VideoClips, to_model_range, to_uint8
from rinvid.data.decode import VideoError, read_clip
from rinvid.data.index import Video
from tests.video.make import numbered, numbers, write_video

# Frames of each video; video k shows the numbers from 50 k on.
LENGTHS = (12, 20, 9, 15)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four videos of different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    for number, frames in enumerate(LENGTHS):
        write_video(folder / f"{number}.mp4", numbered(frames, 32, 50 * number), options={"crf": "8", "bf": "2"})
    return folder


def videos() -> list[Video]:
    return [Video(f"{number}.mp4", frames) for number, frames in enumerate(LENGTHS)]


def make(root: Path, num_frames: int = 4, stride: int = 2, size: int = 32) -> VideoClips:
    return VideoClips(root, videos(), num_frames, stride, size)


@pytest.fixture
def clips(root: Path) -> VideoClips:
    return make(root)


def shown(clip: torch.Tensor) -> list[int]:
    return numbers(clip.numpy())


# -- windows


def test_the_seed_picks_the_window(clips: VideoClips) -> None:
    assert (len(clips), clips.span) == (4, 7)
    starts = set()
    for seed in range(60):
        clip = clips[ClipRequest(0, (3, seed))]
        assert (clip.shape, clip.dtype) == ((4, 32, 32, 3), torch.uint8)
        first, *_ = seen = shown(clip)
        assert seen == [first, first + 2, first + 4, first + 6]
        starts.add(first)
        assert torch.equal(clip, clips[ClipRequest(0, (3, seed))])
    assert starts == {0, 1, 2, 3, 4, 5}  # all that fit, the last one too


def test_the_request_picks_the_video(clips: VideoClips) -> None:
    for video in range(len(LENGTHS)):
        seen = shown(clips[ClipRequest(video, (0, 7))])
        assert {number // 50 for number in seen} == {video}


def test_from_memory_and_from_files(root: Path) -> None:
    on_the_fly, in_memory = make(root), make(root)
    in_memory.decode_all(show_progress=False)
    for video, seed in itertools.product(range(len(LENGTHS)), range(8)):
        request = ClipRequest(video, (0, seed))
        assert torch.equal(on_the_fly[request], in_memory[request])
    assert on_the_fly.decoded_bytes == in_memory.decoded_bytes == sum(LENGTHS) * 32 * 32 * 3


@pytest.mark.parametrize("decoded", [False, True])
def test_an_item_owns_its_frames_only(clips: VideoClips, decoded: bool) -> None:
    if decoded:
        clips.decode_all(show_progress=False)
    clip = clips[ClipRequest(1, (0, 0))]
    before = clip.clone()
    assert clip.untyped_storage().nbytes() == clip.numel()
    assert clip.is_contiguous()
    clip.zero_()
    assert torch.equal(clips[ClipRequest(1, (0, 0))], before)


# -- videos that turn out broken


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The four videos, of which number 1 breaks off in the middle although its header says 20 frames."""
    for number, frames in enumerate(LENGTHS):
        write_video(
            tmp_path / f"{number}.mp4",
            numbered(frames, 32, 50 * number),
            options={"crf": "8"},
            container_options={"movflags": "+faststart"},
        )
    path = tmp_path / "1.mp4"
    path.write_bytes(path.read_bytes()[:-200])
    return tmp_path


def test_a_broken_video_is_replaced_by_the_next(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = make(damaged)
    with caplog.at_level(logging.WARNING):
        clip = clips[ClipRequest(1, (0, 0))]
        assert {number // 50 for number in shown(clip)} == {2}
        assert torch.equal(clip, clips[ClipRequest(1, (0, 0))])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1  # said once, however often it is asked for
    assert messages[0].startswith(f"left out {damaged / '1.mp4'}: ")
    assert [video.path for video in clips.left_out] == ["1.mp4"]


def test_the_last_video_is_replaced_by_the_first(damaged: Path) -> None:
    (damaged / "3.mp4").write_text("text")
    assert {number // 50 for number in shown(make(damaged)[ClipRequest(3, (0, 0))])} == {0}


def test_nothing_but_broken_videos(damaged: Path) -> None:
    for path in damaged.iterdir():
        path.write_text("text")
    with pytest.raises(VideoError, match="ten videos in a row are broken"):
        make(damaged)[ClipRequest(0, (0, 0))]
    with pytest.raises(VideoError, match="none of 4 videos can be decoded"):
        make(damaged).decode_all(show_progress=False)


def test_decoding_all_drops_what_is_broken(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = make(damaged)
    with caplog.at_level(logging.WARNING):
        clips.decode_all(show_progress=False)
    assert [video.path for video in clips.videos] == ["0.mp4", "2.mp4", "3.mp4"]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [f"left out {damaged / '1.mp4'}"]
    for video, number in enumerate((0, 2, 3)):
        assert {frame // 50 for frame in shown(clips[ClipRequest(video, (0, 0))])} == {number}


# -- windows for evaluation


def frames_of(clips: VideoClips, windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every (video, frame) that the windows cover."""
    return [(video, frame) for video, start in windows for frame in range(start, start + clips.span)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 99])
def test_spread(clips: VideoClips, count: int) -> None:
    windows = clips.spread(count)
    assert len(windows) == min(count, 6)  # 1 + 2 + 1 + 2 windows of 7 frames fit
    covered = frames_of(clips, windows)
    assert len(set(covered)) == len(covered)
    assert all(frame < LENGTHS[video] for video, frame in covered)
    assert len({video for video, _ in windows}) == min(count, 4)
    assert windows == clips.spread(count)


def test_spread_takes_few_at_equal_distances(root: Path) -> None:
    many = VideoClips(root, [Video(f"{number}.mp4", 10) for number in range(100)], 10, 1, 32)
    assert [video for video, _ in many.spread(5)] == [0, 20, 40, 60, 80]


def test_window_is_where_it_says(clips: VideoClips) -> None:
    assert shown(clips.window(1, 13)) == [63, 65, 67, 69]
    with pytest.raises(VideoError):
        clips.window(1, 14)


@pytest.mark.parametrize("decoded", [False, True])
def test_mean_frame(clips: VideoClips, decoded: bool) -> None:
    if decoded:
        clips.decode_all(show_progress=False)
    starts = [read_clip(clips.root / video.path, 0, 4, 2, 32) for video in clips.videos]
    mean = np.stack(starts).astype(np.float64).mean((0, 1)).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(clips.mean_frame().numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(
        clips.mean_frame(videos=1).numpy(), starts[0].astype(float).mean(0).transpose(2, 0, 1) / 127.5 - 1, atol=1e-5
    )


# -- the order


def take(sampler: ClipSampler, steps: int) -> list[list[ClipRequest]]:
    return list(itertools.islice(sampler, steps))


def test_order_is_given_by_the_seed() -> None:
    first = take(ClipSampler(10, 4, seed=1), 12)
    assert take(ClipSampler(10, 4, seed=1), 12) == first
    assert take(ClipSampler(10, 4, seed=2), 12) != first
    sampler = ClipSampler(10, 4, seed=1)
    assert take(sampler, 12) == take(sampler, 12)


def test_each_epoch_is_another_permutation() -> None:
    order = [request.video for batch in take(ClipSampler(10, 4, seed=3), 15) for request in batch]
    epochs = [order[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_no_two_requests_share_a_seed() -> None:
    seeds = [request.seed for batch in take(ClipSampler(3, 4, seed=3), 15) for request in batch]
    assert len(set(seeds)) == 60


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_going_on_at_a_step(step: int) -> None:
    whole = take(ClipSampler(7, 4, seed=1), 12)
    assert take(ClipSampler(7, 4, seed=1, start_step=step), 12 - step) == whole[step:]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_one_order(processes: int) -> None:
    alone = take(ClipSampler(7, 4, seed=1, start_step=3), 9)
    parts = [take(ClipSampler(7, 4, processes, rank, 1, 3), 9) for rank in range(processes)]
    assert [[request for part in step for request in part] for step in zip(*parts, strict=True)] == alone


def test_a_batch_larger_than_the_data() -> None:
    (batch,) = take(ClipSampler(3, 8), 1)
    assert sorted(request.video for request in batch[:3]) == sorted(request.video for request in batch[3:6])


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="batch_size=6 does not divide over 4 processes"):
        ClipSampler(10, 6, processes=4)


def assert_loads(loader: DataLoader[torch.Tensor], clips: VideoClips, sampler: ClipSampler) -> None:
    compared = 0
    for _, batch, requests in zip(range(6), loader, sampler, strict=False):
        assert torch.equal(batch, torch.stack([clips[request] for request in requests]))
        compared += 1
    assert compared == 6


def test_loader_in_this_process(clips: VideoClips) -> None:
    sampler = ClipSampler(len(clips), 2, seed=5)
    assert_loads(DataLoader(clips, batch_sampler=sampler), clips, sampler)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_with_spawned_workers(clips: VideoClips) -> None:
    sampler = ClipSampler(len(clips), 2, seed=5)
    loader = DataLoader(clips, batch_sampler=sampler, num_workers=2, multiprocessing_context="spawn", timeout=60)
    assert_loads(loader, clips, sampler)


def test_pickles(clips: VideoClips) -> None:
    clips[ClipRequest(0, (0, 0))]
    copy = pickle.loads(pickle.dumps(clips))
    assert torch.equal(copy[ClipRequest(0, (0, 0))], clips[ClipRequest(0, (0, 0))])


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
