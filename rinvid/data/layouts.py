"""What the names and lists of a folder of videos say of its clips: class, split and times, as Kinetics comes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"})
KNOWN = (
    "tables whose header names a column youtube_id or path; lines 'path', 'path label' or 'path frames label', where "
)
KNOWN += "commas or tabs may be between them, and a path is ID, ID_START_END, FOLDER/NAME or the name of a video file"
_SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
_SPLITS |= dict.fromkeys(("val", "valid", "validate", "validation", "eval"), "val")
# The folder of a split has no words but these, split names and words with a digit: videos_train, k600-val-256.
# Were other words allowed, the classes "training dog" and "test tube" would be splits.
_SET_WORDS = frozenset({"k", "kinetics", "data", "dataset", "set", "split", "video", "videos", "clip", "clips"})
# Folders that are no class: chunks of the downloaded archives, and holders of everything.
_HOLDER = re.compile(r"(?i)|part[-_ ]?\d+|videos?|clips?|data|kinetics|(k|kinetics[-_ ]?)\d00.*|replacement.*")
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
# Columns of a list without a header, by their number; with four or more it is an official table that lost its own.
_ORDER = ("", "path", "path class", "path frames class", "id start end split", *["class id start end split is_cc"] * 2)
# A path, perhaps frames, and a label. The path may hold spaces, in its last name only before a video's suffix.
_LINE = re.compile(rf"(?i)^(.*(?:{'|'.join(map(re.escape, SUFFIXES))})|.*?)(?:\s+(\d+(?=\s))?\s*([^/\\]*))?$")
_SAMPLE = 100  # so many entries of a list tell its layout
_COMMON = 8  # a name that more files have tells none of them


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
    (folders, stem), start, end = _parts(path), None, None
    timed = _TIMED.fullmatch(stem)
    if timed and int(timed[2]) < int(timed[3]):
        stem, start, end = timed[1], int(timed[2]), int(timed[3])
    # The folder nearest to the file is meant, but one that is named exactly like a split comes before k600_train.
    likely = [folder for folder in folders if folder.lower() in _SPLITS] or folders
    split = next((found for folder in reversed(likely) if (found := _split_of(folder))), "")
    parent = folders[-1] if folders else ""
    no_class = _HOLDER.fullmatch(parent) or (split and _split_of(parent) == split)
    return Listed(path, "" if no_class else _spaced(parent), stem, start, end, split)


def _parts(path: str) -> tuple[list[str], str]:
    """Folders, and the name without its suffixes, of which download tools leave several: ID.mp4.webm."""
    *folders, name = path.replace("\\", "/").split("/")
    while (dot := name.rfind(".")) > 0 and name[dot:].lower() in SUFFIXES:
        name = name[:dot]
    return [folder for folder in folders if folder not in ("", ".")], name


@lru_cache(4096)
def _split_of(folder: str) -> str:
    words = {word for word in re.split(r"[\W_]+", folder.lower()) if word}
    splits = {_SPLITS[word] for word in words & _SPLITS.keys()}
    is_split = len(splits) == 1 and all(re.search(r"\d", word) for word in words - _SPLITS.keys() - _SET_WORDS)
    return splits.pop() if is_split else ""


@lru_cache(4096)
def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def find_annotations(root: Path) -> list[Path]:
    """The lists of a known layout in a folder and in its folder ``annotations``; other files are passed over."""
    found = []
    for path in sorted((*root.glob("[!.]*"), *root.glob("annotations/[!.]*"))):
        if path.suffix.lower() in (".csv", ".tsv", ".txt", ".list", ".lst") and path.is_file():
            with suppress(ValueError):
                _layout(path, _lines(path, _SAMPLE))
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
    words = re.findall(rf"(?<![a-z])({'|'.join(_SPLITS)})(?:list|set)?(?![a-z])", path.stem.lower())
    split = _SPLITS[words[0]] if len({_SPLITS[word] for word in words}) == 1 else ""
    rows = []
    for number, line in lines[1 if layout.header else 0 :]:
        try:
            rows.append(layout.read(line, split, f"{path.name} line {number}"))
        except (ValueError, OverflowError, csv.Error) as error:
            raise ValueError(f"{path}, line {number}: {error}: {line!r}") from error
    return rows


def _lines(path: Path, limit: int | None = None) -> list[tuple[int, str]]:
    """Numbers and texts, without empty fields at the end, of the first lines that are neither blank nor comments."""
    # Of what is not UTF-8 at most class names are harmed; other files have no entries that could be ids.
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = ((number, line.lstrip(" ").rstrip(" \n\t,;")) for number, line in enumerate(file, 1))
        return list(islice(((number, line) for number, line in lines if line and line[0] != "#"), limit))


def _layout(path: Path, lines: Sequence[tuple[int, str]]) -> _Layout:
    """How to read a list that begins with these lines; ValueError if it is none."""
    texts = [line for _, line in lines] or [""]
    separator = next((mark for mark in "\t,;" if 2 * sum(mark in text for text in texts) > len(texts)), "")
    header = [_COLUMNS.get(re.sub(r"[\W_]+", "", name), "") for name in re.split(separator or r"\s+", texts[0].lower())]
    if not {"path", "id"} & set(header) and 2 * sum(map(bool, header)) <= len(header):
        header = []
    layout, entries = _Layout(separator, header), texts[1:] if header else texts
    if 2 * sum(map(layout.names_video, entries)) <= len(entries):
        raise ValueError(f"{path}: unknown layout, the first line is {texts[0][:80]!r}; known: {KNOWN}")
    return layout


class _Layout(NamedTuple):
    """How the lines of a list are read."""

    separator: str  # empty for spaces
    header: list[str]  # by the names in _COLUMNS; empty if there is none

    def read(self, line: str, split: str = "", source: str = "") -> Listed:
        """The clip that a line names; ValueError, OverflowError or csv.Error say why it cannot be read."""
        if self.separator:
            fields = next(csv.reader([line], delimiter=self.separator, skipinitialspace=True, strict=True))
        else:
            fields = [field for field in _LINE.findall(line)[0] if field]
        columns = self.header or _ORDER[min(len(fields), 6)].split()
        if any(fields[len(columns) :]):
            raise ValueError(f"{len(fields)} fields are too many")
        told = {column: field.strip() for column, field in zip(columns, fields, strict=False) if field.strip()}
        name, label = told.get("path") or told.get("id", ""), told.get("class", "")
        if not name:
            raise ValueError("names no video")
        place = from_path(name)
        if re.fullmatch(r"-?\d+", label):
            # A folder's name says more than a number, and -1 is everyone's number of the unknown.
            label = place.class_name or label.partition("-")[0]
        return Listed(
            "" if _parts(name) == ([], name) else name,
            _spaced(label) or place.class_name,
            place.id,
            int(float(told["start"])) if "start" in told else place.start,
            int(float(told["end"])) if "end" in told else place.end,
            _split_of(told.get("split", "")) or place.split or split,
            source,
        )

    def names_video(self, line: str) -> bool:
        """Whether a line looks as most lines of a list of videos do."""
        # Bare ids could be classes, but have 11 characters, and nearly always a digit or a capital beyond the first. A
        # path must end like a video, or have folders and no suffix, which names of other files and links have.
        with suppress(ValueError, OverflowError, csv.Error):
            clip = self.read(line)
            is_id = _YOUTUBE.fullmatch(clip.id) and re.search(r"\d|.[A-Z]", clip.id)
            bare = clip.path and "." not in clip.id and "://" not in clip.path
            return bool(clip.times or is_id or bare or Path(clip.path).suffix.lower() in SUFFIXES)
        return False


def join(files: Sequence[Listed], rows: Sequence[Listed]) -> Joined:
    """Find the file of each row.

    Both have the same id and the same times; where one does not say them, its id must mean a single clip of the other
    side. Split, then class decide between several files, and for names that are no YouTube ids they must agree. What
    the first row of a file says holds; further ones only add what it leaves open.
    """
    timed = _with_times(files, rows)
    left = _with_times(rows, [*timed, *rows])
    places: dict[str, list[int]] = {}
    for place, file in enumerate(timed):
        for name in _names(file):
            places.setdefault(name, []).append(place)
    told: dict[int, list[Listed]] = {}
    # A file in another split than the row's is given only when every row has found those of its own split.
    for other_split in (False, True):
        lost: list[Listed] = []
        for row in left:
            found = next((places[name] for name in _names(row) if name in places), ())
            choice = _choose(row, files, found, other_split)
            (lost if choice is None else told.setdefault(choice, [])).append(row)
        left = lost
    missing = {(row.split, _names(row)[0]): row for row in reversed(left)}
    completed = [_completed(file, told.get(place, ())) for place, file in enumerate(files)]
    return Joined(completed, {files[place].path for place in told}, [*missing.values()][::-1])


def _with_times(clips: Sequence[Listed], others: Sequence[Listed]) -> list[Listed]:
    """The clips; those without times have them from the others, if those have just one clip of that id."""
    cuts: dict[str, set[tuple[str, tuple[int, int]]]] = {clip.id: set() for clip in clips if not clip.times}
    for other in others:
        if other.times and other.id in cuts:
            cuts[other.id].add((other.split, other.times))
    timed = list(clips)
    for place, clip in enumerate(clips if cuts else ()):
        meant = {times for split, times in cuts.get(clip.id, ()) if not split or clip.split in ("", split)}
        if not clip.times and len(meant) == 1:
            [(start, end)] = meant
            timed[place] = replace(clip, start=start, end=end)
    return timed


def _choose(row: Listed, files: Sequence[Listed], found: Sequence[int], other_split: bool) -> int | None:
    """The place of the file that fits a row best; None if none fits, or several that are no copies."""
    if not 0 < len(found) <= _COMMON:
        return None
    youtube = _YOUTUBE.fullmatch(row.id)
    fits = [(_agreement(row, files[place], "split"), _agreement(row, files[place], "class_name")) for place in found]
    best = max(fit if youtube or all(fit) else (0, 0) for fit in fits)
    if not best[0] and not (youtube and other_split):
        return None
    rivals = [place for place, fit in zip(found, fits, strict=True) if fit == best]
    # A clip from YouTube is the same wherever it lies; other files must lie in one folder.
    copies = (youtube and row.times) or len({tuple(_parts(files[place].path)[0]) for place in rivals}) == 1
    return rivals[0] if copies else None


def _agreement(row: Listed, file: Listed, field: str) -> int:
    """2 if both say the same, or the row's path if not its columns, 1 if one says nothing, and 0 if they differ."""
    asked, given = _same(getattr(row, field)), _same(getattr(file, field))
    if not asked or not given or (asked != given and (asked.isdecimal() or given.isdecimal())):
        return 1
    return 2 if given == asked or given == _same(getattr(from_path(row.path), field)) else 0


def _completed(file: Listed, rows: Sequence[Listed]) -> Listed:
    for row in reversed(rows):
        # A number must not take the place of a name.
        named = file.class_name and not file.class_name.isdecimal() and row.class_name.isdecimal()
        class_name = file.class_name if named or not row.class_name else row.class_name
        start, end = row.times or (file.start, file.end)
        file = Listed(file.path, class_name, file.id, start, end, row.split or file.split, row.source)
    return file


def _names(clip: Listed) -> list[str]:
    """Id and times, then the id alone if the path has no times; ids not of YouTube after their folders, or fewer."""
    folders, stem = _parts(clip.path)
    names: list[str] = []
    for times in (clip.times, None) if clip.times and stem == clip.id else (clip.times,):
        tails = ["_".join(map(str, (clip.id, *(times or ()))))]
        for folder in [] if _YOUTUBE.fullmatch(clip.id) else reversed(folders or [clip.class_name]):
            tails.append(f"{_same(folder)}/{tails[-1]}")
        names += reversed(tails)
    return names


@lru_cache(4096)
def _same(name: str) -> str:
    """What all spellings of a folder's name share: many tools leave out quotes and brackets."""
    return re.sub(r"['()]", "", _spaced(name))
