"""Images through Hugging Face's ``datasets``: the hub, folders, Parquet, streams; as squares of one size.

Preprocessing as in the RIN paper: the largest centre square, resized with antialiasing, half of them mirrored.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from rinvid.data.clips import Batch, Failure
from rinvid.data.hub import find_column
from rinvid.data.readers import first_line
from rinvid.data.sampler import Request, as_request

Pixels = NDArray[np.uint8]
_ALIASES = {"val": ("validation", "valid"), "validation": ("val", "valid")}
# So many images are tried in the place of a broken one.
_TRIES = 10


class ImageError(ValueError):
    """An image that cannot be read; the text names it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.failure = Failure(name, reason)

    def __str__(self) -> str:
        return str(self.failure)


class Images:
    """Images with labels; a request picks one and seeds its flip. See :func:`open_images`.

    Args:
        data: A data set of ``datasets`` whose images are not decoded.
        image_column: Column of the images.
        label_column: Column of the labels, if there is one.
        size: Side of the square images in pixels.
        channels: 3 for RGB, 1 for grey.
        flip: Mirror half of the images left to right.
        replace: Let other images, drawn from the request's seed, take the places of broken ones; without it a broken
            image is an error.

    Attributes:
        classes: Names of the classes, in the order of the labels; empty if there are none.
    """

    on_read: Callable[[str], None] | None = None

    def __init__(
        self,
        data: Any,
        image_column: str,
        label_column: str | None,
        size: int,
        channels: int = 3,
        flip: bool = False,
        replace: bool = False,
    ) -> None:
        self.data, self.image_column, self.label_column = data, image_column, label_column
        self.size, self.channels, self.flip, self.replace = size, channels, flip, replace
        self.classes: tuple[str, ...] = tuple(data.features[label_column].names) if label_column else ()

    def __len__(self) -> int:
        return len(self.data)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of an image (H, W, C)."""
        return self.size, self.size, self.channels

    def __getitem__(self, request: Request | int) -> Batch:
        """A batch of one; a plain number asks with itself as the seed."""
        return self.__getitems__([request])

    def __getitems__(self, requests: Sequence[Request | int]) -> Batch:
        asked = [as_request(request) for request in requests]
        return self.fill(asked, torch.empty((len(asked), *self.sample_shape), dtype=torch.uint8))

    def fill(self, requests: Sequence[Request], samples: Tensor) -> Batch:
        """Write the images asked for into the memory given, uint8 (B, H, W, C).

        Raises:
            IndexError: There is no such image.
            ImageError: An image is broken and is not to be replaced.
        """
        places, labels = samples.numpy(), []
        broken: list[Failure] = []
        for place, request in enumerate(requests):
            if not 0 <= request.item < len(self):
                raise IndexError(f"item {request.item} of a data set of {len(self)}")
            rng = np.random.default_rng(request.seed)
            flipped = self.flip and rng.random() < 0.5
            item = request.item
            for attempt in range(_TRIES):
                try:
                    image, label = self._read(item)
                    break
                except ImageError as error:
                    if not self.replace or attempt == _TRIES - 1:
                        raise
                    broken.append(error.failure)
                    item = int(rng.integers(len(self)))
            places[place] = image[:, ::-1] if flipped else image
            labels.append(label)
        return Batch(samples, torch.tensor(labels), broken)

    def _read(self, item: int) -> tuple[Pixels, int]:
        row = self.data[item]
        name = f"image {item} ({row[self.image_column]['path'] or 'embedded'})"
        if self.on_read:
            self.on_read(name)
        return self.convert(row, name)

    def convert(self, row: Any, name: str) -> tuple[Pixels, int]:
        """A row as an image and a label.

        Raises:
            ImageError: The image cannot be read, or the label is not one of the classes.
        """
        try:
            image = fit_image(_open(row[self.image_column]), self.size, self.channels)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(name, f"cannot be read ({first_line(error)})") from error
        label = int(row[self.label_column]) if self.label_column else -1
        if self.classes and not 0 <= label < len(self.classes):
            raise ImageError(name, f"has the label {label}; labels are 0 to {len(self.classes) - 1}")
        return image, label


def open_images(
    path: str,
    size: int,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    channels: int = 3,
    flip: bool = False,
    replace: bool = False,
    streaming: bool = False,
) -> Images:
    """Images of a data set.

    Args:
        path: Hub id; or a folder: of class folders, with or without train, val and test folders around them; of
            Parquet files; or written by ``save_to_disk``.
        size: Side of the square images in pixels.
        split: Part of the data set; "val" and "validation" mean the same.
        name: Configuration of the data set.
        revision: Commit or tag of the hub's repository.
        image_column: Column of the images; None for the only one of that kind.
        label_column: Column of the classes; None for the only one, if there is one.
        channels: 3 for RGB, 1 for grey.
        flip: Mirror half of the images left to right.
        replace: Replace broken images, see :class:`Images`.
        streaming: Do not download first; such images can only be read in order, see
            :func:`rinvid.data.stream.stream_images`.

    Raises:
        FileNotFoundError: No such data set.
        ValueError: No such split or column, or more than one column of the kind, or arguments out of range.
    """
    import datasets

    if size < 1 or channels not in (1, 3):
        raise ValueError(f"images need size >= 1 and 1 or 3 channels, got {size=}, {channels=}")
    if (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "state.json").is_file():
        loaded = datasets.load_from_disk(path)
        parts = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    else:
        parts = datasets.load_dataset(path, name, revision=revision, streaming=streaming)
    found = next((known for known in (split, *_ALIASES.get(split, ())) if known in parts), None)
    if found is None:
        raise ValueError(f"{path}: there is no split {split!r}; its splits are {', '.join(parts)}")
    data = parts[found]
    if data.features is None:
        raise ValueError(f"{path}: its stream does not say which columns it has; read it without streaming")
    image = find_column(data.features, datasets.Image, image_column, f"{path}: images", "image_column")
    label = find_column(
        data.features, datasets.ClassLabel, label_column, f"{path}: classes", "label_column", optional=True
    )
    if label is not None and not isinstance(data.features[label], datasets.ClassLabel):
        raise ValueError(f"{path}: the column {label!r} holds no classes but {data.features[label]}")
    assert image is not None
    data = data.cast_column(image, datasets.Image(decode=False))
    return Images(data, image, label, size, channels, flip, replace)


def fit_image(image: Image.Image, size: int, channels: int = 3) -> Pixels:
    """The largest centre square, resized with antialiasing: uint8 (size, size, channels).

    An image is turned as its EXIF data say; what is transparent becomes white; 16 bits become 8.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image, np.float64)
        image = Image.fromarray((deep / (257 if deep.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    image = image.convert("RGB" if channels == 3 else "L")
    side = min(image.size)
    if image.size != (size, size):
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image).reshape(size, size, channels)


def _open(stored: Any) -> Image.Image:
    """A stored image, from its bytes or its path."""
    if stored is None:
        raise ValueError("there is no image")
    return Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
