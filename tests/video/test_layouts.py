"""What names and lists of a folder of videos say, and which file belongs to which row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rinvid.data.layouts import Joined, Listed, find_annotations, from_path, join, read_annotations

ID = "-_9bX3c_5kQ"
Rows = Callable[..., list[Listed]]
OFFICIAL = "label,youtube_id,time_start,time_end,split\n"


def named(*paths: str) -> list[Listed]:
    return [from_path(path) for path in paths]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Rows of a list with the given text, under a name that says no split."""

    def read(text: str, name: str = "list.txt") -> list[Listed]:
        return read_annotations(write(tmp_path / name, text))

    return read


def pairs(joined: Joined) -> dict[str, str]:
    """Sources of the rows by the paths of their files."""
    assert {file.path for file in joined.files if file.source} == joined.matched
    return {file.path: file.source for file in joined.files if file.source}


# -- a file's name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{ID}_000001_000011.mp4", (ID, 1, 11)),
        (f"{ID}_1_11.mp4", (ID, 1, 11)),
        (f"{ID}_001046_001056.MKV", (ID, 1046, 1056)),
        (f"{ID}.mp4", (ID, None, None)),
        (f"{ID}_000001_000011.mp4.mkv", (ID, 1, 11)),
        (f"{ID}.mp4.webm", (ID, None, None)),
        # An id that ends like times, alone and with times.
        ("abcde_12_34.mp4", ("abcde_12_34", None, None)),
        ("abcde_12_34_000005_000015.mp4", ("abcde_12_34", 5, 15)),
        ("___________000000_000010.mp4", ("__________", 0, 10)),
        ("____________000000_000010.mp4", ("___________", 0, 10)),
        # Names of other makes: six digits are times, a date or an order the wrong way round are not.
        ("fall_000003_000013.mp4", ("fall", 3, 13)),
        ("2020_05_17.mp4", ("2020_05_17", None, None)),
        ("take_170520_120000.mp4", ("take_170520_120000", None, None)),
        ("v_Archery_g01_c01.avi", ("v_Archery_g01_c01", None, None)),
        ("1.5 speed.mp4", ("1.5 speed", None, None)),
        (".mp4", (".mp4", None, None)),
    ],
)
def test_id_and_times(name: str, expected: tuple[str, int | None, int | None]) -> None:
    found = from_path(f"val/abseiling/{name}")
    assert (found.id, found.start, found.end) == expected
    assert (found.class_name, found.split, found.path) == ("abseiling", "val", f"val/abseiling/{name}")


# -- splits and classes from folders


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("VAL", "val"),
        ("valid", "val"),
        ("validate", "val"),
        ("validation", "val"),
        ("eval", "val"),
        ("test", "test"),
        ("testing", "test"),
        ("kinetics600_train", "train"),
        ("k600-val-256", "val"),
        ("kinetics-600 test", "test"),
        ("videos_val", "val"),
        ("val_256x256", "val"),
        ("part_3", ""),
        ("trainval", ""),
        ("k600_train_val", ""),
    ],
)
def test_split_folder(folders: str, split: str) -> None:
    assert from_path(f"{folders}/x.mp4").split == split
    assert from_path(f"{folders}/arm_wrestling/x.mp4").split == split
    assert from_path(f"{folders}/arm_wrestling/x.mp4").class_name == "arm wrestling"
    if split:
        assert from_path(f"{folders}/x.mp4").class_name == ""
        assert from_path(f"k600/{folders}/part_0/x.mp4") == Listed(f"k600/{folders}/part_0/x.mp4", "", "x", split=split)


# "test tube", "testing microphone" and "val thorens" are no classes of Kinetics, but could be of another set.
TRAPS = [
    "training dog",
    "testifying",
    "tasting food",
    "test tube",
    "testing microphone",
    "val thorens",
    "train driving",
]


