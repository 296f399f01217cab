"""From a folder to the videos of a run: scanned once, cached where it is small, and the same clips either way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rinvid.data.cache import CachedVideos, CacheSettings, is_cache
from rinvid.data.clips import VideoClips
from rinvid.data.prepare import prepare
from rinvid.data.readers import VideoError
from rinvid.data.sampler import Request
from rinvid.data.scan import scan
from rinvid.data.sources import VideoFiles
from rinvid.data.videos import Videos, open_videos
from tests.video.make import numbered, numbers, write_video

# Every folder of videos is a copy of this one: names of files, and how many frames they have.
FILES = {
    "train/9/a.mp4": 12,
    "train/10/b.mp4": 20,
    "train/10/c.mp4": 15,
    "train/9/short.mp4": 5,
    "val/9/d.mp4": 14,
    "val/10/e.mp4": 16,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    for number, (name, frames) in enumerate(FILES.items()):
        picture = numbered(frames, 32, 25 * number)
        write_video(folder / name, np.concatenate([picture, picture[:, :, :16]], axis=2), options={"crf": "8"})
    (folder / "val" / "9" / "broken.mp4").write_text("text")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rinvid.data.videos.cores", lambda: 0)  # decode in this process
    monkeypatch.setattr("rinvid.data.scan.cores", lambda: 1)
    return tmp_path / "home"


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "videos")


def open_all(root: Path, num_frames: int = 6, size: int = 16, **options: Any) -> Videos:
    return open_videos(root, num_frames, size, show_progress=False, **options)


def forbid_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_: object) -> None:
        raise AssertionError("a file is probed")

    monkeypatch.setattr("rinvid.data.probe.Prober.__call__", probe)


def names(videos: Videos, part: str) -> list[str]:
    """Paths of a part's videos below the root, wherever they are read from."""
    source: Any = videos.parts[part]
    return [source.table.path(video) for video in range(len(source))]


def assert_same_clips(first: Videos, second: Videos, num_frames: int = 6) -> None:
    for part in ("train", "val"):
        assert names(first, part) == names(second, part)
        one, other = (VideoClips(videos.parts[part], num_frames, flip=True) for videos in (first, second))
        requests = [Request(item, (0, seed)) for item in range(len(one)) for seed in range(6)]
        found, expected = one.__getitems__(requests), other.__getitems__(requests)
        np.testing.assert_array_equal(found.samples.numpy(), expected.samples.numpy())
        assert found.labels.tolist() == expected.labels.tolist()
    assert (first.fingerprint, first.classes) == (second.fingerprint, second.classes)
    assert sorted(first.left_out) == sorted(second.left_out)


def test_videos_of_a_folder(root: Path) -> None:
    videos = open_all(root, size=32)
    assert all(isinstance(part, VideoFiles) for part in videos.parts.values())
    assert (videos.root, videos.read_as, videos.classes) == (root, "video files", ("9", "10"))
    assert names(videos, "train") == ["train/10/b.mp4", "train/10/c.mp4", "train/9/a.mp4"]
    assert names(videos, "val") == ["val/10/e.mp4", "val/9/d.mp4"]
    assert [videos.parts["train"].label(video) for video in range(3)] == [1, 1, 0]
    reasons = dict(videos.left_out)
    assert reasons.keys() == {"train/9/short.mp4", "val/9/broken.mp4"}
    assert reasons["train/9/short.mp4"] == "has 5 frames, a clip needs 6"
    assert numbers(open_all(root, size=32, resize="stretch").parts["train"].read(0, 0, 3))
    assert [path.name for path in root.iterdir()] == ["train", "val"]  # nothing is written there


