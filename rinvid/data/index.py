"""An index of videos as a Parquet file, and what of it a run can use: which videos, in which part, which labels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rinvid.data.decode import frame_span, frame_step
from rinvid.data.home import home, whole_file
from rinvid.data.readers import VideoError
from rinvid.data.sources import VideoTable

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "path": pa.string(),  # relative to the root, with forward slashes
        "class": pa.string(),  # empty if unknown
        "id": pa.string(),
        "start": pa.int32(),  # seconds in the video that the clip was cut from
        "end": pa.int32(),
        "split": pa.string(),  # train, val, test or empty
        "frames": pa.int32(),  # that can be decoded
        "fps": pa.float64(),
        "width": pa.int32(),  # as shown, turned upright
        "height": pa.int32(),
        "codec": pa.string(),
        "rotation": pa.int32(),  # degrees counterclockwise that a player turns the stored frames
        "status": pa.string(),  # ok, short, broken, missing or extra
        "reason": pa.string(),  # empty if ok
        "size": pa.int64(),  # bytes
        "modified": pa.int64(),  # nanoseconds since 1970
    }
)
STATUSES = ("ok", "short", "broken", "missing", "extra")
# Without a val part, one video in ten is held out, and at least one.
HOLD_OUT = 10
_FACTS = b"rinvid"
# So many files are looked up to tell whether an index is of the folder at hand.
_LOOKED_UP = 50


class LeftOut(tuple[str, str]):
    """Path of a video that is not used, and why."""

    __slots__ = ()


@dataclass(frozen=True)
class VideoIndex:
    """Videos of a folder.

    Attributes:
        root: The folder.
        table: Rows by :data:`SCHEMA`, perhaps with further columns.
        facts: What else is known of the rows, as JSON data.
    """

    root: Path
    table: pa.Table
    facts: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the index, whole or not at all."""
        facts = {**self.facts, "root": str(self.root.resolve())}
        table = self.table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path, root: Path | None = None, check: bool = True) -> VideoIndex:
        """Read an index.

        Args:
            path: The file.
            root: Where the videos are now; None for where they were.
            check: Look some of the files up.

        Raises:
            FileNotFoundError: No such file.
            ValueError: It is not an index, or one of another folder than ``root``.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such index; rinvid data scan ROOT --out {path} makes one")
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[_FACTS])
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{path}: not an index of videos; rinvid data scan makes one") from error
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise ValueError(
                f"{path}: has no column {', '.join(missing)}; its columns: {', '.join(table.column_names)}"
            )
        index = cls(root or Path(facts["root"]), table.replace_schema_metadata(None), facts)
        if check:
            index._check_root(path)
        return index

    def _check_root(self, path: Path) -> None:
        """Refuse a folder that does not hold the files of this index, of which some are looked up."""
        here = self.table.filter(pc.is_in(self.table["status"], pa.array(["ok", "short", "extra"])))
        for row in range(0, len(here), max(1, len(here) // _LOOKED_UP)):
            name, size = here["path"][row].as_py(), here["size"][row].as_py()
            file = self.root / name
            if not file.is_file() or file.stat().st_size != size:
                raise ValueError(
                    f"{path}: is the index of another folder ({self.facts.get('root')}), or of other files: "
                    f"{name} is not in {self.root} as it was; scan it again"
                )


@dataclass(frozen=True)
class Selection:
    """What a run can use of an index.

    Attributes:
        root: The folder of the videos.
        parts: The videos for "train" and "val".
        classes: Names of the classes, in the order of the labels; empty if the videos have none.
        left_out: Videos that are not used, and why; those that are merely not asked for do not count.
        fingerprint: Hash of paths, sizes, lengths and classes of the usable videos, by part.
    """

    root: Path
    parts: dict[str, VideoTable]
    classes: tuple[str, ...]
    left_out: list[LeftOut]
    fingerprint: str


def select(index: VideoIndex, num_frames: int, stride: int = 1, fps: float | None = None) -> Selection:
    """The videos that are long enough for a clip, by part.

    The parts are the splits train and val, or train and test where there is no val. Where one of the two is missing,
    one video in ten, chosen by a hash of its path, is held out; a single video serves as both.

    Raises:
        VideoError: None of the videos, or none of one part, can be used, with the first reasons.
    """
    table = index.table.filter(pc.is_in(index.table["status"], pa.array(["ok", "short", "broken"])))
    splits = set(table["split"].to_pylist())
    steps = _steps(table, stride, fps)
    reasons = _reasons(table, steps, num_frames, fps)
    usable = np.array([not reason for reason in reasons], bool)
    paths = table["path"].to_pylist()
    left_out = [LeftOut((path, reason)) for path, reason in zip(paths, reasons, strict=True) if reason]
    if not usable.any():
        shown = "; ".join(f"{path}: {reason}" for path, reason in left_out[:3])
        extra = len(index.table) - len(table)
        more = f"; {extra} more are missing or not in the lists" if extra else ""
        raise VideoError(f"{index.root}: none of {len(table)} videos can be used ({shown}){more}")
    table = table.append_column("step", pa.array(steps)).filter(pa.array(usable))
    classes = natural_order(set(table["class"].to_pylist()) - {""})
    labels = {name: label for label, name in enumerate(classes)}
    table = table.append_column("label", pa.array([labels.get(c, -1) for c in table["class"].to_pylist()], pa.int32()))
    parts = _parts(index.root, table, splits)
    digest = hashlib.sha256()
    for name, part in parts.items():
        for row in zip(*(part[column].to_pylist() for column in ("path", "size", "frames", "class")), strict=True):
            digest.update("\0".join((name, *map(str, row), "")).encode())
    fingerprint = digest.hexdigest()[:16]
    return Selection(index.root, {name: _mapped(part) for name, part in parts.items()}, classes, left_out, fingerprint)


def _steps(table: pa.Table, stride: int, fps: float | None) -> NDArray[np.float64]:
    """Distance between a clip's frames in each video; NaN where the video has too few frames a second."""
    rates, which = np.unique(table["fps"].to_numpy(), return_inverse=True)
    steps = [frame_step(stride, fps, rate) for rate in rates]
    return np.array([np.nan if step is None else step for step in steps], np.float64)[which]