@pytest.mark.parametrize("name", TRAPS)
def test_class_that_sounds_like_a_split(name: str) -> None:
    for folder in (name, name.replace(" ", "_"), name.title()):
        alone = from_path(f"{folder}/{ID}.mp4")
        assert (alone.class_name.lower(), alone.split) == (name, "")
        for split in ("train", "val", "test"):
            below = from_path(f"{split}/{folder}/{ID}.mp4")
            assert (below.class_name.lower(), below.split) == (name, split)


def test_split_is_not_in_the_files_name() -> None:
    assert from_path("train.mp4").split == ""
    assert from_path("abseiling/val.mp4") == Listed("abseiling/val.mp4", "abseiling", "val")


def test_nearest_of_several_splits() -> None:
    assert from_path("test/k600/val/abseiling/x.mp4").split == "val"
    # A folder that is only likely one is not, below one that surely is.
    assert from_path("train/test_1/x.mp4") == Listed("train/test_1/x.mp4", "test 1", "x", split="train")


@pytest.mark.parametrize(
    "folder", ["part_0", "part-12", "Part 3", "videos", "video", "clips", "Data", "k600", "kinetics-700", "."]
)
def test_holder_is_no_class(folder: str) -> None:
    assert from_path(f"{folder}/x.mp4").class_name == ""
    assert from_path(f"train/{folder}/x.mp4").class_name == ""


def test_class_of_other_folders() -> None:
    assert from_path("x.mp4").class_name == ""
    assert from_path("a/petting__animal_(not cat)/x.mp4").class_name == "petting animal (not cat)"
    assert [from_path(f"{name}/x.mp4").class_name for name in ("7", "video game", "part of it")] == [
        "7",
        "video game",
        "part of it",
    ]


# -- tables with a header


def test_official_table(rows: Rows) -> None:
    text = OFFICIAL + f"abseiling,{ID},1,11,train\nair drumming,abcdefghij1,84,94,validate\n"
    assert rows(text, "k600.csv") == [
        Listed("", "abseiling", ID, 1, 11, "train", "k600.csv line 2"),
        Listed("", "air drumming", "abcdefghij1", 84, 94, "val", "k600.csv line 3"),
    ]


def test_official_table_without_labels(rows: Rows) -> None:
    assert rows(f"youtube_id,time_start,time_end,split\n{ID},17,27,test\n") == [
        Listed("", "", ID, 17, 27, "test", "list.txt line 2")
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"label,youtube_id,time_start,time_end,split,is_cc\nair drumming,{ID},1,11,val,0\n",
        f"\ufeffLabel,YouTube ID,Time Start,Time End,Split\r\nair_drumming,{ID},1,11,val\r\n",
        f'"split","id","label","end","start"\n"val","{ID}","air drumming","11","1"\n',
        f"video_id\tclass\tstart\tend\tsubset\n{ID}\tair drumming\t1.0\t11.0\tvalidation\n",
        f"label;number;youtube_id;time_start;time_end;split\nair drumming;;{ID};1;11;val\n",
        f"  # by hand\n\n  \nlabel,youtube_id,time_start,time_end,split\n\n#none\n air drumming , {ID} ,1,11,val,,\n",
        f"label,youtube_id\nair drumming,{ID}_000001_000011.mp4\n",
    ],
)
def test_variants_of_the_table(rows: Rows, text: str) -> None:
    (row,) = rows(text, "val.csv")
    assert row.source.startswith("val.csv line ")
    assert (row.class_name, row.id, row.start, row.end, row.split) == ("air drumming", ID, 1, 11, "val")


def test_line_numbers_count_all_lines(rows: Rows) -> None:
    assert rows(f"# comment\n\n{OFFICIAL}\na,{ID},1,11,val\n")[0].source == "list.txt line 5"


def test_label_with_a_comma(rows: Rows) -> None:
    assert rows(OFFICIAL + f'"eating, drinking",{ID},1,11,val\n')[0].class_name == "eating, drinking"


def test_table_of_paths(rows: Rows) -> None:
    (row,) = rows(f"index,path,label\n0,val/arm_wrestling/{ID}_1_11.mp4,walking\n")
    assert row == Listed(f"val/arm_wrestling/{ID}_1_11.mp4", "walking", ID, 1, 11, "val", "list.txt line 2")
    (row,) = rows(f"path label\narm wrestling/{ID}.mp4 3\n")
    assert (row.path, row.class_name) == (f"arm wrestling/{ID}.mp4", "arm wrestling")


def test_other_columns(rows: Rows) -> None:
    (row,) = rows(f"youtube_id,views,likes\n{ID},1,2\n")
    assert row == Listed("", "", ID, source="list.txt line 2")
    (row,) = rows(f"youtube_id,path\n{ID},clips/0001.mp4\n")
    assert (row.id, row.path) == ("0001", "clips/0001.mp4")


def test_missing_fields_are_unknown(rows: Rows) -> None:
    assert rows(OFFICIAL + f",{ID},,,\nb,{ID}\n") == [
        Listed("", "", ID, source="list.txt line 2"),
        Listed("", "b", ID, source="list.txt line 3"),
    ]


# -- lines without a header


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Path and label between spaces, commas, tabs.
        (f"abseiling/{ID}_000001_000011.mp4 300", ("abseiling", 1, 11)),
        (f"arm wrestling/{ID}_000001_000011.mp4 5", ("arm wrestling", 1, 11)),
        (f"arm wrestling/{ID}_000001_000011.mp4,5", ("arm wrestling", 1, 11)),
        (f"arm_wrestling/{ID}_000001_000011.mp4\t5", ("arm wrestling", 1, 11)),
        (f"{ID}_000001_000011.mp4 5", ("5", 1, 11)),
        (f"{ID}_000001_000011.mp4 -1", ("", 1, 11)),
        (f"{ID}_000001_000011.mp4 abseiling", ("abseiling", 1, 11)),
        (f"{ID}_000001_000011.mp4 arm wrestling", ("arm wrestling", 1, 11)),
        (f"{ID}_000001_000011.mp4,arm wrestling", ("arm wrestling", 1, 11)),
        (f"{ID}_000001_000011\tarm_wrestling", ("arm wrestling", 1, 11)),
        (f"{ID}_000001_000011 abseiling", ("abseiling", 1, 11)),
        (f"  {ID} 5", ("5", None, None)),
        (f"{ID} arm wrestling", ("arm wrestling", None, None)),
        (f'{ID}.mp4, "eating, drinking"', ("eating, drinking", None, None)),
        # Path, frames, label.
        (f"abseiling/{ID}_000001_000011 300 5", ("abseiling", 1, 11)),
        (f"arm wrestling/{ID}_000001_000011 300 5", ("arm wrestling", 1, 11)),
        (f"{ID}_000001_000011.mp4 300 5", ("5", 1, 11)),
        (f"{ID}_000001_000011.mp4,300,5", ("5", 1, 11)),
        (f"{ID}_000001_000011 300 arm wrestling", ("arm wrestling", 1, 11)),
        # Nothing but a path, an id, an id with times.
        (f"arm wrestling/{ID}_000001_000011.mp4", ("arm wrestling", 1, 11)),
        (f"arm wrestling/{ID}", ("arm wrestling", None, None)),
        (ID, ("", None, None)),
        (f"{ID}_1_11", ("", 1, 11)),
        (f"{ID}.mp4.mkv", ("", None, None)),
        # From another machine.
        (f"/home/x/k600/val/arm wrestling/{ID}_000001_000011.mp4 5", ("arm wrestling", 1, 11)),
        (rf"D:\k600\val\arm wrestling\{ID}_000001_000011.mp4 5", ("arm wrestling", 1, 11)),
        (f"./k600/{ID}_000001_000011.mp4 5", ("5", 1, 11)),
        # An official table that has lost its header.
        (f"arm wrestling,{ID},1,11,val", ("arm wrestling", 1, 11)),
        (f"arm wrestling,{ID},1,11,val,0", ("arm wrestling", 1, 11)),
        (f"{ID},1,11,val", ("", 1, 11)),
    ],
)
def test_lines(rows: Rows, line: str, expected: tuple[str, int | None, int | None]) -> None:
    for text in (f"{line}\n", f"\ufeff# comment\r\n{line}\r\n\r\n{line}"):
        found = rows(text)
        assert len(found) == text.count(line)
        for row in found:
            assert (row.class_name, row.start, row.end) == expected
            assert row.id == ID
            assert row.split == ("val" if "val" in line else "")


