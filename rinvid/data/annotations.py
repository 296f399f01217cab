"""What the names and lists of a Kinetics-like folder say of its videos. No video is opened here."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"})
KNOWN = "label,youtube_id,time_start,time_end,split (CSV with a header); path label; path frames label; path; id"
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Folders that only hold others: parts of an archive, and words for "the videos".
_HOLDER = re.compile(r"(part[_-]?\d+|videos?|clips?|data)", re.IGNORECASE)
_TIMED = re.compile(r"(?P<id>.+)_(?P<start>\d{1,6})_(?P<end>\d{1,6})")
# What an entry of a list without a header looks like: a path, a video's name, an id with times, or a YouTube id.
_ENTRY = re.compile(r".+/.+|.+_\d{1,6}_\d{1,6}|[\w-]{11}", re.ASCII)
_COLUMNS = {
    "id": ("youtube_id", "video_id", "id"),
    "label": ("label", "class", "label_name"),
    "start": ("time_start", "start"),
    "end": ("time_end", "end"),
    "split": ("split", "subset"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of a video from its file's place and name, or from a row of a list.

    Attributes:
        path: Relative to the root with forward slashes; for a row, as it is listed.
        class_name: With spaces for underscores; empty if unknown.
        id: The name of the original video, at YouTube for Kinetics.
        start: Seconds in the original video.
        end: Likewise.
        split: train, val, test, or empty.
        source: For a row, the list and the line.
    """

    path: str
    class_name: str = ""
    id: str = ""
    start: int | None = None
    end: int | None = None
    split: str = ""
    source: str = ""


@dataclass(frozen=True)
class Joined:
    """Files and rows brought together.

    Attributes:
        files: One for each file, with what its row says.
        matched: Paths of the files that have a row.
        missing: Rows without a file.
    """

    files: list[Listed]
    matched: set[str]
    missing: list[Listed]


def from_path(path: str) -> Listed:
    """What a path relative to the root says: ``[split/][class/]id[_start_end].mp4``, among other folders."""
    folders = PurePosixPath(path).parts[:-1]
    split = next((found for folder in folders if (found := _SPLITS.get(folder.lower()))), "")
    own = folders[-1] if folders else ""
    is_class = own and own.lower() not in _SPLITS and not _HOLDER.fullmatch(own)
    name = _stem(path)
    timed = _TIMED.fullmatch(name)
    return Listed(
        path,
        own.replace("_", " ") if is_class else "",
        timed["id"] if timed else name,
        int(timed["start"]) if timed else None,
        int(timed["end"]) if timed else None,
        split,
    )


def find_annotations(root: Path) -> list[Path]:
    """Lists that lie in the folder or in its subfolder ``annotations``; other texts are passed over."""
    found = []
    for path in sorted([*root.glob("*"), *root.glob("annotations/*")]):
        if path.suffix.lower() not in (".csv", ".txt") or not path.is_file():
            continue
        try:
            rows = read_annotations(path)
        except ValueError:
            continue
        # A list of classes, or any text, has lines that a list of videos has not.
        if all(_ENTRY.fullmatch(row.path or row.id) for row in rows):
            found.append(path)
    return found


