"""What the names and lists of a folder of videos say of its clips: class, split and times, as Kinetics comes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"})
LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".list", ".lst"})
KNOWN = (
    "a table whose header names a column youtube_id or path; lines 'path', 'path label', 'path,label', 'path frames "
    "label', where a path is ID, ID_START_END, CLASS/NAME or a video file with or without folders"
)

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# The folder of a split has no words but these, split names and words with a digit: videos_train, k600-val-256.
# Were other words allowed, the classes "training dog" and "test tube" would be splits.
_SET_WORDS = frozenset({"k", "kinetics", "data", "dataset", "set", "split", "video", "videos", "clip", "clips"})
_LIST_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?:list|set|split)?(?![a-z])")
# Folders that are no class: chunks of the downloaded archives, and holders of everything.
_HOLDER = re.compile(
    r"|part[-_ ]?\d+|videos?|clips?|data|(k|kinetics)[-_ ]?\d{3}([-_ ]2020)?|kinetics|replacement(_for_corrupted\w*)?",
    re.IGNORECASE,
)
_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")
# An id may end like times do (abcde_12_34 is one), so its length decides; other names need Kinetics' six digits.
_TIMED = re.compile(rf"({_YOUTUBE.pattern}(?=_\d+_\d+$)|.+(?=_\d{{6}}_\d{{6}}$))_(\d{{1,6}})_(\d{{1,6}})", re.ASCII)
_COLUMNS = {
    **dict.fromkeys(("path", "file", "filename", "filepath", "video", "videopath", "videoname"), "path"),
    **dict.fromkeys(("youtubeid", "ytid", "videoid", "vid", "id"), "id"),
    **dict.fromkeys(("label", "class", "classname", "labelname", "category", "action"), "class"),
    **dict.fromkeys(("timestart", "starttime", "start"), "start"),
    **dict.fromkeys(("timeend", "endtime", "end"), "end"),
    **dict.fromkeys(("split", "subset"), "split"),
}
# Columns of a list without a header, by their number.
_ORDER = {
    **{1: "path", 2: "path class", 3: "path frames class", 4: "id start end split"},
    **{5: "class id start end split", 6: "class id start end split is_cc"},
}
# A path that may hold spaces, and after more of them a label, or frames and a label.
_NAMED_LINE = re.compile(
    rf"(.*(?:{'|'.join(sorted(SUFFIXES))}|_\d{{1,6}}_\d{{1,6}})|(?:.*[/\\])?{_YOUTUBE.pattern})(?:\s+([^/\\]*))?", re.I
)
_OTHER_LINE = re.compile(r"(.*?)((?:\s+-?\d+){0,2})")
# So many entries of a list tell its layout.
_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as its file's name, or a row of a list, describes it."""

    path: str  # a file's, relative to the root with forward slashes; a row's as listed, empty if the row only has an id
    class_name: str = ""  # with spaces, not underscores; a number if the list has no name; empty if unknown
    id: str = ""  # the YouTube id, or the file's name without suffixes
    start: int | None = None  # seconds in the video that the clip was cut from
    end: int | None = None
    split: str = ""  # train, val, test or empty
    source: str = ""  # list and line of a row

    @property
    def name(self) -> str:
        """The id, and the times where both are known."""
        return self.id if self.start is None or self.end is None else f"{self.id}_{self.start}_{self.end}"


class Join(NamedTuple):
    """Files and the rows that list them."""

    matched: list[Clip]  # files, completed by their rows, in the order of the files
    missing: list[Clip]  # rows without a file, each clip once
    extra: list[Clip]  # files without a row


def from_path(path: str) -> Clip:
    """What a path such as ``train/arm_wrestling/ID_000001_000011.mp4`` says, with or without any of its parts."""
    *folders, name = _parts(path)
    stem, start, end = _stem(name), None, None
    timed = _TIMED.fullmatch(stem)
    if timed and int(timed[2]) < int(timed[3]):
        stem, start, end = timed[1], int(timed[2]), int(timed[3])
    # The folder nearest to the file is meant, but one that is named exactly like a split comes before k600_train.
    likely = [folder for folder in folders if folder.lower() in _SPLITS] or folders
    split = next((found for folder in reversed(likely) if (found := _split_of(folder))), "")
    parent = folders[-1] if folders else ""
    no_class = _HOLDER.fullmatch(parent) or (split and _split_of(parent) == split)
    return Clip(path, "" if no_class else _spaced(parent), stem, start, end, split)


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] or [""]


def _stem(name: str) -> str:
    """The name without its suffixes, of which download tools leave several: ID.mp4.webm."""
    while (dot := name.rfind(".")) > 0 and name[dot:].lower() in SUFFIXES:
        name = name[:dot]
    return name