def test_path_of_a_row_is_as_listed(rows: Rows) -> None:
    lines = [f"/data/a b/{ID}.mp4 5", f"a b/{ID}_1_11 5", f"{ID}.mp4 5", f"{ID} 5", f"{ID}_1_11 5"]
    assert [row.path for row in rows("\n".join(lines))] == [
        f"/data/a b/{ID}.mp4",
        f"a b/{ID}_1_11",
        f"{ID}.mp4",
        "",
        "",
    ]


def test_names_with_spaces_commas_and_dots(rows: Rows) -> None:
    found = rows(f"a b, c/my clip.mp4 5\na b, c/{ID} 5\na/{ID}\nd/{ID} 5\n e/1.5.mp4 6\n")
    assert [row.path for row in found] == ["a b, c/my clip.mp4", f"a b, c/{ID}", f"a/{ID}", f"d/{ID}", "e/1.5.mp4"]
    assert rows("e/1.5.mp4 6")[0].id == "1.5"


def test_some_lines_without_a_label(rows: Rows) -> None:
    assert [row.class_name for row in rows(f"{ID}.mp4,a b\nx.mp4,c,\ny.mp4\nz.mp4,d e\n")] == ["a b", "c", "", "d e"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("kinetics_600_val.csv", "val"),
        ("trainlist.txt", "train"),
        ("trainlist01.txt", "train"),
        ("testlist01.txt", "test"),
        ("val_list.txt", "val"),
        ("train.csv", "train"),
        ("validate.csv", "val"),
        ("k400_val_list_videos.txt", "val"),
        ("kinetics600_holdout_test.csv", "test"),
        ("train_val.csv", ""),
        ("restrained.txt", ""),
        ("overtrain.txt", ""),
        ("testimony.txt", ""),
        ("list.txt", ""),
    ],
)
def test_split_of_a_list(rows: Rows, name: str, split: str) -> None:
    assert rows(f"{ID}.mp4 5\n", name)[0].split == split
    # What the row says comes first: its column, then its path.
    assert rows(f"test/{ID}.mp4 5\n", name)[0].split == "test"
    assert rows(f"path,split\ntest/{ID}.mp4,train\n", name)[0].split == "train"


# -- what is no list


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        OFFICIAL,
        "label,time_start,time_end,split\n" + 3 * "abseiling,1,11,val\n",
        "abseiling\nbookbinding\narm wrestling\ntobogganing\n",
        "Bookbinding\nTobogganing\n",
        "0 abseiling\n1 air drumming\n",
        "abseiling 0\nbookbinding 1\n",
        "id,name\n0,abseiling\n1,air drumming\n",
        "name,index\nabseiling,0\n",
        "numpy==1.26\ntorch>=2.0  # not 1.x\n-r requirements/base.txt\n",
        "docs/index.md\ndocs/install.md\n",
        "Kinetics\n\nThis folder holds train/ and val/ with one folder per class.\nSee the paper for more.\n",
        "https://s3.amazonaws.com/kinetics/600/train/part_0.tar.gz\nhttps://s3.amazonaws.com/kinetics/600/train/part_1\n",
        "https://www.youtube.com/watch?v=abcdefghij1\n",
        "\x00\x01\x02",
    ],
)
def test_unknown_layouts(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "labels.txt", text)
    with pytest.raises(ValueError, match=r"labels.txt: unknown layout, the first line is '.*; known: .*youtube_id"):
        read_annotations(path)
    assert find_annotations(tmp_path) == []


