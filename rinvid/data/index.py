"""Which videos a folder holds: find them, probe each once, and split them into train and val."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from rinvid.data.decode import Backend, VideoError, choose_backend, open_video
from rinvid.data.home import home, whole_file

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"})
SPLITS = ("train", "val")
# Without a val folder, one video in ten is held out, and at least one.
HOLD_OUT = 10
# Change it whenever a probe would find something else in the same file.
VERSION = 1


@dataclass(frozen=True)
class Video:
    """One probed file.

    Attributes:
        path: Relative to the root, with forward slashes.
        frames: Frames that can be asked for; 0 if broken.
        reason: Why it cannot be used; empty if it can.
    """

    path: str
    frames: int
    reason: str = ""


@dataclass(frozen=True)
class VideoIndex:
    """The videos of a folder by split.

    Attributes:
        root: The folder.
        usable: Videos with enough frames, sorted by path, for each of "train" and "val".
        left_out: Broken or short videos, with reasons.
        fingerprint: Hash of paths, sizes and frame counts of the usable videos.
    """

    root: Path
    usable: dict[str, list[Video]]
    left_out: list[Video]
    fingerprint: str


def index_videos(root: Path, min_frames: int, backend: Backend = "auto", show_progress: bool = True) -> VideoIndex:
    """Probe all videos below ``root``; results are remembered, so that a second call probes only what changed.

    With ``train`` and ``val`` subfolders those are the splits. Otherwise one video in ten, chosen by a hash of its
    path, is held out as val; a single video serves as both.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no videos.
        VideoError: None of the videos can be used, with the first reasons.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    paths = _find_videos(root)
    if not paths:
        raise FileNotFoundError(f"{root}: holds no videos ({', '.join(sorted(SUFFIXES))})")
    videos = [_enough(video, min_frames) for video in _probe_all(root, paths, backend, show_progress)]
    good = [video for video in videos if not video.reason]
    left_out = [video for video in videos if video.reason]
    for video in left_out:
        logger.warning("left out %s: %s", root / video.path, video.reason)
    if not good:
        shown = "; ".join(f"{v.path}: {v.reason}" for v in left_out[:3])
        raise VideoError(f"{root}: none of {len(videos)} videos can be used ({shown})")
    digest = hashlib.sha256()
    usable = _split(root, good)
    for video in dict.fromkeys(video for part in usable.values() for video in part):
        digest.update(f"{video.path}\0{(root / video.path).stat().st_size}\0{video.frames}\n".encode())
    return VideoIndex(root, usable, left_out, digest.hexdigest()[:16])


def _find_videos(root: Path) -> list[Path]:
    """All video files below a folder, sorted; linked folders are followed, each once."""
    seen, paths = set(), []
    for folder, below, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        paths += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(paths)


def _split(root: Path, videos: list[Video]) -> dict[str, list[Video]]:
    if all((root / split).is_dir() for split in SPLITS):
        parts = {split: [v for v in videos if v.path.startswith(f"{split}/")] for split in SPLITS}
        outside = len(videos) - sum(map(len, parts.values()))
        if outside:
            logger.warning("%s: %d videos outside train and val are not used", root, outside)
        for split, part in parts.items():
            if not part:
                raise VideoError(f"{root / split}: holds no video that can be used")
        return parts
    if len(videos) == 1:
        logger.warning("%s: its only video that can be used is both train and val", root)
        return dict.fromkeys(SPLITS, videos)
    by_hash = sorted(videos, key=lambda v: hashlib.sha256(v.path.encode()).digest())
    held_out = set(by_hash[: max(1, len(videos) // HOLD_OUT)])
    return {"train": [v for v in videos if v not in held_out], "val": [v for v in videos if v in held_out]}


def _enough(video: Video, min_frames: int) -> Video:
    if video.reason or video.frames >= min_frames:
        return video
    return Video(video.path, video.frames, f"has {video.frames} frames, a clip needs {min_frames}")


def _probe_all(root: Path, paths: list[Path], backend: Backend, show_progress: bool) -> list[Video]:
    """Probe every file, reusing what an earlier scan of the same unchanged file found."""
    key_of_root = hashlib.sha256(f"{VERSION} {choose_backend(backend)} {root.resolve()}".encode()).hexdigest()
    memory = home() / "index" / f"{key_of_root[:16]}.json"
    known = _remembered(memory)

    def probe(path: Path) -> tuple[str | None, Video]:
        name = path.relative_to(root).as_posix()
        if not path.exists():
            return None, Video(name, 0, "is a link to nothing")
        stat = path.stat()
        key = f"{name}|{stat.st_size}|{stat.st_mtime_ns}"
        if key in known:
            return key, Video(**known[key])  # type: ignore[arg-type]
        try:
            with open_video(path, backend) as reader:
                return key, Video(name, reader.info.frames)
        except VideoError as error:
            return key, Video(name, 0, str(error).removeprefix(f"{path}: "))
        except OSError as error:
            # Not a property of the file: to be tried again next time.
            return None, Video(name, 0, str(error))

    with ThreadPoolExecutor() as pool:
        bar = tqdm(pool.map(probe, paths), total=len(paths), desc="probing videos", disable=not show_progress)
        probed = list(bar)
    found = {key: video for key, video in probed if key is not None}
    if found.keys() - known.keys():
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(memory) as temporary:
                temporary.write_text(json.dumps({key: asdict(video) for key, video in found.items()}), encoding="utf-8")
        except OSError as error:
            logger.warning(
                "what was found of the videos cannot be remembered in %s (%s)", memory.parent, error.strerror
            )
    return [video for _, video in probed]


def _remembered(memory: Path) -> dict[str, dict[str, object]]:
    """What an earlier scan wrote down; nothing if there is none or it cannot be read."""
    try:
        remembered: dict[str, dict[str, object]] = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered
