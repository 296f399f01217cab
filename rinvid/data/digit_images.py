"""The embedded default for images: the same handwritten digits as :mod:`rinvid.data.digits`, at rest, 16x16 pixels."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from rinvid.data.digits import INK, PAPER, VAL_SHARE
from rinvid.data.home import home, whole_folder

# Change the version whenever the files would come out different.
VERSION = 1
SIDE = 16  # pixels


def digit_images_root(limit: int | None = None, show_progress: bool = True) -> Path:
    """The folder ``train|val/<digit>/digitNNNN.png`` of 1,797 images, made on first use; every sixth is in val.

    Args:
        limit: Only the first so many digits, at least 2; None for all.
        show_progress: Show a progress bar while they are made.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"digits need a limit of at least 2, one each for train and val, got {limit}")
    root = home() / (f"digit-images-v{VERSION}" + (f"-first-{limit}" if limit else ""))
    if not root.is_dir():
        with np.load(str(files("rinvid.data").joinpath("digits.npz")), allow_pickle=False) as data:
            images, labels = data["images"][:limit], data["labels"][:limit]
        with whole_folder(root) as folder:
            bar = tqdm(images, desc="making digits", unit="image", disable=not show_progress)
            for number, (image, label) in enumerate(zip(bar, labels, strict=True)):
                place = folder / ("val" if number % VAL_SHARE == 0 else "train") / str(label)
                place.mkdir(parents=True, exist_ok=True)
                ink = Image.fromarray((PAPER + image * ((INK - PAPER) / 16)).astype(np.uint8))
                ink.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"digit{number:04d}.png")
    return root
