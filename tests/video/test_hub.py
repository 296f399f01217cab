"""Video data sets of ``datasets`` become plain folders: linked where they are files, written where they are bytes."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from rinvid.data.hub import dataset_folder
from rinvid.data.videos import open_videos
from tests.video.make import numbered, write_video


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_class_folders_are_linked(tmp_path: Path) -> None:
    for name in ("train/a/one.mp4", "train/b/two.mp4", "test/a/three.mp4"):
        write_video(tmp_path / "data" / name, numbered(20))
    root = dataset_folder(str(tmp_path / "data"), show_progress=False)
    assert files_of(root) == ["test/a/0000000-three.mp4", "train/a/0000000-one.mp4", "train/b/0000001-two.mp4"]
    assert (root / "train/a/0000000-one.mp4").resolve() == tmp_path / "data/train/a/one.mp4"
    videos = open_videos(root, 16, 16, show_progress=False)
    assert {name: len(part) for name, part in videos.parts.items()} == {"train": 2, "val": 1}
    assert videos.classes == ("a", "b")
    assert dataset_folder(str(tmp_path / "data"), show_progress=False) == root


def test_videos_in_parquet_are_written(tmp_path: Path) -> None:
    content = write_video(tmp_path / "one.mp4", numbered(20)).read_bytes()
    features = {"clip": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["a/../..", "..b"])}
    rows = [{"clip": {"path": "../../x.mp4", "bytes": content}, "label": label} for label in (0, 1)]
    (tmp_path / "data").mkdir()
    data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    data.to_parquet(tmp_path / "data" / "train.parquet")
    root = dataset_folder(str(tmp_path / "data"), show_progress=False)
    # Names from a data set never lead out of its folder.
    assert files_of(root) == ["train/a .. ../0000000-x.mp4", "train/b/0000001-x.mp4"]
    assert (root / "train/b/0000001-x.mp4").read_bytes() == content


def test_a_data_set_without_videos(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"text": ["x"]}).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="videos: no column is of that kind; choose one with video_column"):
        dataset_folder(str(tmp_path / "data"), show_progress=False)
    with pytest.raises(ValueError, match="no column 'clip'; the columns are text"):
        dataset_folder(str(tmp_path / "data"), video_column="clip", show_progress=False)


def test_a_video_without_a_name_leaves_nothing_behind(tmp_path: Path) -> None:
    features = datasets.Features({"clip": datasets.Video(decode=False)})
    (tmp_path / "data").mkdir()
    data = datasets.Dataset.from_list([{"clip": {"path": None, "bytes": b"x"}}], features=features)
    data.to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="row 0 of train: None is not named like a video"):
        dataset_folder(str(tmp_path / "data"), show_progress=False)
    assert not any((tmp_path / "home" / "datasets").iterdir())