def test_first_line_is_shown(rows: Rows) -> None:
    with pytest.raises(ValueError, match="the first line is 'abseiling'"):
        rows("abseiling\nair drumming\n")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(bytes(range(128, 256)) * 3)
    assert find_annotations(tmp_path) == []
    with pytest.raises(ValueError, match="unknown layout"):
        read_annotations(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,abcdefghij1,soon,11,val", "line 4: .*'soon'"),
        ("a,abcdefghij1,1,inf,val", "line 4: .*inf"),
        ("a,,1,11,val", "line 4: names no video: 'a,,1,11,val'"),
        ("eating, drinking,abcdefghij1,1,11,val", "line 4: 6 fields are too many"),
        ('"a,abcdefghij1,1,11,val', "line 4: unexpected end of data"),
    ],
)
def test_line_that_cannot_be_read(tmp_path: Path, line: str, reason: str) -> None:
    good = f"a,{ID},1,11,val\n"
    path = write(tmp_path / "val.csv", OFFICIAL + 2 * good + line + "\n" + good)
    with pytest.raises(ValueError, match=rf"val.csv, {reason}"):
        read_annotations(path)
    # It is a list nevertheless: who looks for lists must not lose it without a word.
    assert find_annotations(tmp_path) == [path]


def test_no_such_list(tmp_path: Path) -> None:
    for path in (tmp_path / "val.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such list"):
            read_annotations(path)


def test_found_lists(tmp_path: Path) -> None:
    table, lines = OFFICIAL + f"a,{ID},1,11,val\n", f"a/{ID}.mp4 5\n"
    lists = [
        write(tmp_path / "annotations" / "train.txt", f"{ID}\n" + "abcdefghijk\n" + "AbCdefghijk\n"),
        write(tmp_path / "annotations" / "val.CSV", table),
        write(tmp_path / "bare.lst", "a/clip1 0\nb/clip2 1\n"),
        write(tmp_path / "test.list", lines),
        write(tmp_path / "train.csv", lines),
        write(tmp_path / "val.tsv", table.replace(",", "\t")),
    ]
    write(tmp_path / "annotations" / "classes.txt", "abseiling\nbookbinding\n")
    write(tmp_path / "README.txt", "Kinetics-600, val only.\nMade with a script.\n")
    write(tmp_path / "val.json", table)
    write(tmp_path / "._val.csv", table)
    write(tmp_path / "other" / "val.csv", table)
    (tmp_path / "folder.csv").mkdir()
    assert find_annotations(tmp_path) == lists
    assert find_annotations(tmp_path / "nowhere") == []


def test_most_entries_decide(tmp_path: Path) -> None:
    # One id in three has neither digit nor capital; a note among the lines is no reason to pass a list over either.
    path = write(tmp_path / "ids.txt", f"{ID}\nabcdefghijk\n{ID[::-1]}\n")
    assert find_annotations(tmp_path) == [path]
    write(path, f"{ID}\nabseiling\nair drumming\n")
    assert find_annotations(tmp_path) == []


# -- joining


def test_join_by_id_and_times(rows: Rows) -> None:
    files = named(f"val/abseiling/{ID}_000001_000011.mp4", f"val/abseiling/{ID}_000020_000030.mp4", "val/b/other.mp4")
    table = rows(OFFICIAL + f"air drumming,{ID},1,11,val\nabseiling,{ID},40,50,val\n")
    joined = join(files, table)
    assert joined.files == [
        Listed(files[0].path, "air drumming", ID, 1, 11, "val", "list.txt line 2"),
        *files[1:],
    ]
    assert joined.matched == {files[0].path}
    assert joined.missing == [table[1]]


