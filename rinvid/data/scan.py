"""Scan a folder of videos into an index: every file decoded once, joined with whatever lists come with it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from rinvid.data.decode import Backend, choose_backend
from rinvid.data.home import home
from rinvid.data.index import SCHEMA, STATUSES, VideoIndex
from rinvid.data.layouts import SUFFIXES, Listed, find_annotations, from_path, join, read_annotations
from rinvid.data.probe import Probe, Prober

# Change it whenever a probe would find something else in the same file.
VERSION = 2
Row = dict[str, Any]


def scan(
    root: Path,
    out: Path | None = None,
    lists: Sequence[Path] | None = None,
    min_frames: int = 16,
    backend: Backend = "auto",
    workers: int | None = None,
    timeout: float = 30.0,
    show_progress: bool = True,
) -> VideoIndex:
    """Probe all videos below ``root`` and write their index.

    What an index at ``out`` or an interrupted scan knows of unchanged files is used again. A scan that is killed
    loses no more than the files it was at.

    Args:
        root: Folder of videos in any layout: class folders, flat, with or without folders for splits.
        out: The index; None for a place in :func:`rinvid.data.home.home` that runs on this folder look at.
        lists: Annotation lists to join the files with; None for those that lie in the folder, if any.
        min_frames: A video with fewer counts as short.
        backend: Decoder.
        workers: Processes; None for one a core.
        timeout: Seconds without a sign of life after which a file counts as broken.
        show_progress: Show a progress bar.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no videos; a list does not exist.
        ValueError: A list of an unknown layout, or an index of another folder at ``out``.
        OSError: The index cannot be written.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    if min_frames < 1 or (workers is not None and workers < 1) or not timeout > 0:
        raise ValueError(
            f"min_frames and workers must be at least 1 and timeout above 0, got {min_frames=}, {workers=}, {timeout=}"
        )
    backend = choose_backend(backend)
    names = _find(root)
    if not names:
        raise FileNotFoundError(f"{root}: holds no videos ({', '.join(sorted(SUFFIXES))})")
    annotations = find_annotations(root) if lists is None else lists
    rows = [row for path in annotations for row in read_annotations(path)]
    out = out or remembered(root)
    facts = {"version": VERSION, "backend": backend, "min_frames": min_frames, "lists": [p.name for p in annotations]}
    known = _known(out, root, backend)
    journal = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    known |= _interrupted(journal, root, backend)
    probed = _probe_all(root, names, known, journal, workers, timeout, backend, show_progress)
    index = VideoIndex(root, _table(_join(probed, rows, min_frames)), facts)
    index.save(out)
    journal.unlink(missing_ok=True)
    return index


def remembered(root: Path) -> Path:
    """Where the index of a folder lies that no place was named for."""
    return home() / "index" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.parquet"


