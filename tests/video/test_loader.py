"""Batches from workers: the same as without, and when a worker hangs, dies or finds too much broken, it is said."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from rinvid.data.clips import Batch, VideoClips
from rinvid.data.loader import Loader, LoaderError, StartMethod, held_out
from rinvid.data.readers import Frames, VideoError
from rinvid.data.sampler import Request, ResumableSampler
from rinvid.data.sources import VideoFiles
from tests.video.test_clips import VIDEO, Pictures
from tests.video.test_sources import write_table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
STARTS: tuple[StartMethod, ...] = ("fork", "spawn")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks after its workers, and waits for those that are to end, in steps of 5 seconds."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


def requests(items: Sequence[int], batch: int = 1) -> list[list[Request]]:
    single = [Request(item, (0, place)) for place, item in enumerate(items)]
    return [single[first : first + batch] for first in range(0, len(single), batch)]


def take(loader: Loader, count: int | None = None) -> list[Batch]:
    try:
        return [batch._replace(samples=batch.samples.clone()) for batch in itertools.islice(loader, count)]
    finally:
        loader.close()


def assert_equal(first: Sequence[Batch], second: Sequence[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.samples, other.samples)
        assert torch.equal(one.labels, other.labels)
        assert one.broken == other.broken


class Uneven(Pictures):
    """The first worker is slow, so that the second is always ahead of it."""

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        info = get_worker_info()
        if info is not None and info.id == 0:
            time.sleep(0.02)
        return super().read(video, start, num_frames, crop_at)


class Stuck(Pictures):
    """Reading video 3 takes for ever."""

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        if video == 3:
            time.sleep(1000)
        return super().read(video, start, num_frames, crop_at)


class Deadly(Pictures):
    """Reading video 3 ends the process."""

    def __init__(self, killed: bool) -> None:
        super().__init__()
        self.killed = killed

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        if video == 3:
            time.sleep(0.3)  # by then the loader waits for this batch
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(3)
        return super().read(video, start, num_frames, crop_at)


# -- the same batches


@pytest.mark.parametrize("start_method", STARTS)
def test_workers_give_the_same_batches_in_the_same_order(start_method: StartMethod) -> None:
    clips = VideoClips(Uneven([20] * 9, broken={4}), 4, flip=True, crop="random", replace=True)
    make = partial(Loader, clips, ResumableSampler(9, 5, seed=1, start=3))
    alone, beside = take(make(), 30), take(make(workers=2, start_method=start_method), 30)
    assert_equal(alone, beside)
    assert any(batch.broken for batch in alone)
    assert all(len(batch.samples) == 5 for batch in alone)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_left_alone_until_the_next_is_asked_for(workers: int) -> None:
    loader = Loader(VideoClips(Pictures([20] * 50), 4), ResumableSampler(50, 4), workers, "fork")
    for batch in itertools.islice(loader, 20):
        before = batch.samples.clone()
        time.sleep(0.02 if workers else 0)  # the workers read ahead as far as they may
        assert torch.equal(batch.samples, before)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_end_and_may_become_shorter(workers: int) -> None:
    clips = VideoClips(Pictures(), 4)
    asked = requests([0, 1, 2, 3, 0, 1, 2], 3)
    found = take(Loader(clips, asked, workers, "fork"))
    assert_equal(found, [clips.__getitems__(part) for part in asked])
    assert [len(batch.samples) for batch in found] == [3, 3, 1]


def test_going_on_from_where_another_loader_stopped() -> None:
    clips = VideoClips(Pictures([20] * 9), 4)
    whole = take(Loader(clips, ResumableSampler(9, 4)), 12)
    assert_equal(take(Loader(clips, ResumableSampler(9, 4, start=20), 2, "fork"), 7), whole[5:])


# -- workers that hang or die


def test_a_stuck_worker_is_named() -> None:
    # The second worker gets the second batch.
    loader = Loader(VideoClips(Stuck(), 4), requests([0, 3, 1, 2]), 2, "fork", timeout=1)
    assert len(next(loader).samples) == 1
    began = time.monotonic()
    with pytest.raises(LoaderError, match=r"^no data for 1 s: worker 1 has been reading folder/3.mp4 for \d s$"):
        next(loader)
    assert time.monotonic() - began < 8
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_worker_that_dies_is_named(killed: bool) -> None:
    loader = Loader(VideoClips(Deadly(killed), 4), requests([0, 3, 1, 2]), 2, "fork", timeout=60)
    began = time.monotonic()
    with pytest.raises(LoaderError, match=r"^a loader worker died: worker 1 has been reading folder/3.mp4 for \d s"):
        take(loader)
    assert time.monotonic() - began < 8
    assert multiprocessing.active_children() == []


def run_until(source: Pictures, start_method: StartMethod) -> None:
    """What the process below does: it ends with the error that the loader raises."""
    for _ in Loader(VideoClips(source, 4), requests([0, 1, 2, 3] * 3), 2, start_method, timeout=3):
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("run_until(Stuck(), 'fork')", "no data for 3 s: worker 1 has been reading folder/3.mp4 for"),
        ("run_until(Deadly(True), 'fork')", "a loader worker died: worker 1 has been reading folder/3.mp4 for"),
    ],
)
@pytest.mark.slow
def test_the_process_ends(call: str, message: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.video.test_loader import *; {call}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert time.monotonic() - began < 30


def test_an_error_in_a_worker_keeps_its_kind() -> None:
    clips = VideoClips(Pictures(broken={3}), 4)
    with pytest.raises(VideoError, match=r"folder/3\.mp4: is broken"):
        take(Loader(clips, requests([0, 3]), 1, "fork"))
    with pytest.raises(IndexError, match="item 7 of a data set of 4"):
        take(Loader(clips, requests([7]), 1, "fork"))


def test_closing_ends_the_workers() -> None:
    loader = Loader(VideoClips(Pictures(), 4), ResumableSampler(4, 2), 2, "fork")
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    assert multiprocessing.active_children() == []
    loader.close()


def test_interrupts_are_left_to_the_main_process() -> None:
    loader = Loader(VideoClips(Pictures(), 4), ResumableSampler(4, 2), 2, "fork", timeout=30)
    for _ in range(2):  # a batch of each worker, so that both have begun
        next(loader)
    workers = multiprocessing.active_children()
    for _ in range(3):
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)
        for _ in range(10):
            next(loader)
    assert all(worker.is_alive() for worker in workers)
    loader.close()


# -- how much is broken


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_counted_and_named_once(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    clips = VideoClips(Pictures([20] * 10, broken={2, 5}), 4, replace=True)
    loader = Loader(clips, requests([0, 2, 5, 2, 2, 1], 2), workers, "fork")
    with caplog.at_level(logging.WARNING, "rinvid"):
        batches = take(loader)
    assert loader.broken == {f"folder/{video}.mp4": "is broken: at once" for video in (2, 5)}
    assert loader.replaced == sum(len(batch.broken) for batch in batches) >= 4
    assert loader.drawn == 6
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"cannot read folder/{video}.mp4: is broken: at once" for video in (2, 5)
    ]


def test_too_many_broken_samples_stop_the_run() -> None:
    clips = VideoClips(Pictures([20] * 10, broken={2, 5}), 4, replace=True)
    loader = Loader(clips, ResumableSampler(10, 10), max_broken=0.1)
    with pytest.raises(
        VideoError, match=r"^\d+ of \d+ reads failed, more than max_broken=0.1 allows; the last: folder/[25].mp4: is"
    ):
        take(loader)
    assert loader.drawn == 200
    enough = Loader(clips, ResumableSampler(10, 10), max_broken=0.4)
    assert len(take(enough, 60)) == 60


def test_nothing_broken_is_needed_to_go_on() -> None:
    loader = Loader(VideoClips(Pictures([20] * 10), 4), ResumableSampler(10, 50), max_broken=0.0)
    assert len(take(loader, 20)) == 20
    assert (loader.drawn, loader.replaced, loader.broken) == (1000, 0, {})


# -- held out


@pytest.mark.parametrize("workers", [0, 2])
def test_held_out_clips_are_never_replaced(workers: int) -> None:
    clips = VideoClips(Pictures([20, 20, 20, 8, 20, 20, 20], broken={1, 2}), 4, "random", flip=True, replace=True)
    samples, labels, left_out = held_out(clips, 13, workers=workers, start_method="fork")
    assert (samples.shape, samples.dtype) == ((9, 4, 4, 4, 3), np.uint8)
    found = [(int(clip[0, 0, 0, VIDEO]), int(clip[0, 0, 0, 1])) for clip in samples]
    assert found == [*((video, 0) for video in (0, 3, 4, 5, 6)), *((video, 7) for video in (0, 4, 5, 6))]
    assert (samples[..., 2] == np.arange(4)).all()  # not mirrored
    assert labels.tolist() == [video % 3 for video, _ in found]
    assert left_out == [(f"folder/{video}.mp4", "is broken: at once") for video in (1, 2, 1, 2)]
    assert multiprocessing.active_children() == []


def test_few_held_out_clips_are_spread() -> None:
    samples, labels, left_out = held_out(VideoClips(Pictures([20] * 30), 4), 3)
    assert (samples[:, 0, 0, 0, VIDEO].tolist(), left_out) == ([0, 10, 20], [])
    assert labels.tolist() == [0, 1, 2]


def test_none_of_the_held_out_clips_can_be_read() -> None:
    with pytest.raises(VideoError, match=r"^none of 4 held-out clips can be read; the first: folder/0\.mp4: is broken"):
        held_out(VideoClips(Pictures(broken=range(4)), 4), 4)


def test_held_out_clips_may_be_mostly_broken() -> None:
    clips = VideoClips(Pictures([7] * 500, broken=range(240, 500)), 4)
    samples, _, left_out = held_out(clips, 500)
    assert (len(samples), len(left_out)) == (240, 260)
    with pytest.raises(ValueError, match="at least one held-out clip"):
        held_out(clips, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_one_line(workers: int) -> None:
    loader = Loader(VideoClips(Pictures([20] * 4, broken={1}), 4), requests([1, 1], 2), workers, "fork")
    with pytest.raises(VideoError) as caught:
        take(loader)
    assert str(caught.value) == "folder/1.mp4: is broken: at once"
    loader.close()


# -- memory


class Blank(VideoFiles):
    """Reads of the index all that real videos would be looked up by, and no video."""

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        assert 0 <= start <= self.frames[video] - num_frames
        return np.zeros((num_frames, self.size, self.size, 3), np.uint8)


def private_memory(folder: Path, rows: int, workers: int = 8) -> int:
    """Bytes that no process but the workers themselves has, after a pass over the whole index."""
    table = write_table(folder / f"{rows}.arrow", [300] * rows, name="class name {0}/abcdefghijk_{0:06d}_000010.mp4")
    clips = VideoClips(Blank(folder, table, 2), 4, flip=True, replace=True)
    loader: Any = Loader(clips, ResumableSampler(rows, 1000), workers)
    for _ in range(max(50, rows // 1000)):
        next(loader)
    memory = 0
    for worker in multiprocessing.active_children():
        lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        memory += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    loader.close()
    return memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_workers_share_one_index(tmp_path: Path) -> None:
    few, many = private_memory(tmp_path, 10), private_memory(tmp_path, 400_000)
    print(f"{few / 2**20:.0f} MiB with 10 rows, {many / 2**20:.0f} MiB with 400,000")
    assert many - few < 200e6