def test_row_completes_flat_file(rows: Rows) -> None:
    joined = join(named(f"{ID}.mp4"), rows(OFFICIAL + f"air drumming,{ID},1,11,val\n"))
    assert joined.files == [Listed(f"{ID}.mp4", "air drumming", ID, 1, 11, "val", "list.txt line 2")]
    # What the row leaves open stays as the file has it.
    joined = join(named(f"val/a/{ID}_1_11.mp4"), rows(f"{ID}\n"))
    assert joined.files == [Listed(f"val/a/{ID}_1_11.mp4", "a", ID, 1, 11, "val", "list.txt line 1")]


@pytest.mark.parametrize(
    "file",
    [
        f"{ID}_000001_000011.mp4",
        f"{ID}_1_11.webm",
        f"{ID}_000001_000011.mp4.mkv",
        f"arm_wrestling/{ID}_000001_000011.mp4",
        f"val/arm wrestling/{ID}_000001_000011.mp4",
        f"k600_val/part_0/{ID}_1_11.mp4",
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        f"arm wrestling,{ID},1,11,val",
        f"{ID}_000001_000011",
        f"arm_wrestling/{ID}_1_11.mp4 5",
        f"val/arm wrestling/{ID}_000001_000011 300 5",
        f"/home/x/k600/validation/arm_wrestling/{ID}_000001_000011.mp4",
        f"{ID}",
    ],
)
def test_spellings_of_one_clip(rows: Rows, file: str, line: str) -> None:
    joined = join(named(file, f"train/x/{ID[::-1]}_000001_000011.mp4"), rows(line))
    assert pairs(joined) == {file: "list.txt line 1"}
    assert joined.missing == []


def test_ids_are_case_sensitive(rows: Rows) -> None:
    joined = join(named("abcdefghiJ1.mp4"), rows("abcdefghij1.mp4 5"))
    assert (joined.matched, len(joined.missing)) == (set(), 1)


def test_file_without_times(rows: Rows) -> None:
    file = named(f"val/{ID}.mp4")
    assert join(file, rows(OFFICIAL + f"a,{ID},1,11,val\n")).files[0].start == 1
    # Two clips of the video are listed: which one the file is cannot be told.
    two = rows(OFFICIAL + f"a,{ID},1,11,val\na,{ID},20,30,val\n")
    assert join(file, two) == Joined(file, set(), two)
    # In another split there may be as many as like.
    other = rows(OFFICIAL + f"a,{ID},20,30,train\na,{ID},1,11,val\n")
    assert pairs(join(file, other)) == {file[0].path: "list.txt line 3"}
    assert join(file, other).missing == other[:1]
    # A path names its file, whatever the times beside it.
    listed = rows(f"path,start,end\n{ID}.mp4,1,11\n{ID}.mp4,20,30\n")
    assert pairs(join(file, listed)) == {file[0].path: "list.txt line 2"}


def test_row_without_times(rows: Rows) -> None:
    row = rows(f"{ID}\n")
    assert pairs(join(named(f"a/{ID}_1_11.mp4"), row)) == {f"a/{ID}_1_11.mp4": "list.txt line 1"}
    several = named(f"a/{ID}_1_11.mp4", f"a/{ID}_20_30.mp4")
    assert join(several, row) == Joined(several, set(), row)
    assert pairs(join([*several, *named(f"a/{ID}.mp4")], row)) == {f"a/{ID}.mp4": "list.txt line 1"}


