"""What a run can use of an index: parts, classes, what is left out and why; and the index as a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rinvid.data.index import HOLD_OUT, SCHEMA, Selection, VideoIndex, natural_order, select
from rinvid.data.readers import VideoError

BLANK: dict[str, Any] = {
    **dict.fromkeys(("path", "class", "id", "split", "codec", "reason"), ""),
    **dict.fromkeys(("rotation", "modified"), 0),
    **{"start": None, "end": None, "frames": 20, "fps": 10.0, "width": 64, "height": 48, "status": "ok", "size": 100},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def row(path: str, **facts: Any) -> dict[str, Any]:
    return {**BLANK, "path": path, **facts}


def index(*rows: dict[str, Any], root: Path = Path("/videos"), facts: Mapping[str, Any] | None = None) -> VideoIndex:
    columns = {name: pa.array([row[name] for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    return VideoIndex(root, pa.table(columns), facts or {})


def paths(selection: Selection, part: str) -> list[str]:
    table = selection.parts[part]
    return [table.path(number) for number in range(len(table))]


# -- parts


@pytest.mark.parametrize(("splits", "held_out"), [(("train", "val"), "val"), (("train", "test"), "test")])
def test_the_splits_are_the_parts(splits: tuple[str, ...], held_out: str) -> None:
    rows = [row(f"{split}/{name}.mp4", split=split) for name in "ba" for split in splits]
    found = select(index(*rows), 8)
    assert paths(found, "train") == ["train/a.mp4", "train/b.mp4"]
    assert paths(found, "val") == [f"{held_out}/a.mp4", f"{held_out}/b.mp4"]


def test_val_comes_before_test(caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(f"{split or 'none'}.mp4", split=split) for split in ("test", "train", "val", "")]
    with caplog.at_level(logging.WARNING):
        found = select(index(*rows), 8)
    assert (paths(found, "train"), paths(found, "val")) == (["train.mp4"], ["val.mp4"])
    assert "2 videos that are neither of train nor of val are not used" in caplog.text
    assert found.left_out == []


@pytest.mark.parametrize("split", ["", "train", "val"])
def test_one_in_ten_is_held_out(split: str) -> None:
    rows = [row(f"{number:02d}.mp4", split=split) for number in range(4 * HOLD_OUT + 3)]
    found = select(index(*rows), 8)
    train, val = paths(found, "train"), paths(found, "val")
    assert len(val) == 4
    assert sorted(train + val) == [row["path"] for row in rows]
    assert train == sorted(train)
    assert val == sorted(val)
    assert val not in ([row["path"] for row in rows[:4]], [row["path"] for row in rows[-4:]])
    # By the paths alone: neither the order nor the place counts.
    moved = select(index(*reversed(rows), root=Path("/elsewhere")), 8)
    assert paths(moved, "val") == val
    # With one video more, at most one video changes sides.
    more = set(paths(select(index(*rows, row("more.mp4", split=split)), 8), "val"))
    assert len(set(val) - more) <= 1


def test_a_few_videos_hold_out_one() -> None:
    found = select(index(row("a.mp4"), row("b.mp4")), 8)
    assert (len(paths(found, "train")), len(paths(found, "val"))) == (1, 1)


def test_a_single_video_is_both(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = select(index(row("only.mp4"), row("short.mp4", frames=3)), 8)
    assert paths(found, "train") == paths(found, "val") == ["only.mp4"]
    assert "both train and val" in caplog.text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_part_without_usable_videos(split: str) -> None:
    other = "val" if split == "train" else "train"
    rows = row("a.mp4", split=split, frames=7), row("b.mp4", split=other), row("c.mp4", split=other)
    with pytest.raises(VideoError, match=rf"^/videos: its part {split} holds no video that can be used"):
        select(index(*rows), 8)


# -- classes


def test_natural_order() -> None:
    assert natural_order({"10", "9", "100", "b", "a", "2x", "B"}) == ("9", "10", "100", "2x", "B", "a", "b")


def test_labels_are_places_in_the_order_of_classes() -> None:
    classes = {"a.mp4": "10", "b.mp4": "9", "c.mp4": "", "d.mp4": "9", "e.mp4": "jump"}
    rows = [row(path, **{"class": name}, split="val" if path == "e.mp4" else "train") for path, name in classes.items()]
    found = select(index(*rows), 8)
    assert found.classes == ("9", "10", "jump")
    assert found.parts["train"].column("label").tolist() == [1, 0, -1, 0]
    assert found.parts["val"].column("label").tolist() == [2]


def test_only_classes_of_usable_videos_count() -> None:
    rows = [row(f"{name}.mp4", **{"class": name}, frames=frames) for name, frames in (("a", 7), ("b", 8), ("c", 8))]
    assert select(index(*rows), 8).classes == ("b", "c")
    assert select(index(row("a.mp4"), row("b.mp4")), 8).classes == ()


# -- what is left out


def test_left_out_videos_have_reasons() -> None:
    found = select(
        index(
            row("a.mp4"),
            row("b.mp4", status="broken", reason="is empty", frames=0),
            row("c.mp4", frames=14),
            # Scanned for longer clips: what counts is what this run asks for.
            row("d.mp4", frames=15, status="short", reason="has 15 frames, fewer than 16"),
            row("e.mp4", status="extra", reason="is in none of the lists"),
            row("f.mp4", status="missing", reason="listed in l.csv line 3, no such file", frames=0),
            # Broken in the end, however long.
            row("g.mp4", status="broken", reason="broken at frame 90", frames=90),
        ),
        8,
        stride=2,
    )
    assert sorted(paths(found, "train") + paths(found, "val")) == ["a.mp4", "d.mp4"]
    assert found.left_out == [
        ("b.mp4", "is empty"),
        ("c.mp4", "has 14 frames, a clip needs 15"),
        ("g.mp4", "broken at frame 90"),
    ]
    assert found.root == Path("/videos")


def test_steps_come_from_frame_rates() -> None:
    rates = {"a.mp4": 10.0, "b.mp4": 30.0, "c.mp4": 25.0, "d.mp4": 9.6, "e.mp4": 9.0, "f.mp4": 0.0}
    rows = [row(path, fps=fps, frames=22) for path, fps in rates.items()]
    found = select(index(*rows), 8, fps=10)
    steps = {part.path(n): part.column("step")[n] for part in found.parts.values() for n in range(len(part))}
    assert steps == {"a.mp4": 1.0, "b.mp4": 3.0, "c.mp4": 2.5, "d.mp4": 1.0}
    assert found.left_out == [
        ("e.mp4", "has 9 frames a second, fewer than 10"),
        ("f.mp4", "has 0 frames a second, fewer than 10"),
    ]
    longer = select(index(*rows), 9, fps=10)
    assert ("b.mp4", "has 22 frames, a clip needs 25") in longer.left_out
    strided = select(index(*rows), 8, stride=3)
    assert {step for part in strided.parts.values() for step in part.column("step").tolist()} == {3.0}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"stride": 5}, "a.mp4: has 20 frames, a clip needs 36"),
        ({"fps": 30.0}, "a.mp4: has 10 frames a second, fewer than 30"),
    ],
)
def test_none_can_be_used(asked: dict[str, Any], reason: str) -> None:
    rows = [row(f"{name}.mp4", split="train") for name in "abcde"] + [row("x.mp4", status="extra", split="val")]
    with pytest.raises(VideoError, match=f"^/videos: none of 5 videos can be used \\({reason}") as caught:
        select(index(*rows), 8, **asked)
    assert str(caught.value).endswith("; 1 more are missing or not in the lists")
    assert "d.mp4" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_but_files_that_are_not_listed() -> None:
    with pytest.raises(VideoError, match=r"none of 0 videos can be used .*; 2 more are missing or not in the lists"):
        select(index(row("a.mp4", status="extra"), row("b.mp4", status="missing", frames=0)), 8)


# -- fingerprint and tables


def fingerprint(*rows: dict[str, Any], root: str = "/videos") -> str:
    return select(index(*rows, root=Path(root)), 8).fingerprint


def test_fingerprint_is_of_what_is_used() -> None:
    rows = [row(f"{name}.mp4", split=split) for split, names in (("train", "abc"), ("val", "de")) for name in names]
    first = fingerprint(*rows)
    assert fingerprint(*reversed(rows), root="/elsewhere") == first
    unused = row("short.mp4", frames=3), row("x.mp4", status="extra"), row("y.mp4", status="broken", reason="is empty")
    assert fingerprint(*rows, *unused) == first
    changes: list[dict[str, Any]] = [
        {"size": 101},
        {"frames": 21},
        {"class": "x"},
        {"path": "cc.mp4"},
        {"split": "val"},
    ]
    changed = [fingerprint(*rows[:2], {**rows[2], **change}, *rows[3:]) for change in changes]
    assert len({first, *changed, fingerprint(*rows, row("more.mp4", split="train")), fingerprint(*rows[1:])}) == 8


def test_equal_parts_share_a_file_below_home(home: Path) -> None:
    rows = [row(f"{number}.mp4") for number in range(20)]
    select(index(*rows), 8)
    files = {file: file.stat().st_mtime_ns for file in (home / "tables").iterdir()}
    assert len(files) == 2
    select(index(*rows), 9)
    assert {file: file.stat().st_mtime_ns for file in (home / "tables").iterdir()} == files
    select(index(*rows), 8, stride=2)
    assert len(list((home / "tables").iterdir())) == 4


# -- the file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the files of two rows; nothing is decoded to tell whether it is the right one."""
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"x" * 100)
    return tmp_path / "videos"


