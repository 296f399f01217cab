"""The embedded default data, "moving digits": real handwritten digits that move and bounce, as real video files.

The 1,797 8x8 images are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak
(UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, CC BY 4.0), shipped as ``digits.npz`` with values 0 to 16.
Each image becomes one H.264 file in the Kinetics layout ``train|val/<class>/<id>_<start>_<end>.mp4``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from rinvid.data.encode import call_with_pyav, save_h264
from rinvid.data.home import home, whole_folder

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Change the version whenever the files would come out different.
VERSION = 1
CANVAS = 64  # side of a frame in pixels
DIGIT = 32  # side of a digit in pixels
FRAMES = 64
FPS = 16
SPEED = (0.5, 1.5)  # pixels a frame
# Grey values of paper and ink. Neither is at the end of the range, where a clipped prediction has no gradient.
PAPER, INK = 13, 242
VAL_SHARE = 6  # every sixth image is held out

Array = NDArray[np.uint8]


def digits_root(limit: int | None = None, show_progress: bool = True) -> Path:
    """The folder of the moving digits, made on first use in under half a minute.

    The files depend on nothing but :data:`VERSION`, and digits in ``val`` never appear in ``train``.

    Args:
        limit: Only the first so many digits, at least 2; None for all.
        show_progress: Show a progress bar while they are made.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"digits need a limit of at least 2, one each for train and val, got {limit}")
    root = home() / (f"moving-digits-v{VERSION}" + (f"-first-{limit}" if limit else ""))
    if not root.is_dir():
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{root.parent} cannot be made ({error.strerror}); RINVID_HOME names another place"
            ) from error
        with whole_folder(root) as folder:
            call_with_pyav(write_digits, folder, limit, FRAMES, show_progress)
    return root


def write_digits(folder: Path, limit: int | None = None, frames: int = FRAMES, show_progress: bool = False) -> None:
    """Write the first ``limit`` digits (None for all) as videos of ``frames`` frames below ``folder``."""
    with np.load(str(files("rinvid.data").joinpath("digits.npz")), allow_pickle=False) as data:
        images, labels = data["images"][:limit], data["labels"][:limit]
    bar = tqdm(images, desc="making moving digits", unit="video", disable=not show_progress)
    for number, (image, label) in enumerate(zip(bar, labels, strict=True)):
        split = "val" if number % VAL_SHARE == 0 else "train"
        place = folder / split / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        name = f"digit{number:04d}_{0:06d}_{frames // FPS:06d}.mp4"
        clip = render(image, np.random.default_rng([VERSION, number]), frames)
        save_h264(clip, place / name, FPS, crf=12)


def render(image: Array, rng: np.random.Generator, frames: int) -> Array:
    """One digit moving in a straight line and bouncing off the borders, (frames, CANVAS, CANVAS) uint8.

    Args:
        image: (8, 8), values 0 to 16.
        rng: Draws the start, the direction and the speed.
    """
    ink = Image.fromarray((PAPER + image * ((INK - PAPER) / 16)).astype(np.uint8))
    digit = np.asarray(ink.resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)).clip(PAPER, INK)
    room = CANVAS - DIGIT
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*SPEED)
    step = speed * np.array([np.sin(angle), np.cos(angle)])
    path = (rng.uniform(0, room, 2) + np.arange(frames)[:, None] * step) % (2 * room)
    corners = np.rint(np.where(path > room, 2 * room - path, path)).astype(int)
    clip = np.full((frames, CANVAS, CANVAS), PAPER, np.uint8)
    for frame, (y, x) in zip(clip, corners, strict=True):
        frame[y : y + DIGIT, x : x + DIGIT] = digit
    return clip