def _reasons(table: pa.Table, steps: NDArray[np.float64], num_frames: int, fps: float | None) -> list[str]:
    """Why each video cannot be used; empty if it can."""
    spans = frame_span(num_frames, np.nan_to_num(steps, nan=1.0))
    reasons: list[str] = table["reason"].to_pylist()
    broken = (table["status"].to_numpy(zero_copy_only=False) == "broken").tolist()
    frames, rates = table["frames"].to_numpy(), table["fps"].to_numpy()
    for row in np.flatnonzero(~np.array(broken, bool)):
        if np.isnan(steps[row]):
            reasons[row] = f"has {rates[row]:g} frames a second, fewer than {fps:g}"
        elif frames[row] < spans[row]:
            reasons[row] = f"has {frames[row]} frames, a clip needs {spans[row]}"
        else:
            reasons[row] = ""
    return reasons


def _parts(root: Path, table: pa.Table, splits: set[str]) -> dict[str, pa.Table]:
    """The usable videos to train on and those to hold out, each sorted by path."""
    table = table.sort_by("path")
    held_out = "val" if "val" in splits else "test"
    if {"train", held_out} <= splits:
        parts = {
            "train": table.filter(pc.equal(table["split"], "train")),
            "val": table.filter(pc.equal(table["split"], held_out)),
        }
        for split, part in zip(("train", held_out), parts.values(), strict=True):
            if not len(part):
                raise VideoError(f"{root}: its part {split} holds no video that can be used")
        unused = len(table) - sum(map(len, parts.values()))
        if unused:
            logger.warning("%s: %d videos that are neither of train nor of %s are not used", root, unused, held_out)
        return parts
    if len(table) == 1:
        logger.warning("%s: its only video that can be used is both train and val", root)
        return {"train": table, "val": table}
    hashes = [hashlib.sha256(path.encode()).digest() for path in table["path"].to_pylist()]
    chosen = np.zeros(len(table), bool)
    chosen[sorted(range(len(table)), key=hashes.__getitem__)[: max(1, len(table) // HOLD_OUT)]] = True
    return {"train": table.filter(pa.array(~chosen)), "val": table.filter(pa.array(chosen))}


def _mapped(part: pa.Table) -> VideoTable:
    """The part in a memory-mapped file that is named by its content, so that equal runs share it."""
    part = part.drop_columns([name for name in ("status", "reason", "codec", "id") if name in part.column_names])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, part.schema) as writer:
        writer.write_table(part.combine_chunks())
    content = sink.getvalue()
    file = home() / "tables" / f"{hashlib.sha256(content).hexdigest()[:24]}.arrow"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            temporary.write_bytes(content)
    return VideoTable(file)


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names in the order of their labels: numbers by value, then words by letters."""
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))
