"""The clip cache: the same frames as from the files, made whole or not at all, by one or by many."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from rinvid.cli import main
from rinvid.data import prepare as module
from rinvid.data import read_clip
from rinvid.data.cache import CacheSettings, open_cache, select_cached
from rinvid.data.clips import VideoClips
from rinvid.data.index import VideoIndex
from rinvid.data.loader import Loader
from rinvid.data.prepare import prepare
from rinvid.data.readers import VideoError
from rinvid.data.sampler import ResumableSampler
from rinvid.data.scan import scan
from rinvid.data.stream import stream_clips
from rinvid.data.videos import open_videos
from tests.video.make import numbered, write_video

SIZE = 16


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An Arrow file for every two videos."""
    monkeypatch.setattr(module, "FILE_BYTES", (SIZE * SIZE * 3 * 25, SIZE * SIZE * 3 * 25))
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))


@pytest.fixture
def index(tmp_path: Path) -> VideoIndex:
    for number in range(6):
        name = f"{'val' if number == 5 else 'train'}/{'ab'[number % 2]}/{number}.mp4"
        write_video(tmp_path / "videos" / name, numbered(20 + number, 32, 40 * number), options={"crf": "8"})
    return scan(tmp_path / "videos", tmp_path / "index.parquet", show_progress=False)


def make(index: VideoIndex, out: Path, settings: CacheSettings | None = None, **options: Any) -> bool:
    return prepare(index, out, settings or CacheSettings(SIZE), show_progress=False, **{"workers": 0, **options})


@pytest.mark.parametrize("settings", [CacheSettings(SIZE), CacheSettings(SIZE, "stretch", max_frames=20)])
def test_frames_are_those_of_the_files(index: VideoIndex, tmp_path: Path, settings: CacheSettings) -> None:
    assert make(index, tmp_path / "cache", settings)
    cache = open_cache(tmp_path / "cache")
    selection, parts = select_cached(cache, 4, stride=2)
    assert ({name: len(part) for name, part in parts.items()}, selection.classes) == (
        {"train": 5, "val": 1},
        ("a", "b"),
    )
    train = parts["train"]
    assert train.frames.tolist() == [min(20 + n, settings.max_frames or 99) for n in (0, 2, 4, 1, 3)]
    for video, number in enumerate((0, 2, 4, 1, 3)):
        path = tmp_path / "videos" / "train" / "ab"[number % 2] / f"{number}.mp4"
        expected = read_clip(path, 3, 4, 2, SIZE, resize=settings.resize)
        assert np.array_equal(train.read(video, 3, 4), expected)
        assert train.label(video) == number % 2
    assert cache.manifest["videos"] == {"train": 5, "val": 1}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["data", "index.parquet", "manifest.json"]
    assert {path.suffix for path in (tmp_path / "cache" / "data").iterdir()} == {".arrow"}


def test_a_rate_is_kept(index: VideoIndex, tmp_path: Path) -> None:
    make(index, tmp_path / "cache", CacheSettings(SIZE, fps=8))
    _, parts = select_cached(open_cache(tmp_path / "cache"), 4, fps=4)
    expected = read_clip(tmp_path / "videos/train/a/0.mp4", 0, 4, 4, SIZE)
    assert np.array_equal(parts["train"].read(0, 0, 4), expected)