@lru_cache(4096)
def _split_of(folder: str) -> str:
    words = {word for word in re.split(r"[\W_]+", folder.lower()) if word}
    splits = {_SPLITS[word] for word in words & _SPLITS.keys()}
    others = words - _SPLITS.keys() - _SET_WORDS
    return splits.pop() if len(splits) == 1 and all(re.search(r"\d", word) for word in others) else ""


@lru_cache(4096)
def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def find_annotations(root: Path) -> list[Path]:
    """The lists of a known layout in a folder and in its folder ``annotations``; other files are passed over."""
    found = []
    for path in (*sorted(root.glob("[!.]*")), *sorted(root.glob("annotations/[!.]*"))):
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
            try:
                _layout(path, _lines(path, _SAMPLE))
            except ValueError:
                continue
            found.append(path)
    return found


def read_annotations(path: Path) -> list[Clip]:
    """Rows of a list; where neither the row nor its path says the split, the name of the list does.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is empty or of no known layout, or a line in it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of videos")
    lines = _lines(path)
    layout = _layout(path, lines[:_SAMPLE])
    splits = {_SPLITS[name] for name in _LIST_SPLIT.findall(path.stem.lower())}
    split = splits.pop() if len(splits) == 1 else ""
    rows = []
    for number, line in lines[1 if layout.header else 0 :]:
        try:
            row = layout.read(line)
        except (ValueError, OverflowError, csv.Error) as error:
            raise ValueError(f"{path}, line {number}: {error}: {line!r}") from error
        rows.append(replace(row, split=row.split or split, source=f"{path.name} line {number}"))
    return rows


def _lines(path: Path, limit: int | None = None) -> list[tuple[int, str]]:
    """Numbers and texts of the first lines that are neither blank nor comments."""
    # Of what is not UTF-8 at most class names are harmed; other files have no entries that could be ids.
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1))
        return list(islice(((n, line) for n, line in lines if line.strip() and line.lstrip()[0] != "#"), limit))


def _layout(path: Path, lines: Sequence[tuple[int, str]]) -> _Layout:
    """How to read a list that begins with these lines; ValueError if it is none."""
    texts = [line for _, line in lines]
    separator = next((mark for mark in "\t,;" if 2 * sum(mark in text for text in texts) > len(texts)), "")
    names = re.split(separator or r"\s+", texts[0].strip()) if texts else []
    header = [_COLUMNS.get(re.sub(r"[\W_]+", "", name.lower()), "") for name in names]
    if not {"path", "id"} & set(header) and 2 * sum(map(bool, header)) <= len(header):
        header = []
    layout = _Layout(separator, header)
    entries = texts[1:] if header else texts
    if 2 * sum(map(layout.names_video, entries)) <= len(entries):
        first = f"the first line is {texts[0][:80]!r}" if texts else "it is empty"
        raise ValueError(f"{path}: unknown layout, {first}; known: {KNOWN}")
    return layout


class _Layout(NamedTuple):
    """How the lines of a list are read."""

    separator: str  # empty for spaces
    header: list[str]  # by the names in _COLUMNS; empty if there is none

    def fields(self, line: str) -> list[str]:
        if self.separator:
            fields = next(csv.reader([line], delimiter=self.separator, skipinitialspace=True, strict=True))
            return [field.strip() for field in fields]
        if self.header:
            # The first field may hold spaces.
            return line.rsplit(None, len(self.header) - 1)
        found = _NAMED_LINE.fullmatch(line.strip()) or _OTHER_LINE.fullmatch(line.strip())
        path, rest = found.groups("") if found else (line, "")
        return [path, *re.findall(r"^\d+(?=\s+\S)|\S.*$", rest)]

    def read(self, line: str) -> Clip:
        """The clip that a line names; ValueError, OverflowError or csv.Error say why it cannot be read."""
        fields = self.fields(line)
        columns = self.header or _ORDER.get(len(fields), "").split()
        if any(fields[len(columns) :]):
            raise ValueError(f"{len(fields)} fields are too many")
        told = {column: field for column, field in zip(columns, fields, strict=False) if field}
        name, label = told.get("path") or told.get("id", ""), told.get("class", "")
        if not name:
            raise ValueError("names no video")
        place = from_path(name)
        if re.fullmatch(r"-?\d+", label):
            # A folder's name says more than a number, and -1 is everyone's number of the unknown.
            label = place.class_name or label.partition("-")[0]
        return Clip(
            "" if _stem(name) == name and _parts(name) == [name] else name,
            _spaced(label) or place.class_name,
            place.id,
            int(float(told["start"])) if "start" in told else place.start,
            int(float(told["end"])) if "end" in told else place.end,
            _split_of(told.get("split", "")) or place.split,
        )

    def names_video(self, line: str) -> bool:
        """Whether a line looks as most lines of a list of videos do.

        Bare ids could be classes, but have 11 characters, and nearly always a digit or a capital beyond the first. A
        path must end like a video, or have folders and no suffix, which links to archives and other files have.
        """
        try:
            clip = self.read(line)
        except (ValueError, OverflowError, csv.Error):
            return False
        *folders, name = _parts(clip.path or clip.id)
        if clip.start is not None or name != clip.id:
            return True
        if folders:
            return "." not in name
        return bool(_YOUTUBE.fullmatch(name) and re.search(r"\d|.[A-Z]", name))


def join(files: Sequence[Clip], rows: Sequence[Clip]) -> Join:
    """Find the file of each row.

    Both have the same id and, where both say them, the same times; where only one does, no other clip of that id may
    be meant. Folders and splits decide between several files, and for names that are no YouTube ids they must agree.
    What the first row of a file says holds; further ones only add what it leaves open.
    """
    index, left = _Index(files, rows), list(rows)
    told: dict[int, list[Clip]] = {}
    # A file in another split than the row's is given only when every row has found those of its own split.
    for anywhere in (False, True):
        lost = []
        for row in left:
            place = index.find(row, anywhere)
            (lost if place is None else told.setdefault(place, [])).append(row)
        left = lost
    missing: dict[str, Clip] = {}
    for row in left:
        missing.setdefault(f"{row.split}|{_tails(row)[-1 if _YOUTUBE.fullmatch(row.id) else 0]}", row)
    matched = [_completed(file, told[place]) for place, file in enumerate(files) if place in told]
    return Join(matched, [*missing.values()], [file for place, file in enumerate(files) if place not in told])


def _completed(file: Clip, rows: Sequence[Clip]) -> Clip:
    # A number from a list must not take the place of a folder's name.
    names = [row.class_name for row in rows if not (file.class_name and row.class_name.isdecimal())]
    times = next(((row.start, row.end) for row in rows if row.start is not None), (file.start, file.end))
    split = next((row.split for row in rows if row.split), file.split)
    return Clip(file.path, next(filter(None, names), file.class_name), file.id, *times, split, rows[0].source)


def _tails(clip: Clip, name: str | None = None) -> list[str]:
    """Name of the clip after all of its folders, after fewer, and alone."""
    tails = [clip.name if name is None else name]
    for folder in reversed(_parts(clip.path)[:-1] or [clip.class_name]):
        tails.append(f"{_same(folder)}/{tails[-1]}")
    return tails[::-1]


@lru_cache(4096)
def _same(folder: str) -> str:
    """What the spellings of a folder's name share: many tools leave out quotes and brackets."""
    return _SPLITS.get(folder.lower()) or re.sub(r"['()]", "", _spaced(folder))