def saved(root: Path, *rows: dict[str, Any], **facts: Any) -> Path:
    path = root.parent / "sub" / "index.parquet"
    index(*(rows or (row("a.mp4"), row("b.mp4"))), root=root, facts=facts).save(path)
    return path


def test_an_index_is_read_as_it_was_written(root: Path) -> None:
    odd = row("wörter/c d.mp4", start=3, end=13, status="missing", **{"class": "arm wrestling"})
    rows = row("a.mp4"), row("b.mp4", fps=29.97, size=100), odd
    path = saved(root, *rows, version=7, lists=["l.csv"])
    assert [file.name for file in path.parent.iterdir()] == ["index.parquet"]
    found = VideoIndex.load(path)
    assert found.table.to_pylist() == list(rows)
    assert found.root == root
    assert found.facts == {"version": 7, "lists": ["l.csv"], "root": str(root)}
    assert pq.read_table(path).column_names == SCHEMA.names  # any Parquet reader can read it


def test_further_columns_stay(root: Path) -> None:
    one = index(row("a.mp4"), root=root)
    VideoIndex(root, one.table.append_column("file", pa.array([3])), {}).save(root.parent / "i.parquet")
    assert VideoIndex.load(root.parent / "i.parquet").table["file"].to_pylist() == [3]