def read_annotations(path: Path) -> list[Listed]:
    """The rows of a list: one of the official CSV files, or a text file with a path or id a line.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The layout is not known; the text names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such list of videos") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: unknown layout, it is not a text; known: {KNOWN}") from error
    entries = [(n, line) for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    if not entries:
        raise ValueError(f"{path}: unknown layout, it is empty; known: {KNOWN}")
    header = [cell.strip().lower() for cell in next(csv.reader([entries[0][1]]))]
    split = _split_of_list(path)
    if any(name in header for name in _COLUMNS["id"]):
        return list(_read_csv(path, entries, header, split))
    if any(name in header for names in _COLUMNS.values() for name in names):
        raise ValueError(f"{path}: unknown layout, its first line is {entries[0][1]!r}; known: {KNOWN}")
    return [_read_line(path, number, line.strip(), split) for number, line in entries]


def _read_csv(path: Path, entries: list[tuple[int, str]], header: list[str], split: str) -> Iterator[Listed]:
    place = {key: next((header.index(n) for n in names if n in header), None) for key, names in _COLUMNS.items()}
    for number, line in entries[1:]:
        cells = [cell.strip() for cell in next(csv.reader([line]))]

        def value(key: str, cells: list[str] = cells) -> str:
            column = place[key]
            return cells[column] if column is not None and column < len(cells) else ""

        source = f"{path.name} line {number}"
        if not value("id"):
            raise ValueError(f"{path}: line {number} names no video: {line!r}")
        try:
            start, end = (int(float(v)) if (v := value(key)) else None for key in ("start", "end"))
        except ValueError:
            raise ValueError(f"{path}: line {number} has a time that is not a number: {line!r}") from None
        found = _SPLITS.get(value("split").lower(), split)
        yield Listed("", value("label").replace("_", " "), value("id"), start, end, found, source)


def _read_line(path: Path, number: int, line: str, split: str) -> Listed:
    """``path``, ``path label`` or ``path frames label``, between commas, tabs or spaces; a path may hold spaces."""
    mark = next((mark for mark in (",", "\t") if mark in line), None)
    if mark:
        cells = [cell.strip() for cell in line.split(mark)]
    else:
        # Numbers are cut off the end, and a word after the name of a video.
        tail = re.fullmatch(r"(.*?)((?:\s+\d+){0,2})", line)
        assert tail is not None
        cells = [tail[1], *tail[2].split()]
        suffixed = re.fullmatch(rf"(.+(?:{'|'.join(map(re.escape, SUFFIXES))}))\s+(.+)", cells[0], re.IGNORECASE)
        if suffixed and len(cells) == 1:
            cells = [suffixed[1], suffixed[2]]
    if len(cells) > 3 or not cells[0]:
        raise ValueError(f"{path}: unknown layout, line {number} is {line!r}; known: {KNOWN}")
    entry = from_path(cells[0].replace("\\", "/"))
    label = cells[-1].replace("_", " ") if len(cells) > 1 else ""
    return replace(
        entry,
        class_name=entry.class_name or label,
        split=entry.split or split,
        source=f"{path.name} line {number}",
    )


def _split_of_list(path: Path) -> str:
    """train, val or test from a list's name, as in ``kinetics_600_val.csv`` and ``trainlist01.txt``."""
    for word in re.split(r"[^a-z]+", path.stem.lower()):
        if found := _SPLITS.get(word) or _SPLITS.get(word.removesuffix("list")):
            return found
    return ""


def join(files: Sequence[Listed], rows: Iterable[Listed]) -> Joined:
    """Bring files and rows together: by id and times, else by id where that is clear, else by path.

    A file takes class, split and times of its row where the row has them; of several rows for one file the first
    counts. Where several files could be a row's, those in its split and then in its class are preferred.
    """
    by_name: dict[tuple[str, int | None, int | None], list[int]] = {}
    by_id: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        by_name.setdefault((file.id, file.start, file.end), []).append(number)
        by_id.setdefault(file.id, []).append(number)
    result, taken, missing = list(files), set[int](), []
    for row in rows:
        found = by_name.get((row.id, row.start, row.end)) or [
            number
            for number in by_id.get(row.id, [])
            # Where both have times these differ: it is another cut of the same video.
            if row.start is None or files[number].start is None
        ]
        if not found:
            missing.append(row)
            continue
        best = min(found, key=lambda n: (files[n].split != row.split, not _same_class(files[n], row)))
        if best not in taken:
            taken.add(best)
            result[best] = _with_row(files[best], row)
    return Joined(result, {files[number].path for number in taken}, missing)


def _same_class(file: Listed, row: Listed) -> bool:
    return file.class_name.lower() == row.class_name.lower()


def _with_row(file: Listed, row: Listed) -> Listed:
    # A list may give classes as numbers where the folders have their names.
    numbered = row.class_name.isdecimal() and file.class_name
    return replace(
        file,
        class_name=file.class_name if numbered or not row.class_name else row.class_name,
        start=file.start if row.start is None else row.start,
        end=file.end if row.end is None else row.end,
        split=row.split or file.split,
        source=row.source,
    )


def _stem(path: str) -> str:
    """A file's name without the suffixes of videos, of which downloads may have two."""
    name = PurePosixPath(path)
    while name.suffix.lower() in SUFFIXES:
        name = name.with_suffix("")
    return name.name