class _Index:
    """Places of files by split and by the end of their path."""

    def __init__(self, files: Sequence[Clip], rows: Sequence[Clip]) -> None:
        self.files, self.places = files, dict[str, list[int]]()
        for place, file in enumerate(files):
            for tail in _tails(file):
                self.places.setdefault(f"{file.split}|{tail}", []).append(place)
        self.only_file, self.only_row = _only(files), _only(rows)

    def find(self, row: Clip, anywhere: bool) -> int | None:
        """The file of a row: in the row's split or in none, or else ``anywhere``; None if there is none for sure."""
        youtube, split = bool(_YOUTUBE.fullmatch(row.id)), from_path(row.path).split or row.split
        if anywhere and not (youtube and split):
            return None
        for wanted in (split, "") if split and not anywhere else ("*",):
            names = [row.name]
            if alone := (self.only_file if row.name == row.id else self.only_row).get(f"{wanted or '*'}|{row.id}"):
                names.append(alone if row.name == row.id else row.id)
            for name in names:
                for tail in _tails(row, name):
                    splits = ("train", "val", "test", "") if wanted == "*" else (wanted,)
                    found = [place for split in splits for place in self.places.get(f"{split}|{tail}", ())]
                    if found:
                        return found[0] if (youtube and name != row.id) or self._sure(row, found, tail) else None
        return None

    def _sure(self, row: Clip, found: Sequence[int], tail: str) -> bool:
        """Whether the files are copies of one, and not of another class if they share only a name such as 1.mp4."""
        first = self.files[found[0]]
        if any(_tails(self.files[place]) != _tails(first) for place in found[1:]):
            return False
        asked, given = _same(row.class_name), _same(first.class_name)
        named = bool(_YOUTUBE.fullmatch(row.id)) or "/" in tail
        return named or not asked or not given or asked == given or asked.isdecimal()


def _only(clips: Sequence[Clip]) -> dict[str, str]:
    """The name with times of every id, by split and by none, empty where several clips have the id."""
    names: dict[str, str] = {}
    for clip in clips:
        if clip.name != clip.id:
            for key in (f"{clip.split}|{clip.id}", f"*|{clip.id}"):
                names[key] = clip.name if names.get(key, clip.name) == clip.name else ""
    return names