def test_a_moved_folder_is_the_same(root: Path) -> None:
    path = saved(root)
    moved = root.rename(root.parent / "moved")
    assert VideoIndex.load(path, moved).root == moved
    with pytest.raises(ValueError, match="is the index of another folder"):
        VideoIndex.load(path)


def test_the_index_of_another_folder_is_refused(root: Path, tmp_path: Path) -> None:
    path = saved(root)
    other = tmp_path / "other"
    other.mkdir()
    for content in ({}, {"a.mp4": 100}, {"a.mp4": 100, "b.mp4": 99}):
        for name, size in content.items():
            (other / name).write_bytes(b"x" * size)
        with pytest.raises(ValueError, match=rf"index.parquet: is the index of another folder \({root}\)"):
            VideoIndex.load(path, other)
    assert VideoIndex.load(path, other, check=False).root == other
    (other / "b.mp4").write_bytes(b"y" * 100)
    assert VideoIndex.load(path, other).root == other


def test_what_was_not_there_is_not_looked_up(root: Path) -> None:
    path = saved(root, row("a.mp4"), row("gone.mp4", status="missing"), row("broken.mp4", status="broken"))
    assert VideoIndex.load(path, root).root == root


def test_some_of_many_files_are_looked_up(root: Path) -> None:
    rows = [row(f"{number:04d}.mp4") for number in range(1000)]
    for one in rows[::20]:
        (root / one["path"]).write_bytes(b"x" * 100)
    path = saved(root, *rows)
    assert VideoIndex.load(path, root).root == root
    (root / rows[500]["path"]).unlink()
    with pytest.raises(ValueError, match=r"0500\.mp4 is not in"):
        VideoIndex.load(path, root)


def test_a_column_that_is_missing_is_named(root: Path) -> None:
    table = index(row("a.mp4"), root=root).table.drop_columns(["fps", "split"])
    VideoIndex(root, table, {}).save(root.parent / "index.parquet")
    with pytest.raises(ValueError, match=r"index.parquet: has no column split, fps; its columns: path, class"):
        VideoIndex.load(root.parent / "index.parquet")


def test_files_that_are_no_index(root: Path) -> None:
    path = root.parent / "index.parquet"
    with pytest.raises(FileNotFoundError, match=f"{path}: no such index; rinvid data scan ROOT --out {path}"):
        VideoIndex.load(path)
    whole = saved(root).read_bytes()
    for content in (b"", b"path,class\na.mp4,x\n", whole[:-100], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: not an index of videos; rinvid data scan makes one"):
            VideoIndex.load(path)
    for metadata in (None, {"other": "1"}, {"rinvid": "not JSON"}):
        pq.write_table(index(row("a.mp4")).table.replace_schema_metadata(metadata), path)
        with pytest.raises(ValueError, match="not an index of videos"):
            VideoIndex.load(path)
    pq.write_table(index(row("a.mp4")).table.replace_schema_metadata({"rinvid": json.dumps({"root": str(root)})}), path)
    assert len(VideoIndex.load(path).table) == 1
