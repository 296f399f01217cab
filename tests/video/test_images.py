"""Images through ``datasets``: the same squares from every kind of source, in a fixed order, with errors that name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from rinvid.data.digit_images import digit_images_root
from rinvid.data.images import ImageError, Images, fit_image, open_images
from rinvid.data.loader import Loader
from rinvid.data.sampler import Request, ResumableSampler
from rinvid.data.stream import stream_images

SIDE = 8


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Dark on the left, ``value`` on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, size[0] // 2 :] = value
    return Image.fromarray(pixels)


def encoded(value: int) -> dict[str, Any]:
    stream = io.BytesIO()
    picture(value).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def folder(root: Path, count: int = 6) -> Path:
    """An imagefolder: classes a and b, picture n has the value 20 * n, the odd ones are b's."""
    for split in ("train", "validation"):
        for number in range(count):
            place = root / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            picture(20 * number).save(place / f"{number}.png")
    return root


def table(count: int = 6, **more: list[Any]) -> datasets.Dataset:
    names = datasets.ClassLabel(names=["a", "b"])
    columns = {"img": [encoded(20 * n) for n in range(count)], "label": [n % 2 for n in range(count)], **more}
    features = {"img": datasets.Image(), "label": names, **dict.fromkeys(more, names)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet(root: Path, data: datasets.Dataset, name: str = "train") -> Path:
    root.mkdir(exist_ok=True)
    data.to_parquet(root / f"{name}.parquet")
    return root


def by_value(images: Images) -> dict[int, int]:
    """Label by the value of each picture."""
    batch = images.__getitems__([Request(item, (0, item)) for item in range(len(images))])
    return dict(zip(batch.samples[:, 0, -1, 0].tolist(), batch.labels.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "saved"])
def test_every_source_gives_the_same_images_and_labels(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if kind == "imagefolder":
        folder(root)
    elif kind == "parquet":
        parquet(root, table())
    else:
        table().save_to_disk(root)
    images = open_images(str(root), SIDE)
    assert images.classes == ("a", "b")
    assert images.sample_shape == (SIDE, SIDE, 3)
    assert by_value(images) == {20 * n: n % 2 for n in range(6)}


def test_splits_have_aliases_and_are_listed(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    assert len(open_images(str(root), SIDE, "val")) == 6
    with pytest.raises(ValueError, match="no split 'test'; its splits are train, validation"):
        open_images(str(root), SIDE, "test")


def test_columns_can_be_chosen_and_are_listed(tmp_path: Path) -> None:
    root = parquet(tmp_path / "two", table(coarse=[1 - n % 2 for n in range(6)]))
    with pytest.raises(
        ValueError, match=r"several columns could be it \(label, coarse\); choose one with label_column"
    ):
        open_images(str(root), SIDE)
    assert by_value(open_images(str(root), SIDE, label_column="coarse"))[0] == 1
    with pytest.raises(ValueError, match="no column 'image'; the columns are img, label, coarse"):
        open_images(str(root), SIDE, image_column="image", label_column="label")
    with pytest.raises(ValueError, match="'img' holds no classes"):
        open_images(str(root), SIDE, label_column="img")
    plain = parquet(tmp_path / "none", datasets.Dataset.from_dict({"text": ["x"]}))
    with pytest.raises(
        ValueError, match="no column is of that kind; choose one with image_column; the columns are text"
    ):
        open_images(str(plain), SIDE)


def test_images_without_labels(tmp_path: Path) -> None:
    images = open_images(str(parquet(tmp_path / "data", table().remove_columns("label"))), SIDE)
    assert (images.classes, images[0].labels.tolist()) == ((), [-1])


def test_no_such_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_images(str(tmp_path / "nothing"), SIDE)
    with pytest.raises(ValueError, match="size >= 1 and 1 or 3 channels"):
        open_images(str(tmp_path), 0)


def test_half_of_the_images_are_mirrored_by_their_seed(tmp_path: Path) -> None:
    images = open_images(str(parquet(tmp_path / "data", table())), SIDE, flip=True)
    requests = [Request(5, (3, position)) for position in range(200)]
    batch = images.__getitems__(requests)
    mirrored = batch.samples[:, 0, 0, 0] == 100
    assert 70 < int(mirrored.sum()) < 130
    assert torch.equal(batch.samples, images.__getitems__(requests).samples)
    straight = open_images(str(tmp_path / "data"), SIDE).__getitems__(requests)
    assert torch.equal(batch.samples[mirrored].flip(2), straight.samples[mirrored])


def test_a_broken_image_is_named_or_replaced(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    (root / "train" / "a" / "0.png").write_bytes(b"no image")
    images = open_images(str(root), SIDE)
    with pytest.raises(ImageError, match=r"image 0 \(.*0\.png\): cannot be read"):
        images[0]
    images.replace = True
    batch = images[0]
    assert len(batch.broken) == 1
    assert int(batch.samples[0, 0, -1, 0]) in range(20, 101, 20)
    assert torch.equal(batch.samples, images[0].samples)


def test_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    data = table().cast_column("label", datasets.Value("int64")).to_dict()
    data["label"][2] = -1
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = open_images(str(parquet(tmp_path / "data", datasets.Dataset.from_dict(data, features=features))), SIDE)
    with pytest.raises(ImageError, match=r"image 2 .* has the label -1; labels are 0 to 1"):
        images[2]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_read_what_this_process_reads(start_method: Any, tmp_path: Path) -> None:
    images = open_images(str(parquet(tmp_path / "data", table())), SIDE, flip=True)
    batches = [Loader(images, ResumableSampler(6, 4), workers, start_method) for workers in (0, 2)]
    for _ in range(4):
        own, other = next(batches[0]), next(batches[1])
        assert torch.equal(own.samples, other.samples)
        assert torch.equal(own.labels, other.labels)
    batches[1].close()


def stream(root: Path, **options: Any) -> Any:
    return stream_images(open_images(str(root), SIDE, streaming=True), 2, buffer=4, **options)


def values(batches: Any, count: int) -> list[int]:
    return [value for _ in range(count) for value in next(batches).samples[:, 0, -1, 0].tolist()]


def test_a_stream_is_shuffled_by_seed_and_epoch_and_goes_on_exactly(tmp_path: Path) -> None:
    root = parquet(tmp_path / "data", table(8))
    first = values(stream(root), 12)
    assert sorted(first[:8]) == sorted(first[8:16]) == [20 * n for n in range(8)]
    assert first[:8] != first[8:16]
    assert first == values(stream(root), 12)
    assert first != values(stream(root, seed=1), 12)
    assert first[10:] == values(stream(root, start=10), 7)


def test_processes_share_a_stream(tmp_path: Path) -> None:
    root = parquet(tmp_path / "data", table(8))
    parts = [values(stream(root, processes=2, rank=rank), 2) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == [20 * n for n in range(8)]


def test_a_broken_image_of_a_stream_is_named_or_passed_over(tmp_path: Path) -> None:
    data = table(4).to_dict()
    data["img"][2] = {"bytes": b"no image", "path": None}
    features = datasets.Features({"img": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])})
    root = parquet(tmp_path / "data", datasets.Dataset.from_dict(data, features=features))
    with pytest.raises(ImageError, match="of the stream: cannot be read"):
        values(stream(root), 4)
    images = open_images(str(root), SIDE, streaming=True, replace=True)
    batches = [next(found) for found in [stream_images(images, 3)] for _ in range(2)]
    assert sorted(batches[0].samples[:, 0, -1, 0].tolist()) == [0, 20, 60]
    assert sum(len(batch.broken) for batch in batches) >= 1


# -- squares


def test_an_image_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(fit_image(Image.fromarray(pixels), SIDE), pixels)


def test_the_largest_centre_square_is_taken() -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    assert (fit_image(Image.fromarray(wide), 4) == 200).all()
    assert (fit_image(Image.fromarray(wide.swapaxes(0, 1).copy()), 4) == 200).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_image(Image.fromarray(stripes), 8).astype(int) - 127).max() <= 8


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb_or_grey(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((SIDE, SIDE), 200 * 257, np.uint16))
    else:
        image = Image.new("RGB", (SIDE, SIDE), (200, 200, 200) if mode != "1" else "white")
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    expected = 255 if mode == "1" else 200
    for channels in (1, 3):
        found = fit_image(image, SIDE, channels)
        assert found.shape == (SIDE, SIDE, channels)
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_what_is_transparent_becomes_white() -> None:
    assert (fit_image(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), SIDE) == 255).all()


def test_images_are_turned_as_their_camera_says() -> None:
    image, exif = picture(200), Image.Exif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    turned = fit_image(Image.open(stream), SIDE)
    assert (turned[0, 0, 0], turned[0, -1, 0]) == (200, 0)


# -- the embedded digits


def test_digits_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path))
    root = digit_images_root(limit=60, show_progress=False)
    train, val = (open_images(str(root), 16, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (50, 10)
    assert train.classes == tuple("0123456789")
    assert digit_images_root(limit=60) == root
    with pytest.raises(ValueError, match="at least 2"):
        digit_images_root(limit=1)