def test_a_folder_is_scanned_once(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_all(root)
    assert len(list((home / "index").glob("*.parquet"))) == 1
    forbid_probing(monkeypatch)
    assert_same_clips(open_all(root), first)
    assert open_all(root, 5, stride=2).left_out  # other clips of the same files
    write_video(root / "train/9/new.mp4", numbered(12, 32))
    with pytest.raises(AssertionError, match="a file is probed"):
        open_all(root)


def test_an_index_that_was_made_before(root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "index.parquet"
    scan(root, out, workers=1, show_progress=False)
    forbid_probing(monkeypatch)
    videos = open_all(root, index=out)
    assert names(videos, "train") == ["train/10/b.mp4", "train/10/c.mp4", "train/9/a.mp4"]
    assert not (home / "index").exists()
    moved = root.rename(tmp_path / "moved")
    assert_same_clips(open_all(moved, index=out), open_all(moved, index=out, cache_mb=1))
    other = tmp_path / "other"
    write_video(other / "x.mp4", numbered(12, 32))
    with pytest.raises(ValueError, match=r"index.parquet: is the index of another folder"):
        open_all(other, index=out)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"fps": 12.0}, {"resize": "stretch"}])
def test_a_small_folder_is_cached(root: Path, home: Path, options: dict[str, Any]) -> None:
    files, cached = open_all(root, **options), open_all(root, cache_mb=1, **options)
    assert all(isinstance(part, CachedVideos) for part in cached.parts.values())
    (folder,) = (home / "clips").iterdir()
    assert cached.read_as == f"clip cache {folder}"
    assert cached.root == root
    assert_same_clips(files, cached)


def test_the_cache_is_made_once(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_all(root, cache_mb=1)
    forbid_probing(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("rinvid.data.prepare.read_clip", None)
        assert_same_clips(open_all(root, cache_mb=1), first)
    others = [open_all(root, cache_mb=1, **other).read_as for other in ({"size": 8}, {"resize": "stretch"})]
    assert len({first.read_as, *others}) == len(list((home / "clips").iterdir())) == 3


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_larger_folder_is_read_from_its_files(root: Path, home: Path, cache_mb: int) -> None:
    # 82 frames of 96 x 96 pixels are 2.2 MiB.
    videos = open_all(root, size=96, cache_mb=cache_mb)
    assert videos.read_as == "video files"
    assert not (home / "clips").exists()
    assert open_all(root, size=96, cache_mb=3).read_as.startswith("clip cache")


def test_a_changed_folder_is_cached_anew(root: Path) -> None:
    first = open_all(root, cache_mb=1)
    write_video(root / "train/9/new.mp4", numbered(12, 32))
    again = open_all(root, cache_mb=1)
    assert names(again, "train") == [*names(first, "train"), "train/9/new.mp4"]
    assert again.fingerprint != first.fingerprint


def test_a_prepared_cache_is_a_root(root: Path, tmp_path: Path) -> None:
    files = open_all(root)
    cache = tmp_path / "cache"
    index = scan(root, workers=1, show_progress=False)
    assert prepare(index, cache, CacheSettings(16), workers=0, show_progress=False)
    shutil.rmtree(root)
    videos = open_all(cache)
    assert (videos.root, videos.read_as) == (cache, f"clip cache {cache}")
    assert dict(videos.left_out)["train/9/short.mp4"] == "has 5 frames, a clip needs 6"
    for part in ("train", "val"):
        assert names(videos, part) == names(files, part)
    assert videos.classes == files.classes
    with pytest.raises(ValueError, match=f"{cache}: is a clip cache with size=16, this run wants size=32"):
        open_all(cache, size=32)
    with pytest.raises(ValueError, match="is a clip cache with resize=crop, this run wants resize=stretch"):
        open_all(cache, resize="stretch")
    with pytest.raises(VideoError, match="none of 6 videos can be used"):
        open_all(cache, 90)


def test_an_unfinished_cache_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rinvid.data.prepare.read_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_all(root, cache_mb=1)
    cached = open_all(root, cache_mb=1)
    assert is_cache(Path(cached.read_as.removeprefix("clip cache ")))
    assert_same_clips(cached, open_all(root))


def test_folders_without_videos(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_all(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: holds no videos"):
        open_all(tmp_path / "empty")