def test_datasets_reads_and_streams_it(index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    make(index, tmp_path / "cache")
    files = str(tmp_path / "cache" / "data" / "train-*.arrow")
    for streaming in (False, True):
        rows = datasets.load_dataset("arrow", data_files=files, split="train", streaming=streaming)
        assert rows.features["label"].names == ["a", "b"]
        found = list(rows)
        assert [row["path"] for row in found] == [f"train/{'ab'[n % 2]}/{n}.mp4" for n in (0, 2, 4, 1, 3)]
        frames = np.frombuffer(found[0]["frames"], np.uint8).reshape(found[0]["num_frames"], SIZE, SIZE, 3)
        assert np.array_equal(frames, read_clip(tmp_path / "videos/train/a/0.mp4", 0, None, size=SIZE))


def test_clips_out_of_a_stream(index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    make(index, tmp_path / "cache")
    files = str(tmp_path / "cache" / "data" / "train-*.arrow")
    rows = datasets.load_dataset("arrow", data_files=files, split="train", streaming=True)
    expected = {
        read_clip(tmp_path / f"videos/train/{'ab'[n % 2]}/{n}.mp4", start, 12, 2, SIZE).tobytes(): n % 2
        for n in (3, 4)  # the others are too short for 12 frames at a distance of 2
        for start in range(20 + n - 22)
    }
    batches = stream_clips(rows, 12, 1, stride=2, buffer=3)
    first = [next(batches) for _ in range(12)]
    assert {batch.samples[0].numpy().tobytes(): int(batch.labels) for batch in first}.items() <= expected.items()
    assert {line.reason for batch in first for line in batch.broken} == {
        f"train/{'ab'[n % 2]}/{n}.mp4: has {20 + n} frames, a clip needs 23" for n in range(3)
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shares_come_together(index: VideoIndex, tmp_path: Path, order: tuple[int, int]) -> None:
    make(index, tmp_path / "one")
    first, last = order
    assert not make(index, tmp_path / "two", num_shards=2, shard_index=first)
    assert not (tmp_path / "two" / "manifest.json").exists()
    assert make(index, tmp_path / "two", num_shards=2, shard_index=last)
    one, two = (open_cache(tmp_path / name) for name in ("one", "two"))
    assert one.manifest == two.manifest
    assert one.index.table.equals(two.index.table)


def test_processes_make_the_same(index: VideoIndex, tmp_path: Path) -> None:
    make(index, tmp_path / "one")
    make(index, tmp_path / "two", workers=2)
    assert open_cache(tmp_path / "one").manifest == open_cache(tmp_path / "two").manifest


def test_what_is_finished_is_kept(index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = module._make

    def full_after_two(job: Any) -> int:
        if len(made) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(job.name)
        return real(job)

    monkeypatch.setattr(module, "_make", full_after_two)
    out = tmp_path / "cache"
    with pytest.raises(OSError, match="the disk is full; 2 of 4 files are finished, and a rerun goes on"):
        make(index, out)
    assert not (out / "manifest.json").exists()
    monkeypatch.setattr(module, "_make", lambda job: made.append(job.name) or real(job))
    assert make(index, out)
    assert len(made) == len(set(made)) == 4


def test_a_full_disk_while_writing_leaves_no_half_file(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(frames: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_binary", full)
    with pytest.raises(OSError, match="the disk is full; 0 of 4"):
        make(index, tmp_path / "cache")
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_too_small_a_disk_is_seen_before(index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(OSError, match=r"needs 0\.0 GiB, the disk has 0\.0 GiB left"):
        make(index, tmp_path / "cache")


def test_another_cache_is_refused(index: VideoIndex, tmp_path: Path) -> None:
    make(index, tmp_path / "cache")
    with pytest.raises(ValueError, match="a clip cache of other videos or settings"):
        make(index, tmp_path / "cache", CacheSettings(8))
    with pytest.raises(ValueError, match="holds something that is not a clip cache"):
        make(index, tmp_path / "videos")
    with pytest.raises(ValueError, match="is a clip cache with size=16, this run wants size=8"):
        open_videos(tmp_path / "cache", 4, 8, show_progress=False)
    with pytest.raises(ValueError, match="resize=crop, this run wants resize=stretch"):
        open_videos(tmp_path / "cache", 4, SIZE, resize="stretch", show_progress=False)


def test_a_file_that_is_missing_or_cut_is_named(index: VideoIndex, tmp_path: Path) -> None:
    make(index, tmp_path / "cache")
    file = tmp_path / "cache" / "data" / "train-00001-of-00003.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.arrow is missing or not as it was made"):
        open_cache(tmp_path / "cache")


def test_videos_that_break_meanwhile_are_left_out_and_counted(index: VideoIndex, tmp_path: Path) -> None:
    (tmp_path / "videos/train/a/2.mp4").write_text("text")
    assert make(index, tmp_path / "cache")
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert [path for path, _ in manifest["left_out"]] == ["train/a/2.mp4"]
    videos = open_videos(tmp_path / "cache", 4, SIZE, show_progress=False)
    assert len(videos.parts["train"]) == 4
    assert [path for path, _ in videos.left_out] == ["train/a/2.mp4"]


def test_nothing_can_be_prepared(index: VideoIndex, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="none of its videos can be prepared"):
        make(index, tmp_path / "cache", CacheSettings(SIZE, fps=100))


def test_workers_read_it(index: VideoIndex, tmp_path: Path) -> None:
    make(index, tmp_path / "cache")
    _, parts = select_cached(open_cache(tmp_path / "cache"), 4)
    train = parts["train"]
    own = next(Loader(VideoClips(train, 4), ResumableSampler(5, 5)))
    assert len(pickle.dumps(train)) < 2_000
    loader = Loader(VideoClips(train, 4), ResumableSampler(5, 5), 1)
    assert np.array_equal(next(loader).samples, own.samples)
    loader.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "0"], "size >= 1"),
        (["--num-shards", "2", "--shard-index", "2"], "shard_index from 0"),
        (["--max-frames", "0"], "max_frames >= 1"),
        (["--index", "no.parquet"], "no such index"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, index: VideoIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", "prepare", str(tmp_path / "videos"), "--out", str(tmp_path / "cache"), *arguments])
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "cache").exists()


def test_the_command(index: VideoIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "prepare", str(tmp_path / "videos"), "--out", str(tmp_path / "cache"), "--size", str(SIZE)]
    main([*command, "--workers", "1", "--num-shards", "2"])
    assert "share 0 of 2 is done" in capsys.readouterr().out
    main([*command, "--workers", "1", "--num-shards", "2", "--shard-index", "1"])
    assert "5 train, 1 val videos, 135 frames" in capsys.readouterr().out