def test_rows_split_is_preferred(rows: Rows) -> None:
    files = named(f"train/a/{ID}_1_11.mp4", f"val/b/{ID}_1_11.mp4", f"c/{ID}_1_11.mp4")
    for split, place in (("train", 0), ("val", 1), ("test", 2)):
        assert join(files, rows(OFFICIAL + f"x,{ID},1,11,{split}\n")).matched == {files[place].path}
    both = rows(OFFICIAL + f"x,{ID},1,11,val\nx,{ID},1,11,train\n")
    assert pairs(join(files, both)) == {files[1].path: "list.txt line 2", files[0].path: "list.txt line 3"}
    untimed = named(f"train/a/{ID}.mp4", f"val/b/{ID}.mp4")
    assert join(untimed, rows(OFFICIAL + f"x,{ID},1,11,val\n")).matched == {untimed[1].path}
    assert join(untimed, rows(ID)).matched == set()


def test_rows_class_is_preferred(rows: Rows) -> None:
    files = named(f"val/a/{ID}_1_11.mp4", f"val/arm_wrestling/{ID}_1_11.mp4")
    assert join(files, rows(OFFICIAL + f"arm wrestling,{ID},1,11,val\n")).matched == {files[1].path}
    assert join(files, rows(f"arm wrestling/{ID}_1_11\n")).matched == {files[1].path}
    # Of a clip that is there twice, either will do.
    assert join(files, rows(f"{ID}_1_11\n")).matched == {files[0].path}


def test_clip_in_another_split(rows: Rows) -> None:
    # The only file goes to the row of its own split, which may come later, and to the other row only without that.
    file = named(f"val/a/{ID}_1_11.mp4")
    both = rows(OFFICIAL + f"b,{ID},1,11,train\nc,{ID},1,11,val\n")
    assert join(file, both).files[0].class_name == "c"
    assert join(file, both[:1]).files == [Listed(file[0].path, "b", ID, 1, 11, "train", "list.txt line 2")]


def test_duplicates(rows: Rows) -> None:
    table = rows(OFFICIAL + 2 * f"a,{ID},1,11,val\n" + f"b,{ID},1,11,val\n" + 3 * "c,abcdefghij1,1,11,val\n")
    joined = join(named(f"{ID}_1_11.mp4", f"{ID}_1_11.webm"), table)
    assert pairs(joined) == {f"{ID}_1_11.mp4": "list.txt line 2"}
    assert joined.files[0].class_name == "a"
    assert joined.missing == [table[3]]


def test_later_rows_only_add(rows: Rows) -> None:
    lists = rows(f"{ID}\n", "val_ids.txt") + rows(OFFICIAL + f"a,{ID},1,11,train\nb,{ID},1,11,train\n", "all.csv")
    joined = join(named(f"{ID}.mp4"), lists)
    assert joined.files == [Listed(f"{ID}.mp4", "a", ID, 1, 11, "val", "val_ids.txt line 1")]
    assert joined.missing == []
    # Missing from the folder, it is missing once.
    assert len(join([], rows(f"{ID}\n", "train_ids.txt") + lists[1:]).missing) == 1


def test_number_does_not_replace_a_name(rows: Rows) -> None:
    assert join(named(f"abseiling/{ID}.mp4"), rows(f"{ID}.mp4 5")).files[0].class_name == "abseiling"
    assert join(named(f"{ID}.mp4"), rows(f"{ID}.mp4 5\n{ID}.mp4 7")).files[0].class_name == "5"
    assert join(named(f"{ID}.mp4"), rows(f"{ID}.mp4 5\n{ID}.mp4 abseiling")).files[0].class_name == "abseiling"


def test_spelling_of_classes_with_quotes(rows: Rows) -> None:
    files = named("massaging_persons_head/1.mp4", "tying_knot_not_on_a_tie/1.mp4")
    lines = rows("massaging person's head/1.mp4\ntying knot (not on a tie)/1.mp4\n")
    assert pairs(join(files, lines)) == {files[0].path: "list.txt line 1", files[1].path: "list.txt line 2"}


# -- joining files whose names are no ids of YouTube, and alike in many folders


