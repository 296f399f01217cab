"""Videos of a Hugging Face data set as a plain folder, so that everything else has one way to read them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rinvid.data.home import home, whole_folder
from rinvid.data.layouts import SUFFIXES


def dataset_folder(
    path: str,
    name: str | None = None,
    revision: str | None = None,
    video_column: str | None = None,
    label_column: str | None = None,
    show_progress: bool = True,
) -> Path:
    """The folder ``[split/][class/]video`` of a data set of videos, made on first use.

    Videos that are files of this machine are linked, others are written once.

    Args:
        path: Hub id, or a folder that ``datasets.load_dataset`` knows: class folders, Parquet with a video column.
        name: Configuration of the data set.
        revision: Commit or tag of the hub's repository.
        video_column: Column of the videos; None for the only one of that kind.
        label_column: Column of the classes; None for the only one, if there is one.
        show_progress: Show a progress bar.

    Raises:
        ValueError: No such column, or none or several of its kind; a video without a known suffix.
        FileNotFoundError: No such data set.
    """
    from datasets import ClassLabel, Video, load_dataset

    parts = {}
    for split, data in load_dataset(path, name, revision=revision).items():
        video = find_column(data.features, Video, video_column, f"{path}: videos", "video_column")
        label = find_column(data.features, ClassLabel, label_column, f"{path}: classes", "label_column", optional=True)
        assert video is not None
        parts[split] = data.cast_column(video, Video(decode=False)), video, label
    digest = hashlib.sha256("".join(f"{split}{data._fingerprint}" for split, (data, *_) in parts.items()).encode())
    root = home() / "datasets" / f"{Path(path).name}-{digest.hexdigest()[:16]}"
    if not root.is_dir():
        with whole_folder(root) as folder:
            for split, (data, video, label) in parts.items():
                _write(folder / split, data, video, label, show_progress)
    return root


def find_column(
    features: Any, kind: type, chosen: str | None, what: str, option: str, optional: bool = False
) -> str | None:
    """The column of a kind of feature.

    Args:
        features: Features of the data set, by column.
        kind: Class of the feature.
        chosen: The column that the user names, if any.
        what: What is looked for, as messages call it.
        option: The option that chooses.
        optional: Having none is no error.

    Raises:
        ValueError: No such column, or not exactly one of the kind.
    """
    if chosen is not None:
        if chosen not in features:
            raise ValueError(f"{what}: there is no column {chosen!r}; the columns are {', '.join(features)}")
        return chosen
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1 or (optional and not found):
        return found[0] if found else None
    several = f"several columns could be it ({', '.join(found)})" if found else "no column is of that kind"
    raise ValueError(f"{what}: {several}; choose one with {option}; the columns are {', '.join(features)}")


def _write(folder: Path, data: Any, video: str, label: str | None, show_progress: bool) -> None:
    names = data.features[label].names if label else None
    for number, row in enumerate(tqdm(data, desc=f"{folder.name} videos", unit="video", disable=not show_progress)):
        file, bytes_of = row[video]["path"], row[video]["bytes"]
        # A class name comes from whoever made the data set: it must stay one folder below this one.
        place = folder / names[row[label]].replace("/", " ").lstrip(". ") if names and row[label] >= 0 else folder
        place.mkdir(parents=True, exist_ok=True)
        suffix = Path(file or "").suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"row {number} of {folder.name}: {file!r} is not named like a video")
        target = place / f"{number:07d}-{Path(file).name}"
        if bytes_of is None:
            target.symlink_to(Path(file).resolve())
        else:
            target.write_bytes(bytes_of)
