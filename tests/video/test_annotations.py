"""Names and lists of Kinetics-like folders: every layout says the same, and nothing is fatal but nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from rinvid.data.annotations import Listed, find_annotations, from_path, join, read_annotations

ID = "-3B32_od_2M"


def place(path: str) -> tuple[str, str, str, int | None, int | None]:
    found = from_path(path)
    return found.split, found.class_name, found.id, found.start, found.end


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"train/arm_wrestling/{ID}_000059_000069.mp4", ("train", "arm wrestling", ID, 59, 69)),
        (f"validate/arm wrestling/{ID}_59_69.mkv", ("val", "arm wrestling", ID, 59, 69)),
        (f"k600/test/part_0/{ID}_000059_000069.mp4", ("test", "", ID, 59, 69)),
        (f"arm wrestling/{ID}.mp4.webm", ("", "arm wrestling", ID, None, None)),
        (f"{ID}_000059_000069.mp4.mkv", ("", "", ID, 59, 69)),
        ("training_dog/x.mp4", ("", "training dog", "x", None, None)),
        ("val/testifying/x.mp4", ("val", "testifying", "x", None, None)),
        ("videos/x.mp4", ("", "", "x", None, None)),
        ("train/test_tube/x.mp4", ("train", "test tube", "x", None, None)),
    ],
)
def test_what_a_path_says(path: str, expected: tuple[object, ...]) -> None:
    assert place(path) == expected


LISTS = {
    "val.csv": f'label,youtube_id,time_start,time_end,split\n"arm wrestling",{ID},59,69,validate\n',
    "k600_val.csv": f"\ufefflabel,youtube_id,time_start,time_end,split,is_cc\r\narm wrestling,{ID},59,69,val,0\r\n",
    "columns.csv": f"split,time_end,time_start,youtube_id,label\nval,69.0,59.0,{ID},arm_wrestling\n",
    "val.txt": f"# ours\narm wrestling/{ID}_000059_000069.mp4 5\n\n",
    "val_list.txt": f"arm_wrestling/{ID}_000059_000069 300 5\n",
    "vallist01.txt": f"arm_wrestling/{ID}_000059_000069.mp4\n",
    "my_val.txt": f"/home/x/k600/val/arm_wrestling/{ID}_59_69.mp4,5\n",
    "names_val.txt": f"{ID}_000059_000069.mp4 arm wrestling\n",
    "tabs_val.txt": f"{ID}_000059_000069\tarm wrestling\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_every_list_says_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LISTS[name], encoding="utf-8")
    (row,) = read_annotations(tmp_path / name)
    assert (row.split, row.class_name, row.id, row.start, row.end) == ("val", "arm wrestling", ID, 59, 69)
    assert row.source.startswith(f"{name} line ")
    joined = join([from_path(f"val/arm_wrestling/{ID}_000059_000069.mp4")], [row])
    assert joined.missing == []
    assert len(joined.matched) == 1


def test_bare_ids_and_a_test_list_without_classes(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(f"youtube_id,time_start,time_end,split\n{ID},59,69,test\n")
    (tmp_path / "test.txt").write_text(f"{ID}\n")
    for name in ("test.csv", "test.txt"):
        (row,) = read_annotations(tmp_path / name)
        assert (row.id, row.class_name, row.split) == (ID, "", "test")


def test_lists_are_found_and_other_texts_passed_over(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.csv").write_text(LISTS["val.csv"])
    (tmp_path / "train.txt").write_text(LISTS["val.txt"])
    (tmp_path / "README.txt").write_text("These are videos of arms.\nSee val.csv.\n")
    (tmp_path / "labels.txt").write_text("arm wrestling\ntraining dog\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "prices.csv").write_text("item,price\nbook,3\n")
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00\x80")
    assert [path.name for path in find_annotations(tmp_path)] == ["val.csv", "train.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        ("label,split\na,val\n", "unknown layout"),
        (f"youtube_id,time_start\n{ID},soon\n", "line 2 has a time that is not a number"),
        ("label,youtube_id\na,\n", "line 2 names no video"),
        ("a,b,c,d,e\n", "unknown layout, line 1"),
    ],
)
def test_a_malformed_list_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_annotations(tmp_path / "list.csv")
    assert "list.csv" in str(caught.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.csv: no such list"):
        read_annotations(tmp_path / "no.csv")


def row(name: str, start: int | None = 1, split: str = "val", class_name: str = "a") -> Listed:
    return Listed("", class_name, name, start, None if start is None else start + 10, split, "list line 2")


def test_missing_and_extra() -> None:
    files = [from_path(path) for path in ("val/a/one_1_11.mp4", "val/a/two_1_11.mp4")]
    joined = join(files, [row("one"), row("three")])
    assert joined.matched == {"val/a/one_1_11.mp4"}
    assert [missing.id for missing in joined.missing] == ["three"]


def test_another_cut_of_the_same_video_is_another_video() -> None:
    joined = join([from_path("a/one_000001_000011.mp4")], [row("one", 50)])
    assert (joined.matched, len(joined.missing)) == (set(), 1)


def test_ids_match_where_one_side_has_no_times() -> None:
    assert join([from_path("a/one.mp4")], [row("one", 50)]).files[0].start == 50
    assert join([from_path("a/one_1_11.mp4")], [row("one", None)]).files[0].start == 1


def test_ids_are_case_sensitive() -> None:
    assert join([from_path("a/One_1_11.mp4")], [row("one")]).matched == set()


def test_the_file_in_the_rows_own_split_and_class_is_preferred() -> None:
    files = [from_path(path) for path in ("train/a/one_1_11.mp4", "val/b/one_1_11.mp4", "val/a/one_1_11.mp4")]
    assert join(files, [row("one")]).matched == {"val/a/one_1_11.mp4"}


def test_of_two_rows_for_a_file_the_first_counts() -> None:
    joined = join([from_path("one_1_11.mp4")], [row("one", class_name="a"), row("one", class_name="b")])
    assert (joined.files[0].class_name, joined.missing) == ("a", [])


def test_a_number_does_not_replace_the_name_of_a_class() -> None:
    assert join([from_path("arm_wrestling/one_1_11.mp4")], [row("one", class_name="5")]).files[0].class_name == (
        "arm wrestling"
    )
    assert join([from_path("one_1_11.mp4")], [row("one", class_name="5")]).files[0].class_name == "5"
