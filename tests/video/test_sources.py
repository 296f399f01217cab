"""Videos behind the contract: tables that all processes share, and files that are decoded on demand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rinvid.data.clips import VideoClips
from rinvid.data.decode import read_clip
from rinvid.data.readers import VideoError
from rinvid.data.sampler import Request
from rinvid.data.sources import VideoFiles, VideoTable
from tests.video.make import numbered, numbers, write_video

LENGTHS = (12, 20, 9)
STARTS = (0, 50, 100)  # the number that each video's first frame shows


def write_table(file: Path, frames: list[int], step: float = 1.0, name: str = "sub/{}.mp4") -> VideoTable:
    table = pa.table(
        {
            "path": [name.format(number) for number in range(len(frames))],
            "frames": pa.array(frames, pa.int32()),
            "step": pa.array([step] * len(frames), pa.float64()),
            "label": pa.array([number % 2 for number in range(len(frames))], pa.int32()),
        }
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return VideoTable(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for number, frames in enumerate(LENGTHS):
        write_video(folder / f"sub/{number}.mp4", numbered(frames, 32, STARTS[number]), options={"crf": "8"})
    return folder


def files(root: Path, tmp_path: Path, step: float = 1.0, **options: Any) -> VideoFiles:
    return VideoFiles(root, write_table(tmp_path / "t.arrow", list(LENGTHS), step), 32, ("a", "b"), **options)


# -- tables


def test_a_table_reads_its_rows(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.arrow", [5, 6, 7], 2.5)
    assert len(table) == 3
    assert [table.path(row) for row in range(3)] == ["sub/0.mp4", "sub/1.mp4", "sub/2.mp4"]
    assert (table.column("frames").tolist(), table.column("frames").dtype) == ([5, 6, 7], np.int32)
    assert (table.column("step").tolist(), table.column("label").tolist()) == ([2.5] * 3, [0, 1, 0])


def test_columns_are_not_copied(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.arrow", list(range(10_000)))
    before = pa.total_allocated_bytes()
    first, second = table.column("frames"), VideoTable(tmp_path / "t.arrow").column("step")
    assert first.ctypes.data == table.column("frames").ctypes.data
    assert not first.flags.writeable
    assert not second.flags.writeable
    assert pa.total_allocated_bytes() - before < 1000


def test_pickles_carry_no_rows(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.arrow", list(range(10_000)), name="a folder with a long name/{:012d}.mp4")
    source = VideoFiles(tmp_path, table, 64, ("a", "b"), "pyav", 3, None, "stretch")
    clips = VideoClips(VideoFiles(tmp_path, write_table(tmp_path / "u.arrow", [50] * 10_000), 64), 4, replace=True)
    for whole in (table, source, clips):
        assert len(pickle.dumps(whole)) < 2000
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.frames == source.frames).all()
    assert [copy.name(video) for video in (0, 9_999)] == [source.name(video) for video in (0, 9_999)]
    assert [copy.label(video) for video in range(9)] == [source.label(video) for video in range(9)]
    facts = "root", "size", "classes", "backend", "stride", "fps", "resize"
    assert [getattr(copy, name) for name in facts] == [tmp_path, 64, ("a", "b"), "pyav", 3, None, "stretch"]


# -- files


def test_what_is_known_without_reading(root: Path, tmp_path: Path) -> None:
    source = files(Path("/nowhere"), tmp_path, 1.5)
    assert (len(source), source.frames.tolist(), source.steps.tolist()) == (3, list(LENGTHS), [1.5] * 3)
    assert source.name(1) == "/nowhere/sub/1.mp4"
    assert [source.label(video) for video in range(3)] == [0, 1, 0]
    assert (source.classes, source.size) == (("a", "b"), 32)


def test_frames_are_those_asked_for(root: Path, tmp_path: Path) -> None:
    assert numbers(files(root, tmp_path).read(1, 3, 5)) == [53, 54, 55, 56, 57]
    assert numbers(files(root, tmp_path, 3, stride=3).read(1, 2, 6)) == [52, 55, 58, 61, 64, 67]
    assert numbers(files(root, tmp_path, 1.6, fps=10).read(0, 1, 5)) == [1, 3, 4, 6, 7]


@pytest.mark.parametrize("options", [{"backend": "pyav"}, {"stride": 2, "resize": "stretch"}, {"fps": 8.0}])
def test_reads_as_read_clip_does(root: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    found = files(root, tmp_path, **options).read(2, 1, 3, 0.25)
    expected = read_clip(root / "sub/2.mp4", 1, 3, size=32, crop_at=0.25, **options)
    np.testing.assert_array_equal(found, expected)


def test_a_file_that_has_changed(root: Path, tmp_path: Path) -> None:
    source = VideoFiles(root, write_table(tmp_path / "t.arrow", [12, 90, 9, 10]), 32)
    with pytest.raises(VideoError, match=r"sub/1.mp4: has 20 frames, too few"):
        source.read(1, 80, 4)
    with pytest.raises(FileNotFoundError, match=r"sub/3.mp4: no such video file"):
        source.read(3, 0, 4)


# -- clips of files


def test_clips_of_files_are_windows_of_one_video(root: Path, tmp_path: Path) -> None:
    clips = VideoClips(files(root, tmp_path, 2, stride=2), 4)
    starts = set()
    for seed in range(40):
        batch = clips[Request(2, (0, seed))]
        first, *_ = seen = numbers(batch.samples[0].numpy())
        assert seen == [first, first + 2, first + 4, first + 6]
        starts.add(first)
    assert starts == {100, 101, 102}


def test_windows_by_frame_rate_tile_a_video(root: Path, tmp_path: Path) -> None:
    clips = VideoClips(files(root, tmp_path, 1.6, fps=10), 3, "all")
    shown = [numbers(clips[item].samples[0].numpy()) for item in range(len(clips))]
    assert shown == [
        *([0, 2, 3], [4, 6, 7], [8, 10, 11]),
        *([50, 52, 53], [54, 56, 57], [58, 60, 61], [62, 64, 65], [66, 68, 69]),
        *([100, 102, 103], [104, 106, 107]),
    ]


def test_a_random_crop_stays_where_it_is(tmp_path: Path) -> None:
    picture = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (1, 16, 64, 3))
    write_video(tmp_path / "sub/0.mp4", picture.repeat(8, 0), options={"qp": "0"})
    source = VideoFiles(tmp_path, write_table(tmp_path / "t.arrow", [8]), 16)
    lefts = []
    for seed in range(40):
        clip = VideoClips(source, 4, crop="random")[Request(0, (0, seed))].samples[0].int()
        assert (clip == clip[:1]).all()
        assert 55 < clip[0, 8, -1, 0] - clip[0, 8, 0, 0] < 70  # a quarter of the picture
        lefts.append(int(clip[0, 8, 0, 0]))
    assert min(lefts) < 20
    assert max(lefts) > 170
    assert len(set(lefts)) > 20
    centre = VideoClips(source, 4)[0].samples[0]
    assert 90 < centre[0, 8, 0, 0] < 102


def test_a_file_that_breaks_off_is_replaced(root: Path, tmp_path: Path) -> None:
    frames = numbered(20, 32, 50)
    broken = write_video(tmp_path / "sub/1.mp4", frames, container_options={"movflags": "+faststart"})
    broken.write_bytes(broken.read_bytes()[:-200])
    for number in (0, 2):
        (tmp_path / f"sub/{number}.mp4").write_bytes((root / f"sub/{number}.mp4").read_bytes())
    source = files(tmp_path, tmp_path)
    requests = [Request(item, (0, 0)) for item in (0, 1, 2)]
    batch = VideoClips(source, 9, "centre", replace=True).__getitems__(requests)
    shown = [numbers(clip.numpy())[0] // 50 for clip in batch.samples]
    assert shown[0] == 0
    assert shown[1] in (0, 2)
    assert shown[2] == 2
    assert {failure.name for failure in batch.broken} == {str(broken)}
    with pytest.raises(VideoError, match=f"^{broken}: (broken|has 12 frames)"):
        VideoClips(source, 9, "centre").__getitems__(requests)