def test_same_name_in_many_folders(rows: Rows) -> None:
    files = named(*(f"{split}/{name}/1.mp4" for split in ("train", "val") for name in ("arm_wrestling", "b", "c")))
    joined = join(files, rows("/data/val/arm wrestling/1.mp4 0\ntrain/b/1.mp4 1\nval/d/1.mp4 2\nb/1.mp4 3\n1.mp4 4\n"))
    assert pairs(joined) == {"val/arm_wrestling/1.mp4": "list.txt line 1", "train/b/1.mp4": "list.txt line 2"}
    assert [row.source for row in joined.missing] == [f"list.txt line {line}" for line in (3, 4, 5)]
    # The name of the list tells the split.
    assert join(files, rows("b/1.mp4 3", "val.txt")).matched == {"val/b/1.mp4"}
    assert join(files[:3], rows("b/1.mp4 3", "val.txt")).matched == set()


def test_name_alone(rows: Rows) -> None:
    assert join(named("val/b/clip7.mp4"), rows("clip7.mp4 3")).matched == {"val/b/clip7.mp4"}
    assert join(named("clip7.mp4"), rows("/data/b/clip7.mp4 3")).matched == {"clip7.mp4"}
    # It is another video if it lies in the folder of another class.
    assert join(named("c/clip7.mp4"), rows("b/clip7.mp4 3")).matched == set()
    assert join(named("c/clip7.mp4"), rows("clip7.mp4,b")).matched == set()
    assert join(named("val/c/clip7.mp4"), rows("train/b/clip7.mp4 3")).matched == set()
    assert join(named("b/clip7.mp4", "c/clip7.mp4"), rows("clip7.mp4,b")).matched == {"b/clip7.mp4"}
    assert join(named("b/clip7.mp4", "b/clip7.webm"), rows("clip7.mp4")).matched == {"b/clip7.mp4"}


def test_name_that_many_files_have(rows: Rows) -> None:
    files = named("val/a/1.mp4", *(f"train/{name}/1.mp4" for name in "bcdefgh"))
    assert join(files, rows("val/1.mp4")).matched == {"val/a/1.mp4"}
    files += named("train/i/1.mp4")
    assert join(files, rows("val/1.mp4")).matched == set()
    assert join(files, rows("1.mp4,e")).matched == {"train/e/1.mp4"}


def test_path_comes_before_columns(rows: Rows) -> None:
    # A list may divide or label the files in another way than the folders do.
    files = named("val/session1/1.mp4", "val/session2/1.mp4")
    joined = join(files, rows("path,class,split\nval/session1/1.mp4,walking,train\nval/session2/1.mp4,running,val\n"))
    assert [(file.class_name, file.split) for file in joined.files] == [("walking", "train"), ("running", "val")]


def test_times_beside_paths(rows: Rows) -> None:
    files = named("a/1.mp4", "b/1.mp4")
    joined = join(files, rows("path,start,end\na/1.mp4,3,9\nb/1.mp4,5,8\n"))
    assert [file.times for file in joined.files] == [(3, 9), (5, 8)]
    assert join(named("a/x_000003_000009.mp4"), rows("id,start,end\nx,3,9\n")).matched == {"a/x_000003_000009.mp4"}


def test_files_in_deep_folders(rows: Rows) -> None:
    files = named(*(f"subject{number}/videos/1.mp4" for number in range(20)))
    joined = join(files, rows("".join(f"subject{number}/videos/1.mp4 0\n" for number in range(0, 20, 2))))
    assert joined.matched == {file.path for file in files[::2]}
    assert join(files, rows("videos/1.mp4 0")).matched == set()


def test_nothing_to_join(rows: Rows) -> None:
    files, table = named(f"a/{ID}.mp4"), rows(f"{ID[::-1]} 5\n")
    assert join(files, []) == Joined(files, set(), [])
    assert join([], table) == Joined([], set(), table)
    assert join(files, table) == Joined(files, set(), table)