def _find(root: Path) -> list[str]:
    """Relative paths of all that is named like a video, sorted; linked folders are followed, each once."""
    seen, paths = set(), []
    for folder, below, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        # A folder that is named like a video is no video, and says so in the index.
        paths += [Path(folder, name) for name in (*names, *below) if Path(name).suffix.lower() in SUFFIXES]
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _no_file(path: Path) -> str:
    """Why a path cannot be probed at all; opening a pipe, for one, would wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    # An administrator may read what nobody else may; whoever trains later may not.
    if not mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH) or not os.access(path, os.R_OK):
        return f"may not be read (permissions {stat.filemode(mode)})"
    return ""


def _probe_all(
    root: Path,
    names: Sequence[str],
    known: dict[str, Row],
    journal: Path,
    workers: int | None,
    timeout: float,
    backend: Backend,
    show_progress: bool,
) -> list[Row]:
    """Rows of all files; what is found is written down at once, so that a kill loses nothing else."""
    rows: list[Row] = []
    todo: list[Row] = []
    for name in names:
        reason = _no_file(root / name)
        if not _is_text(name):
            rows.append({**_blank(_as_text(name)), "reason": "its name is not UTF-8"})
        elif reason:
            rows.append({**_blank(name), "reason": reason})
        else:
            state = (root / name).stat()
            row = {**_blank(name), "size": state.st_size, "modified": state.st_mtime_ns}
            before = known.get(_key(row))
            (todo if before is None else rows).append(row | (before or {}))
    bar = tqdm(total=len(names), initial=len(rows), desc="scanning", unit="video", disable=not show_progress)
    with bar, journal.open("a", encoding="utf-8") as file:
        # After a kill the last line may be cut off: it is ended here, and passed over when it is read.
        print("" if file.tell() else json.dumps(_journal_head(root, backend)), file=file, flush=True)
        for row in _probe(root, todo, min(workers or cores(), max(1, len(todo))), timeout, backend):
            print(json.dumps(row), file=file, flush=True)
            rows.append(row)
            bar.update()
    return sorted(rows, key=lambda row: str(row["path"]))


def _probe(root: Path, todo: list[Row], workers: int, timeout: float, backend: Backend) -> Iterator[Row]:
    """Rows as they are found, by child processes that are each asked by a thread of its own."""
    free: SimpleQueue[Prober] = SimpleQueue()

    def work(row: Row) -> Row:
        prober = free.get()
        try:
            path = root / row["path"]
            found = Probe(reason="is empty") if not row["size"] else prober(path)
        finally:
            free.put(prober)
        return row | asdict(found)

    with ExitStack() as stack:
        for _ in range(workers):
            free.put(stack.enter_context(Prober(backend, timeout)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        # On Ctrl-C what has not begun is dropped.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for done in as_completed([pool.submit(work, row) for row in todo]):
            yield done.result()


def _join(files: list[Row], rows: Iterable[Listed], min_frames: int) -> list[Row]:
    """Files with class, split and times from their names or lists, their status, and the rows without a file."""
    rows = list(rows)
    placed = [from_path(row["path"]) for row in files]
    joined = join(placed, rows)
    result = []
    for row, place in zip(files, joined.files, strict=True):
        listed = place.path in joined.matched
        status, reason = "ok", ""
        if row["reason"]:
            status, reason = "broken", row["reason"]
        elif row["frames"] < min_frames:
            status, reason = "short", f"has {row['frames']} frames, fewer than {min_frames}"
        elif rows and not listed:
            status, reason = "extra", "is in none of the lists"
        result.append({**row, **_annotation(place), "path": row["path"], "status": status, "reason": reason})
    for missing in joined.missing:
        row = {**_blank(missing.path), **_annotation(missing)}
        result.append({**row, "status": "missing", "reason": f"listed in {missing.source}, no such file"})
    return result


def _annotation(place: Listed) -> Row:
    return {"class": place.class_name, "id": place.id, "start": place.start, "end": place.end, "split": place.split}


def _table(rows: list[Row]) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names})


def _blank(path: str) -> Row:
    return {"path": path, **asdict(Probe()), "size": 0, "modified": 0}


def _key(row: Row) -> str:
    return f"{row['path']}|{row['size']}|{row['modified']}"


def _known(out: Path, root: Path, backend: Backend) -> dict[str, Row]:
    """Rows of an index that is there already; nothing if it was made by another version or decoder."""
    if not out.exists():
        return {}
    index = VideoIndex.load(out, check=False)
    if Path(index.facts["root"]) != root.resolve():
        raise ValueError(
            f"{out}: is the index of another folder, {index.facts['root']}; choose another place with --out"
        )
    if (index.facts.get("version"), index.facts.get("backend")) != (VERSION, backend):
        return {}
    fields = ("path", "size", "modified", *asdict(Probe()))
    columns = [index.table[name].to_pylist() for name in fields]
    statuses = index.table["status"].to_pylist()
    known = {}
    for status, *values in zip(statuses, *columns, strict=True):
        row = dict(zip(fields, values, strict=True))
        if status != "missing":
            known[_key(row)] = row | ({} if status == "broken" else {"reason": ""})
    return known


def _interrupted(journal: Path, root: Path, backend: Backend) -> dict[str, Row]:
    """Rows that an interrupted scan has left; a last line that was cut off is dropped."""
    try:
        head, *lines = journal.read_text(encoding="utf-8").splitlines()
        if json.loads(head) != _journal_head(root, backend):
            raise ValueError(journal)
    except (OSError, ValueError):
        journal.unlink(missing_ok=True)
        return {}
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return {_key(row): row for row in rows}


def _journal_head(root: Path, backend: Backend) -> Row:
    return {"version": VERSION, "backend": backend, "root": str(root.resolve())}


def summary(index: VideoIndex) -> str:
    """Counts by split and status, and what is wrong most often, as text."""
    pairs = list(zip(index.table["split"].to_pylist(), index.table["status"].to_pylist(), strict=True))
    counts, splits = Counter(pairs), sorted({split for split, _ in pairs})
    lines = [f"{'split':<8}" + "".join(f"{status:>10}" for status in STATUSES)]
    for split in splits:
        lines.append(f"{split or '-':<8}" + "".join(f"{counts[split, status]:>10,}" for status in STATUSES))
    wrong = [
        (path, status, reason)
        for path, status, reason in zip(
            *(index.table[name].to_pylist() for name in ("path", "status", "reason")), strict=True
        )
        if status in ("broken", "short")
    ]
    lines += [f"  {status}  {path}: {reason}" for path, status, reason in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"  ... and {len(wrong) - _SHOWN:,} more, all in the index")
    return "\n".join(lines)


_SHOWN = 20


def _is_text(name: str) -> bool:
    return _as_text(name) == name


def _as_text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
