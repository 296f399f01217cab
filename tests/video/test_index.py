"""Which videos a folder holds: splits, what is left out and why, and what is remembered between calls."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from rinvid.data.decode import VideoError
from rinvid.data.index import HOLD_OUT, VideoIndex, index_videos
from tests.video.make import numbered, write_video


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of videos, still empty."""
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def add(root: Path, *names: str, frames: int = 12) -> None:
    for name in names:
        write_video(root / name, numbered(frames, 16), options={"preset": "ultrafast"})


def index(root: Path, min_frames: int = 8) -> VideoIndex:
    return index_videos(root, min_frames, show_progress=False)


def paths(found: VideoIndex, split: str) -> list[str]:
    return [video.path for video in found.usable[split]]


# -- splits


def test_train_and_val_folders(root: Path) -> None:
    add(root, "train/b/2.mp4", "train/a/1.MP4", "train/3.mkv", "val/a/1.mp4")
    add(root, "train/long.mp4", frames=20)
    (root / "train" / "notes.txt").write_text("not a video, and not meant to be one")
    found = index(root)
    assert paths(found, "train") == ["train/3.mkv", "train/a/1.MP4", "train/b/2.mp4", "train/long.mp4"]
    assert paths(found, "val") == ["val/a/1.mp4"]
    assert [video.frames for video in found.usable["train"]] == [12, 12, 12, 20]
    assert found.left_out == []
    assert found.root == root


def test_flat_folder_holds_out_some(root: Path, tmp_path: Path) -> None:
    names = [f"{number:02d}.mp4" for number in range(2 * HOLD_OUT + 3)]
    add(root, names[0])
    for name in names[1:]:
        shutil.copy(root / names[0], root / name)
    found = index(root)
    train, val = paths(found, "train"), paths(found, "val")
    assert len(val) == 2
    assert sorted(train + val) == names
    assert train == sorted(train)
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert paths(index(moved), "val") == val


def test_a_few_videos_hold_out_one(root: Path) -> None:
    add(root, "a.mp4", "sub/b.mp4", "c.mp4")
    found = index(root)
    assert (len(paths(found, "train")), len(paths(found, "val"))) == (2, 1)


def test_a_single_video_is_both(root: Path) -> None:
    add(root, "only.mp4")
    found = index(root)
    assert paths(found, "train") == paths(found, "val") == ["only.mp4"]


# -- what cannot be used


def test_short_and_broken_videos_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root, "good.mp4", "other.mp4")
    add(root, "short.mp4", frames=7)
    (root / "broken.mp4").write_bytes((root / "good.mp4").read_bytes()[:300])
    (root / "empty.avi").touch()
    with caplog.at_level(logging.WARNING):
        found = index(root)
    reasons = {video.path: video.reason for video in found.left_out}
    assert reasons.keys() == {"short.mp4", "broken.mp4", "empty.avi"}
    assert reasons["short.mp4"] == "has 7 frames, a clip needs 8"
    assert "not a readable video" in reasons["broken.mp4"]
    assert not reasons["broken.mp4"].startswith(str(root))
    for path, reason in reasons.items():
        assert f"left out {root / path}: {reason}" in [record.getMessage() for record in caplog.records]
    assert sorted(paths(found, "train") + paths(found, "val")) == ["good.mp4", "other.mp4"]
    assert [video.path for video in index(root, min_frames=7).left_out] == ["broken.mp4", "empty.avi"]


def test_missing_and_empty_folders(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        index(root / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"videos: holds no videos \(\.avi.*\.webm\)"):
        index(root)
    (root / "file.mp4").touch()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        index(root / "file.mp4")


def test_none_can_be_used(root: Path) -> None:
    add(root, "a.mp4", "b.mp4")
    (root / "c.mp4").write_text("text")
    with pytest.raises(VideoError, match=r"none of 3 videos can be used \(a\.mp4: has 12 frames, a clip needs 13") as e:
        index(root, min_frames=13)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_videos(root: Path, split: str) -> None:
    add(root, "train/a.mp4", "val/a.mp4")
    (root / split / "a.mp4").write_text("text")
    with pytest.raises(VideoError, match=f"{split}: holds no video that can be used"):
        index(root)


# -- what is remembered


def spoil(path: Path) -> None:
    """Overwrite a file with nonsense of the same size and time, so that only reading it tells."""
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_an_unchanged_file_is_not_opened_again(root: Path) -> None:
    add(root, "a.mp4", "b.mp4")
    first = index(root)
    spoil(root / "a.mp4")
    assert index(root) == first
    assert index(root, min_frames=3) == first  # what a clip needs is no part of what is remembered
    os.utime(root / "a.mp4")
    assert [video.path for video in index(root).left_out] == ["a.mp4"]


def test_a_changed_file_is_opened_again(root: Path) -> None:
    add(root, "a.mp4", "b.mp4")
    index(root)
    add(root, "a.mp4", frames=30)
    found = index(root)
    assert {video.path: video.frames for video in [*found.usable["train"], *found.usable["val"]]} == {
        "a.mp4": 30,
        "b.mp4": 12,
    }


def test_new_and_removed_files_are_noticed(root: Path) -> None:
    add(root, "a.mp4", "b.mp4")
    index(root)
    add(root, "c.mp4")
    (root / "a.mp4").unlink()
    found = index(root)
    assert sorted(paths(found, "train") + paths(found, "val")) == ["b.mp4", "c.mp4"]


def test_memory_is_in_the_cache_and_nothing_in_the_folder(root: Path, cache: Path) -> None:
    add(root, "a.mp4")
    index(root)
    assert [path.name for path in root.iterdir()] == ["a.mp4"]
    (memory,) = (cache / "index").iterdir()
    assert memory.suffix == ".json"


def test_a_broken_file_is_remembered_until_it_changes(root: Path) -> None:
    add(root, "a.mp4", "b.mp4")
    whole = (root / "a.mp4").read_bytes()
    (root / "a.mp4").write_bytes(b"x" * len(whole))
    stat = (root / "a.mp4").stat()
    assert len(index(root).left_out) == 1
    (root / "a.mp4").write_bytes(whole)
    os.utime(root / "a.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(index(root).left_out) == 1
    os.utime(root / "a.mp4")
    assert index(root).left_out == []


# -- fingerprint


def test_fingerprint_is_of_the_content(root: Path, tmp_path: Path) -> None:
    add(root, "a.mp4", "b.mp4", "c.mp4")
    first = index(root).fingerprint
    assert index(shutil.copytree(root, tmp_path / "elsewhere")).fingerprint == first
    (root / "broken.mp4").write_text("text")
    assert index(root).fingerprint == first
    add(root, "d.mp4")
    more = index(root).fingerprint
    (root / "d.mp4").rename(root / "e.mp4")
    renamed = index(root).fingerprint
    add(root, "e.mp4", frames=13)
    changed = index(root).fingerprint
    assert len({first, more, renamed, changed}) == 4
