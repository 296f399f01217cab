"""Make a clip cache: decode every video once, in files that are each made whole, by any number of machines."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from rinvid.data.cache import DATA, INDEX, MANIFEST, VERSION, CacheSettings
from rinvid.data.decode import Backend, frame_step, frames_within, read_clip
from rinvid.data.home import whole_file
from rinvid.data.index import SCHEMA, VideoIndex, natural_order
from rinvid.data.readers import Frames, VideoError

PLAN = "plan.json"
# An Arrow file is what a killed preparation may have to make again: a sixteenth of the cache, within these limits.
FILE_BYTES = (16 * 2**20, 512 * 2**20)
Row = dict[str, Any]


def prepare(
    index: VideoIndex,
    out: Path,
    settings: CacheSettings,
    num_shards: int = 1,
    shard_index: int = 0,
    workers: int = 1,
    backend: Backend = "auto",
    show_progress: bool = True,
) -> bool:
    """Decode the videos of an index into the clip cache ``out``; files that are finished are kept.

    Args:
        index: The videos; those with the status ok or short are taken.
        out: Folder of the cache.
        settings: What the frames are to be.
        num_shards: Into how many shares the work is cut, one for each machine or process.
        shard_index: Which share is to be done here. Whoever finishes last merges: it writes the manifest.
        workers: Processes that decode; 0 decodes in this one.
        backend: Decoder.
        show_progress: Show a progress bar.

    Returns:
        Whether the whole cache is finished; otherwise other shares are not done yet.

    Raises:
        ValueError: ``out`` is a cache of other videos or settings, or an argument is out of range.
        VideoError: No video can be used.
        OSError: The disk is full or cannot be written; what is finished stays, and a rerun goes on.
    """
    if num_shards < 1 or not 0 <= shard_index < num_shards or workers < 0:
        raise ValueError(
            "prepare needs num_shards >= 1, shard_index from 0 to num_shards - 1 and workers >= 0, "
            f"got {num_shards=}, {shard_index=}, {workers=}"
        )
    rows = _rows(index, settings)
    if not rows:
        raise VideoError(f"{index.root}: none of its videos can be prepared; rinvid data scan lists why")
    plan = _plan(index, rows, settings)
    files = _files(rows, settings)
    _claim(out, plan)
    if (out / MANIFEST).is_file():
        return True
    share = [name for name in list(files)[shard_index::num_shards] if not _facts_file(out, name).is_file()]
    _require_space(out, sum(_bytes(row, settings) for name in share for row in files[name]))
    classes = tuple(plan["classes"])
    schema = _schema(classes)
    jobs = [_Job(index.root, out, name, files[name], settings, classes, schema, backend) for name in share]
    bar = tqdm(total=sum(len(job.rows) for job in jobs), desc="preparing", unit="video", disable=not show_progress)
    with bar:
        try:
            for count in _work(jobs, workers):
                bar.update(count)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            done = sum(_facts_file(out, name).is_file() for name in files)
            raise OSError(
                f"{out}: the disk is full; {done} of {len(files)} files are finished, and a rerun goes on from there"
            ) from error
    if all(_facts_file(out, name).is_file() for name in files):
        _merge(index, out, files, plan)
    return (out / MANIFEST).is_file()


def _rows(index: VideoIndex, settings: CacheSettings) -> list[Row]:
    """The videos to decode, sorted by path, with ``kept``: how many frames of each."""
    table = index.table.filter(pc.is_in(index.table["status"], pa.array(["ok", "short"]))).sort_by("path")
    rows = table.select(["path", "class", "id", "split", "frames", "fps", "size"]).to_pylist()
    for row in rows:
        step = frame_step(1, settings.fps, row["fps"])
        kept = 0 if step is None else frames_within(row["frames"], step)
        row["kept"] = kept if settings.max_frames is None else min(kept, settings.max_frames)
    return [row for row in rows if row["kept"]]


def fingerprint(index: VideoIndex, settings: CacheSettings) -> str:
    """Hash of all that decides what a cache of these videos will hold."""
    return str(_plan(index, _rows(index, settings), settings)["fingerprint"])


def _plan(index: VideoIndex, rows: list[Row], settings: CacheSettings) -> Row:
    """All that decides what the cache will hold, as JSON data."""
    digest = hashlib.sha256(json.dumps([VERSION, asdict(settings)]).encode())
    for row in rows:
        digest.update("\0".join(str(row[name]) for name in ("path", "size", "frames", "class", "split")).encode())
    return {
        "version": VERSION,
        "settings": asdict(settings),
        "fingerprint": digest.hexdigest()[:16],
        "classes": natural_order({row["class"] for row in rows} - {""}),
        "source": index.root.resolve().name,
    }


def _files(rows: list[Row], settings: CacheSettings) -> dict[str, list[Row]]:
    """Names of the Arrow files, and the videos that go into each."""
    files = {}
    least, most = FILE_BYTES
    limit = min(max(sum(_bytes(row, settings) for row in rows) // 16, least), most)
    for split in sorted({row["split"] for row in rows}):
        groups: list[list[Row]] = [[]]
        size = 0
        for row in rows:
            if row["split"] != split:
                continue
            if size >= limit:
                groups.append([])
                size = 0
            groups[-1].append(row)
            size += _bytes(row, settings)
        for number, group in enumerate(groups):
            files[f"{split or 'all'}-{number:05d}-of-{len(groups):05d}.arrow"] = group
    return files


def _bytes(row: Row, settings: CacheSettings) -> int:
    return int(row["kept"]) * settings.size**2 * 3


def _claim(out: Path, plan: Row) -> None:
    """Make the folder this cache's, or refuse one that is another's."""
    for name in (MANIFEST, PLAN):
        if (out / name).is_file():
            found = json.loads((out / name).read_text(encoding="utf-8"))
            differing = [key for key in ("version", "settings", "fingerprint") if found.get(key) != plan[key]]
            if differing:
                what = ", ".join(f"{key} {found.get(key)} instead of {plan[key]}" for key in differing)
                raise ValueError(f"{out}: is a clip cache of other videos or settings ({what}); choose another folder")
            return
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out}: holds something that is not a clip cache; choose another folder")
    (out / DATA).mkdir(parents=True, exist_ok=True)
    with whole_file(out / PLAN) as temporary:
        temporary.write_text(json.dumps(plan, indent=2), encoding="utf-8")


def _require_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise OSError(f"{out}: needs {needed / 2**30:.1f} GiB, the disk has {free / 2**30:.1f} GiB left")


@dataclass(frozen=True)
class _Job:
    """One Arrow file to make."""

    root: Path
    out: Path
    name: str
    rows: list[Row]
    settings: CacheSettings
    classes: tuple[str, ...]
    schema: pa.Schema
    backend: Backend


def _work(jobs: list[_Job], workers: int) -> Iterator[int]:
    """Make all files; gives the number of videos in each as it is finished."""
    if workers == 0:
        yield from map(_make, jobs)
        return
    # A forked process inherits the locks of decoder threads; a new one does not.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_make, job) for job in jobs]
        try:
            for done in as_completed(futures):
                yield done.result()
        except BrokenProcessPool as error:
            raise OSError("a decoding process died; what is finished stays, and a rerun goes on") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make(job: _Job) -> int:
    """Decode the videos of one file; its facts are written last, and say that it is finished."""
    schema, settings = job.schema, job.settings
    done: list[Row] = []
    left_out: list[tuple[str, str]] = []
    file = job.out / DATA / job.name
    with whole_file(file) as temporary, temporary.open("wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for row in job.rows:
            try:
                frames = read_clip(
                    job.root / row["path"], 0, row["kept"], 1, settings.size, job.backend, settings.fps, settings.resize
                )
            except (VideoError, FileNotFoundError) as error:
                left_out.append((row["path"], str(error).removeprefix(f"{job.root / row['path']}: ")))
                continue
            label = job.classes.index(row["class"]) if row["class"] else -1
            fps = min(settings.fps or row["fps"], row["fps"])
            # A batch a video: the place of a video is then the number of its batch.
            facts_of = zip((row["path"], label, fps, len(frames)), schema, strict=False)
            columns = [pa.array([value], field.type) for value, field in facts_of]
            writer.write_batch(pa.record_batch([*columns, _binary(frames)], schema))
            done.append({**row, "frames": len(frames), "fps": fps, "row": len(done)})
    facts = {"bytes": file.stat().st_size, "rows": done, "left_out": left_out}
    with whole_file(_facts_file(job.out, job.name)) as temporary:
        temporary.write_text(json.dumps(facts), encoding="utf-8")
    return len(job.rows)


def _binary(frames: Frames) -> pa.Array:
    """All frames of a video as one value, without a copy."""
    offsets = pa.py_buffer(np.array([0, frames.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(frames)])


def _schema(classes: tuple[str, ...]) -> pa.Schema:
    """Columns with the description by which Hugging Face's ``datasets`` knows them."""
    from datasets import ClassLabel, Features, Value

    return Features(
        {
            "path": Value("string"),
            "label": ClassLabel(names=list(classes)) if classes else Value("int64"),
            "fps": Value("float64"),
            "num_frames": Value("int32"),
            "frames": Value("large_binary"),
        }
    ).arrow_schema


