"""What the names and lists of a folder of videos say of its clips: class, split and times, as Kinetics comes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from operator import itemgetter
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
# A name that more files have says nothing.
_COMMON = 8


@dataclass(frozen=True, slots=True)
class Listed:
    """What a file's place and name, or a row of a list, say of a clip."""

    path: str  # a file's, relative to the root with forward slashes; a row's as listed, empty if the row only has an id
    class_name: str = ""  # with spaces, not underscores; a number if the list has no name; empty if unknown
    id: str = ""  # the YouTube id, or the file's name without suffixes
    start: int | None = None  # seconds in the video that the clip was cut from
    end: int | None = None
    split: str = ""  # train, val, test or empty
    source: str = ""  # list and line of a row

    @property
    def times(self) -> tuple[int, int] | None:
        """Start and end if both are known."""
        return None if self.start is None or self.end is None else (self.start, self.end)


class Joined(NamedTuple):
    """Files and the rows that list them."""

    files: list[Listed]  # all files in their order, completed by their rows
    matched: set[str]  # paths of the files that have a row; the others are extra
    missing: list[Listed]  # rows without a file, each clip once


def from_path(path: str) -> Listed:
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
    return Listed(path, "" if no_class else _spaced(parent), stem, start, end, split)


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


def read_annotations(path: Path) -> list[Listed]:
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

    def read(self, line: str) -> Listed:
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
        return Listed(
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


def join(files: Sequence[Listed], rows: Sequence[Listed]) -> Joined:
    """Find the file of each row.

    Both have the same id and, where both say them, the same times; where only one does, no other clip of that id may
    be meant. Split, then class decide between several files, and for names that are no YouTube ids they must agree.
    What the first row of a file says holds; further ones only add what it leaves open.
    """
    index, left = _Index(files, rows), list(rows)
    told: dict[int, list[Listed]] = {}
    # A file in another split than the row's is given only when every row has found those of its own split.
    for other_split in (False, True):
        lost: list[Listed] = []
        for row in left:
            place = index.find(row, other_split)
            (lost if place is None else told.setdefault(place, [])).append(row)
        left = lost
    missing = {(row.split, _names(row, None)[0], row.times): row for row in reversed(left)}
    completed = [_completed(file, told.get(place, ())) for place, file in enumerate(files)]
    return Joined(completed, {files[place].path for place in told}, [*missing.values()][::-1])


def _completed(file: Listed, rows: Sequence[Listed]) -> Listed:
    for row in reversed(rows):
        # A number from a list must not take the place of a folder's name.
        named = row.class_name and not (file.class_name and row.class_name.isdecimal())
        file = replace(
            file,
            class_name=row.class_name if named else file.class_name,
            split=row.split or file.split,
            start=file.start if row.times is None else row.start,
            end=file.end if row.times is None else row.end,
            source=row.source,
        )
    return file


class _Index:
    """Places of files by what a row may call them."""

    def __init__(self, files: Sequence[Listed], rows: Sequence[Listed]) -> None:
        self.files = files
        self.places: dict[str, list[int]] = {}
        without_times = {row.id for row in rows if not row.times}
        for place, file in enumerate(files):
            for times in {file.times, None} if file.id in without_times else {file.times}:
                for name in _names(file, times):
                    self.places.setdefault(name, []).append(place)
        without_times = {file.id for file in files if not file.times}
        # The clips of a video that rows mean, for its file without times.
        self.meant: dict[str, set[tuple[str, tuple[int, int]]]] = {}
        for row in rows:
            if row.times and row.id in without_times:
                self.meant.setdefault(row.id, set()).add((row.split, row.times))

    def find(self, row: Listed, other_split: bool) -> int | None:
        """The file of a row, perhaps in another split than the row's; None if there is none for sure."""
        names = (name for times in dict.fromkeys((row.times, None)) for name in _names(row, times))
        found = next((self.places[name] for name in names if name in self.places), [])
        fits = [(self._fit(row, self.files[place]), place) for place in found if len(found) <= _COMMON]
        best, place = max(fits, key=itemgetter(0), default=((), 0))
        if not best or (best[1] == 0 and not other_split):
            return None
        rivals = [self.files[rival] for fit, rival in fits if fit == best]
        # The same clip of a video from YouTube is the same anywhere; other files must be copies in one folder.
        same = best[0] and row.times and _YOUTUBE.fullmatch(row.id)
        places = {(file.times, *([] if same else _parts(file.path)[:-1])) for file in rivals}
        return place if len(places) == 1 else None

    def _fit(self, row: Listed, file: Listed) -> tuple[int, ...]:
        """How well times, split and class agree; empty if the file cannot be the row's."""
        if row.times and file.times and row.times != file.times:
            return ()
        if row.times and not file.times:
            others = [split for split, times in self.meant[row.id] if times != row.times]
            if any(not split or file.split in ("", split) for split in others):
                return ()
        split, class_name = _agreement(row, file, "split"), _agreement(row, file, "class_name")
        return (row.times == file.times, split, class_name) if _YOUTUBE.fullmatch(row.id) or split * class_name else ()


def _agreement(row: Listed, file: Listed, field: str) -> int:
    """2 if both say the same, or the row's path if not its columns, 1 if one says nothing, and 0 if they differ."""
    asked, given = _same(getattr(row, field)), _same(getattr(file, field))
    if not asked or not given or (asked != given and asked.isdecimal()):
        return 1
    return 2 if given == asked or given == _same(getattr(from_path(row.path), field)) else 0


def _names(clip: Listed, times: tuple[int, int] | None) -> list[str]:
    """The id, perhaps with times; if YouTube has no such ids, after all folders, after fewer of them, and alone."""
    names = [clip.id if times is None else f"{clip.id}_{times[0]}_{times[1]}"]
    for folder in [] if _YOUTUBE.fullmatch(clip.id) else reversed(_parts(clip.path)[:-1] or [clip.class_name]):
        names.append(f"{_same(folder)}/{names[-1]}")
    return names[::-1]


@lru_cache(4096)
def _same(name: str) -> str:
    """What all spellings of a folder's name share: many tools leave out quotes and brackets."""
    return _SPLITS.get(name.lower()) or re.sub(r"['()]", "", _spaced(name))
