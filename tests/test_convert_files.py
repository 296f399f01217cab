"""Where the authors' arrays come from: npz files, TensorFlow checkpoints, files of options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rinvid.cli import main
from rinvid.convert import from_reference, read_arrays, read_checkpoint, read_meta
from rinvid.models.rin import RINModel
from tests.helpers import (
    PARITY,
    parity,
)
from tests.reference import Arrays, meta_of, weights_of

# -- files


def test_arrays_are_read_from_a_file() -> None:
    arrays, meta = read_arrays(PARITY / "video_5to11.npz")
    expected = weights_of("video_5to11")
    assert meta == parity("video_5to11")[1]
    assert arrays.keys() == expected.keys()
    assert all(torch.equal(torch.from_numpy(arrays[name]), expected[name]) for name in arrays)


class Harmful:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["weights/stem/bias", "meta"])
def test_pickled_objects_are_refused_and_not_run(key: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    content = {"meta": json.dumps({"kind": "image"}), key: np.array(Harmful(made), dtype=object)}
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=r"a\.npz: not an npz file with arrays weights/NAME and a JSON string meta"):
        read_arrays(tmp_path / "a.npz")
    assert not made.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)[key]
    assert made.exists(), "the file was harmful"


def test_a_file_that_holds_no_arrays_is_refused(tmp_path: Path) -> None:
    whole = (PARITY / "image_class_latent.npz").read_bytes()
    path = tmp_path / "a.npz"
    for content in (b"", b"weights", whole[: len(whole) // 2], whole[:1000] + b"damaged" + whole[1007:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz: not an npz file with arrays weights/NAME"):
            read_arrays(path)
    for meta in ("no JSON", "3"):
        np.savez(path, **{"weights/stem/bias": np.zeros(3)}, meta=meta)
        with pytest.raises(ValueError, match=r"a\.npz: not an npz file with arrays .* and a JSON string meta"):
            read_arrays(path)


@pytest.mark.parametrize("kind", ["one array", "damaged compression", "a list as meta"])
def test_a_file_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "a list as meta":
        np.savez(path, **{"weights/stem/bias": np.zeros(3), "meta": "[1, 2]"})
    else:
        noise = np.random.default_rng(0).integers(0, 9, 3000)
        np.savez_compressed(path, **{"weights/stem/bias": noise, "meta": "{}"})
        content = bytearray(path.read_bytes())
        content[100:110] = b"\xff" * 10
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: "):
        read_arrays(path)


@pytest.mark.parametrize("read", [read_arrays, read_meta])
def test_a_missing_file_is_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


def test_options_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_text('{"kind": "image", "config": {"tape_dim": 24}}')
    assert read_meta(path) == {"kind": "image", "config": {"tape_dim": 24}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: "),
        (b"{'kind': 1}", "not JSON: "),
        (b"\xff\xfe\x00", "not JSON: "),
        (b"[1, 2]", "must hold a JSON object, got list"),
        (b"null", "must hold a JSON object, got NoneType"),
    ],
)
def test_options_that_are_no_json_object_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"options\.json: {message}"):
        read_meta(path)


# -- TensorFlow checkpoints


def tracked(tf: Any, arrays: Arrays, scale: float = 1.0, prefix: str = "tape_denoiser/") -> Any:
    """Objects that own variables as the layers of a network do, nested by the parts of each name."""
    root = tf.Module()
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        node = root
        for part in path:
            if not hasattr(node, f"_{part}"):
                setattr(node, f"_{part}", tf.Module())
            node = getattr(node, f"_{part}")
        setattr(node, leaf, tf.Variable(array.numpy() * scale, name=prefix + name))
    return root


def saved(tf: Any, folder: Path, networks: Iterable[str], **others: Any) -> Path:
    """A checkpoint whose k-th network holds the arrays of a reference file times k."""
    model = tf.Module()
    for k, name in enumerate(networks, 1):
        setattr(model, name, tracked(tf, weights_of("image_class_latent"), k))
    tf.train.Checkpoint(model=model, **others).save(str(folder / "ckpt"))
    return folder


@pytest.mark.parametrize(
    ("networks", "chosen"),
    [(["denoiser"], 1), (["denoiser", "denoiser_ema"], 2), (["ema_denoiser", "the_denoiser"], 1)],
)
@pytest.mark.parametrize("training", [False, True], ids=["weights alone", "with the optimizer"])
def test_the_averaged_network_of_a_checkpoint_is_read(
    networks: list[str], chosen: int, training: bool, tmp_path: Path
) -> None:
    tf = pytest.importorskip("tensorflow")
    arrays, others = weights_of("image_class_latent"), {}
    if training:
        optimizer = tf.Module()
        optimizer.m = tracked(tf, arrays, 0.0, "LAMB/m/")
        optimizer.v = tracked(tf, arrays, 0.0, "LAMB/v/")
        others = {"optimizer": optimizer, "global_step": tf.Variable(3)}
    found = read_checkpoint(saved(tf, tmp_path, networks, **others))
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], array.numpy() * chosen) for name, array in arrays.items())
    model = from_reference(found, meta_of("image_class_latent"))
    assert torch.equal(model.output_norm.weight, arrays["output_ln/gamma"] * chosen)


def test_of_two_networks_none_is_guessed(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match=r"several networks, and not one with 'ema' .*model/student, model/teacher"):
        read_checkpoint(saved(tf, tmp_path, ["student", "teacher"]))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    for data in saved(tf, tmp_path, ["denoiser"]).glob("*.data-*"):
        data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole TensorFlow 2 checkpoint"):
        read_checkpoint(tmp_path)


def test_the_last_checkpoint_of_a_folder_is_read(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    saved(tf, tmp_path, ["denoiser"])
    bias = weights_of("image_class_latent")["stem/bias"]
    later = tracked(tf, {"stem/bias": bias}, 5.0)
    tf.train.Checkpoint(model=later).save(str(tmp_path / "later"))
    found = read_checkpoint(tmp_path)
    assert found.keys() == {"stem/bias"}
    assert np.array_equal(found["stem/bias"], bias.numpy() * 5)


def test_the_command_line_converts_a_checkpoint(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    saved(tf, tmp_path / "checkpoint", ["denoiser", "denoiser_ema"])
    (tmp_path / "options.json").write_text(json.dumps(meta_of("image_class_latent")))
    main(["convert", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--meta", str(tmp_path / "options.json")])
    weight = RINModel.from_pretrained(tmp_path / "out").output_norm.weight
    assert torch.equal(weight, 2 * weights_of("image_class_latent")["output_ln/gamma"])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{folder}: holds no TensorFlow checkpoint"):
            read_checkpoint(folder)
    tf.train.Checkpoint(step=tf.Variable(3, name="step")).save(str(tmp_path / "ckpt"))
    with pytest.raises(ValueError, match="the checkpoint holds no variable of a RIN"):
        read_checkpoint(tmp_path)


def test_without_tensorflow_the_way_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"needs tensorflow: pip install 'rinvid\[convert\]'"):
        read_checkpoint(tmp_path)
