"""Pictures of predictions and of training: labelled GIF and MP4, strips of frames, loss curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rinvid.data.encode import save_h264
from rinvid.data.home import whole_file

Frames = NDArray[np.uint8]
Colour = tuple[int, int, int]

BACKGROUND = (24, 24, 28)
INK = (232, 232, 236)
GIVEN = (96, 165, 250)  # border of frames that were given
TRUE = (120, 120, 128)  # border of true frames that the model did not see
MADE = (251, 146, 60)  # border of frames that the model made
CELL = 96  # least side of a video in the picture, in pixels
GAP = 6
HEADER = 22  # height of the labels
FPS = 8


def comparison(truth: Frames, prediction: Frames, context_frames: int, columns: int = 2) -> Frames:
    """Clips side by side as one labelled video: context | truth | prediction.

    The context column plays the given frames and then holds the last one; without context there is none.

    Args:
        truth: uint8 (N, F, H, W, 3).
        prediction: Like ``truth``, context frames first.
        context_frames: How many frames were given.
        columns: Groups of videos beside each other.

    Returns:
        uint8 (F, height, width, 3), with even sides.
    """
    count, frames, height, width = truth.shape[:4]
    labels = {"context": GIVEN, "truth": INK, "prediction": MADE}
    if not context_frames:
        del labels["context"]
    scale = max(1, -(-CELL // max(height, width)))
    cell_w, cell_h = width * scale + GAP, height * scale + GAP
    group_w, rows = len(labels) * cell_w + 2 * GAP, -(-count // columns)
    size = (_even(min(columns, count) * group_w + GAP), _even(rows * cell_h + HEADER + 2 * GAP))
    video = []
    for f in range(frames):
        picture = Image.new("RGB", size, BACKGROUND)
        draw = ImageDraw.Draw(picture)
        given = f < context_frames
        for index in range(count):
            left = GAP + (index % columns) * group_w
            top = HEADER + GAP + (index // columns) * cell_h
            shown = {
                "context": (truth[index, min(f, max(context_frames - 1, 0))], GIVEN),
                "truth": (truth[index, f], GIVEN if given else TRUE),
                "prediction": (prediction[index, f], GIVEN if given else MADE),
            }
            for place, label in enumerate(labels):
                _paste(picture, draw, *shown[label], (left + place * cell_w, top), scale)
                if index < columns:
                    draw.text(
                        (left + place * cell_w + 2, GAP), label, fill=labels[label], font=ImageFont.load_default(12)
                    )
        video.append(np.asarray(picture))
    return np.stack(video)


def strip(truth: Frames, prediction: Frames, context_frames: int) -> Image.Image:
    """Clips as rows of frames, truth above prediction; frames the model made have a coloured border."""
    count, frames, height, width = truth.shape[:4]
    scale = max(1, -(-48 // max(height, width)))
    cell_w, cell_h = width * scale + 4, height * scale + 4
    picture = Image.new("RGB", (frames * cell_w, count * (2 * cell_h + GAP)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for index in range(count):
        for row, clip in enumerate((truth, prediction)):
            for f in range(frames):
                corner = (f * cell_w, index * (2 * cell_h + GAP) + row * cell_h)
                _paste(picture, draw, clip[index, f], GIVEN if f < context_frames else (TRUE, MADE)[row], corner, scale)
    return picture


def save_gif(video: Frames, path: Path, fps: int = FPS) -> None:
    """Write uint8 (F, H, W, 3) as a looping GIF that rests on its last frame."""
    # One palette for the whole clip: palettes by frame make a still background flicker.
    sheet = Image.fromarray(video.reshape(-1, *video.shape[2:]))
    palette = sheet.quantize(256, dither=Image.Dither.NONE)
    frames = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in video]
    durations = [1000 // fps] * (len(frames) - 1) + [1000]
    with whole_file(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def save_mp4(video: Frames, path: Path, fps: int = FPS) -> None:
    """Write uint8 (F, H, W, 3) with even sides as an H.264 file."""
    with whole_file(path) as temporary:
        save_h264(video, temporary, fps, crf=18)


def export_to_video(frames: Any, path: str | os.PathLike[str], fps: int = FPS) -> Path:
    """Write one clip as an H.264 file and return its path.

    Args:
        frames: One clip as a video pipeline gives it: an array (F, H, W, C) or a tensor (C, F, H, W) in [0, 1], a list
            of PIL images, or a uint8 array (F, H, W, C).
        path: The file to write.
        fps: Frames a second.

    Raises:
        ValueError: ``frames`` is something else.
    """
    video = _as_frames(frames)
    # H.264 stores colour at half the resolution, so sides must be even.
    odd = [(0, 0), *((0, side % 2) for side in video.shape[1:3]), (0, 0)]
    save_mp4(np.pad(video, odd, mode="edge"), Path(path), fps)
    return Path(path)


def export_to_gif(frames: Any, path: str | os.PathLike[str], fps: int = FPS) -> Path:
    """Write one clip as a looping GIF and return its path; arguments as for :func:`export_to_video`."""
    save_gif(_as_frames(frames), Path(path), fps)
    return Path(path)


def _as_frames(frames: Any) -> Frames:
    """One clip in any form as uint8 (F, H, W, 3)."""
    if isinstance(frames, Sequence) and frames and all(isinstance(frame, Image.Image) for frame in frames):
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    if isinstance(frames, Tensor) and frames.ndim == 4 and frames.is_floating_point():
        frames = frames.detach().float().cpu().movedim(0, -1).numpy()
    whole = isinstance(frames, np.ndarray) and frames.ndim == 4 and frames.shape[-1] in (1, 3) and frames.size > 0
    if not whole or not (frames.dtype == np.uint8 or (frames.dtype.kind == "f" and np.isfinite(frames).all())):
        shape = tuple(getattr(frames, "shape", ())) or type(frames).__name__
        raise ValueError(
            "frames must be one clip: (F, H, W, C) in [0, 1] or uint8, a tensor (C, F, H, W) in [0, 1] or PIL images, "
            f"got {shape} {getattr(frames, 'dtype', '')}"
        )
    pixels = frames if frames.dtype == np.uint8 else (frames.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all."""
    with whole_file(path) as temporary:
        image.save(temporary)