def _facts_file(out: Path, name: str) -> Path:
    return out / DATA / f"{name}.json"


def _merge(index: VideoIndex, out: Path, files: dict[str, list[Row]], plan: Row) -> None:
    """Join what is known of the files into the index and the manifest, which says that the cache is finished."""
    try:
        facts = {name: json.loads(_facts_file(out, name).read_text(encoding="utf-8")) for name in files}
    except FileNotFoundError:
        return  # another share has merged already
    size = plan["settings"]["size"]
    rows = [
        {**row, "file": number, "status": "ok", "reason": "", "width": size, "height": size, "codec": "raw"}
        for number, name in enumerate(files)
        for row in facts[name]["rows"]
    ]
    if not rows:
        raise VideoError(f"{index.root}: none of its videos can be decoded")
    schema = SCHEMA.append(pa.field("file", pa.int32())).append(pa.field("row", pa.int32()))
    table = pa.table({field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema})
    VideoIndex(out, table, {"fingerprint": plan["fingerprint"]}).save(out / INDEX)
    splits = sorted({row["split"] for row in rows})
    manifest = {
        **plan,
        "videos": {split or "all": sum(row["split"] == split for row in rows) for split in splits},
        "frames": sum(row["frames"] for row in rows),
        "left_out": [pair for name in files for pair in facts[name]["left_out"]],
        "files": {name: {"bytes": facts[name]["bytes"], "videos": len(facts[name]["rows"])} for name in files},
    }
    with whole_file(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    # Hidden files are what a killed process had at hand.
    for path in [out / PLAN, *(_facts_file(out, name) for name in files), *(out / DATA).glob(".*")]:
        path.unlink(missing_ok=True)
