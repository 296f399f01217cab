"""Scanning: exactly the broken files are named, nothing hangs, and nothing is looked at twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rinvid.cli import main
from rinvid.data.index import SCHEMA, VideoIndex
from rinvid.data.probe import Probe, Prober
from rinvid.data.scan import scan, summary
from tests.video import broken
from tests.video.test_decode import COUNT, FILES, numbered, write_video


def statuses(index: VideoIndex) -> dict[str, str]:
    return dict(zip(index.table["path"].to_pylist(), index.table["status"].to_pylist(), strict=True))


def mixed(root: Path, good: int, each: int) -> set[str]:
    """A folder of good files and ``each`` of ten broken kinds; the paths of the latter."""
    root.mkdir()
    first = broken.good(root / "good0000.mp4")
    for number in range(1, good):
        shutil.copy(first, root / f"good{number:04d}.mp4")
    bad = set()
    for kind in broken.KINDS:
        folder = root / kind
        folder.mkdir()
        bad |= {broken.make(folder, kind, number).relative_to(root).as_posix() for number in range(each)}
    return bad


def check_exactly(index: VideoIndex, bad: set[str]) -> None:
    found = statuses(index)
    assert {path for path, status in found.items() if status != "ok"} == bad
    reasons = dict(zip(index.table["path"].to_pylist(), index.table["reason"].to_pylist(), strict=True))
    assert all(reasons[path] and "\n" not in reasons[path] for path in bad)


def test_exactly_the_broken_files_are_named(tmp_path: Path) -> None:
    bad = mixed(tmp_path / "videos", 20, 2)
    assert len(broken.KINDS) == 10
    check_exactly(scan(tmp_path / "videos", tmp_path / "index.parquet", show_progress=False), bad)


@pytest.mark.slow
def test_a_hundred_broken_files_among_a_thousand(tmp_path: Path) -> None:
    bad = mixed(tmp_path / "videos", 900, 10)
    index = scan(tmp_path / "videos", tmp_path / "index.parquet", show_progress=False)
    assert (len(index.table), len(bad)) == (1000, 100)
    check_exactly(index, bad)


@pytest.mark.parametrize("name", FILES)
def test_good_files_are_counted_frame_by_frame(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(COUNT), **FILES[name])
    with Prober("pyav", 20) as prober:
        found = prober(path)
    assert (found.frames, found.width, found.height, found.reason) == (COUNT, 64, 64, "")


def test_a_turned_video_has_the_size_that_is_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(20)[:, :32])
    broken.rotate(path, 90)
    with Prober("pyav", 20) as prober:
        assert prober(path) == Probe(20, 16.0, 32, 64, "h264", -90)


def test_what_is_written_down(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "train" / "arm_wrestling" / "abcdefghijk_000001_000011.mp4", numbered(20))
    write_video(tmp_path / "v" / "val" / "x" / "short.mp4", numbered(5))
    index = scan(tmp_path / "v", tmp_path / "out" / "index.parquet", show_progress=False)
    table = pq.read_table(tmp_path / "out" / "index.parquet")
    assert table.schema.remove_metadata().equals(SCHEMA)
    row = table.to_pylist()[0]
    assert {key: row[key] for key in ("class", "id", "start", "end", "split", "frames", "fps", "codec", "status")} == {
        "class": "arm wrestling",
        "id": "abcdefghijk",
        "start": 1,
        "end": 11,
        "split": "train",
        "frames": 20,
        "fps": 16.0,
        "codec": "h264",
        "status": "ok",
    }
    assert table["reason"].to_pylist()[1] == "has 5 frames, fewer than 16"
    assert "val              0         1         0" in summary(index)
    assert os.listdir(tmp_path / "out") == ["index.parquet"]  # noqa: PTH208


def test_lists_are_joined(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}_1_11.mp4", numbered(20))
    rows = "label,youtube_id,time_start,time_end,split\na,one,1,11,val\na,three,1,11,val\n"
    (tmp_path / "val.csv").write_text(rows)
    found = statuses(scan(tmp_path, tmp_path / "index.parquet", [tmp_path / "val.csv"], show_progress=False))
    assert found == {"one_1_11.mp4": "ok", "two_1_11.mp4": "extra", "": "missing"}


def test_only_what_has_changed_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_video(tmp_path / "v" / f"{number}.mp4", numbered(20))
    (tmp_path / "v" / "3.mp4").write_text("text")
    out = tmp_path / "index.parquet"
    first = scan(tmp_path / "v", out, show_progress=False)
    asked: list[str] = []
    real = Prober.__call__
    monkeypatch.setattr(Prober, "__call__", lambda self, path: asked.append(path.name) or real(self, path))
    assert scan(tmp_path / "v", out, show_progress=False).table.equals(first.table)
    assert asked == []
    write_video(tmp_path / "v" / "1.mp4", numbered(30))
    again = scan(tmp_path / "v", out, min_frames=25, show_progress=False)
    assert asked == ["1.mp4"]
    assert list(statuses(again).values()) == ["short", "ok", "short", "broken"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_scan_that_was_killed_goes_on(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    first = broken.good(tmp_path / "v" / "000.mp4")
    for number in range(1, 400):
        shutil.copy(first, tmp_path / "v" / f"{number:03d}.mp4")
    out, journal = tmp_path / "index.parquet", tmp_path / ".index.parquet.partial"
    code = f"from rinvid.cli import main; main(['data', 'scan', {str(tmp_path / 'v')!r}, '--out', {str(out)!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (journal.exists() and len(journal.read_text().splitlines()) > 20):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    known = len(journal.read_text().splitlines()) - 1
    assert not out.exists()
    assert 20 <= known < 400
    with journal.open("a") as file:
        file.write('{"path": "cut o')
    index = scan(tmp_path / "v", out, show_progress=False)
    assert set(statuses(index).values()) == {"ok"}
    assert len(index.table) == 400
    assert not journal.exists()


def other_child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def test_a_decoder_that_is_stuck_or_crashes_is_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(20))
    real = Prober._start
    for code, reason in (
        ("import time; time.sleep(60)", "the decoder gave no sign of life for 0.5 s"),
        ("import os; input(); os._exit(3)", "the decoder crashed (exit status 3)"),
    ):
        monkeypatch.setattr(Prober, "_start", partial(other_child, code))
        with Prober("pyav", 0.5) as prober:
            assert prober(path).reason == reason
            monkeypatch.setattr(Prober, "_start", real)
            prober.timeout = 30
            assert prober(path).reason == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing: no such folder of videos"),
        (["empty"], "empty: holds no videos"),
        (["videos", "--list", "no.csv"], "no.csv: no such list"),
        (["videos", "--list", "prices.csv"], "prices.csv: unknown layout"),
        (["videos", "--out", "other.parquet"], "is the index of another folder"),
        (["videos", "--out", "prices.csv"], "not an index of videos"),
        (["videos", "--min-frames", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("prices.csv").write_text("item,price,label\nbook,3,a\n")
    for folder in ("videos", "others"):
        write_video(Path(folder) / "a.mp4", numbered(20))
    scan(Path("others"), Path("other.parquet"), show_progress=False)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit, match="2"):
        main(["data", "scan", *arguments])
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