def plot_training(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss curve and, where it was watched, context gain by noise level, as PNG; nothing where there is no loss.

    Args:
        lines: The lines of metrics.jsonl.
        path: Where to write.
    """
    from matplotlib.figure import Figure

    gains = sorted({key for line in lines for key in line if key.startswith("context_gain/")})
    figure = Figure(figsize=(10 if gains else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if gains else 1, squeeze=False)[0]
    points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    if not points:
        return
    steps, losses = np.array(points).T
    axes[0].plot(steps, losses, alpha=0.3, color="tab:blue")
    window = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes[0].plot(steps[len(steps) - len(smooth) :], smooth, color="tab:blue")
    axes[0].set(xlabel="step", ylabel="training loss", yscale="log", title="Loss")
    for key in gains:
        axes[1].plot(
            *zip(*[(line["step"], line[key]) for line in lines if key in line], strict=True), "o-", label=key[13:]
        )
    if gains:
        axes[1].set(xlabel="step", ylabel="error with another clip's context - own", title="Context gain (0: ignored)")
        axes[1].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _paste(picture: Image.Image, draw: Any, frame: Frames, colour: Colour, corner: tuple[int, int], scale: int) -> None:
    """Draw one enlarged frame with a border of two pixels."""
    image = Image.fromarray(frame)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    x, y = corner
    draw.rectangle((x, y, x + image.width + 3, y + image.height + 3), outline=colour, width=2)
    picture.paste(image, (x + 2, y + 2))


def _even(length: int) -> int:
    return length + length % 2
