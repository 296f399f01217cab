"""The cache folder, and folders and files that are made whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rinvid.data.home import home, whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "cache"))
    assert home() == tmp_path / "cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RINVID_HOME", "~/elsewhere")
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("RINVID_HOME")
    assert home() == tmp_path / ".cache" / "rinvid"


def test_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"
    with whole_folder(target) as folder:
        (folder / "a.txt").write_text("a")
        assert not target.exists()
        assert folder.parent == target.parent  # one file system, so that the last step is a rename
    assert names(target) == ["a.txt"]
    assert names(target.parent) == ["made"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [False, True])
def test_folder_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException], replace: bool) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "made", replace) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a.txt").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old.txt").write_text("old")
    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["made"]
    assert names(tmp_path / "made") == ["old.txt"]


@pytest.mark.parametrize(("replace", "left"), [(False, "old.txt"), (True, "new.txt")])
def test_folder_that_is_there_already(tmp_path: Path, replace: bool, left: str) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with whole_folder(target, replace) as folder:
        (folder / "new.txt").write_text("new")
    assert names(target) == [left]
    assert names(tmp_path) == ["made"]


def test_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.write_text("a file")

    def make() -> None:
        with whole_folder(target):
            pass

    with pytest.raises(OSError, match="made"):
        make()
    assert target.read_text() == "a file"
    assert names(tmp_path) == ["made"]


def test_file_appears_at_the_end_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with whole_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_file_that_fails_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.json"

    def fail() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    target.write_text("old")
    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]
