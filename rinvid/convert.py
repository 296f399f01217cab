"""Weights of the authors' TensorFlow implementation, by the names it gives them, as a :class:`rinvid.RINModel`.

The reference calls the interface *tape*. Its kernels are (in, out); those of queries, keys and values are
(in, heads, head width) and of attention outputs (heads, head width, out); convolutions end in (in, out) as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rinvid.models.rin import RINModel

# The beginning of a reference name -> the module it belongs to.
_MODULES = (
    (r"^(read|write)_unit_(\d+)/transformer_decoder_layer/(?:cross_mha|mlp)", r"blocks.\2.\1"),
    (r"^latent_processing_unit(\d+)/transformer_encoder/(?:mha|mlp)", r"blocks.\1.compute.0"),
    (r"^latent_processing_unit(\d+)/transformer_encoder_(\d+)/(?:mha|mlp)", r"blocks.\1.compute.\2"),
    (r"^tape_", "interface_"),
    (r"^(latent|interface)_pos_emb(?:/kernel/vis_pos_embedding|_res/kernel)$", r"\1_rows/weight"),
    (r"^(latent|interface)_prev_proj", r"\1_recall"),
    (r"^(latent|interface)_prev_ln", r"\1_recall/norm"),
    (r"^(stem|output)_ln", r"\1_norm"),
    (r"^stem/", "codec/stem/"),
    (r"^output_linear", "codec/readout"),
    (r"^time_emb/dense0", "time_embedding/expand"),
    (r"^time_emb/dense1", "time_embedding/mix"),
    (r"^cond_proj", "label_embedding"),
)
_PARTS = {
    "ln": "norm",
    "enc_ln": "norm_source",
    "ffn": "feed_forward",
    "dense1": "expand",
    "dense2": "contract",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.output",
    "gamma": "weight",
    "beta": "bias",
    "kernel": "weight",
}
# Where a variable's name begins, behind the names of the objects around it.
_VARIABLE = (
    r"(?:^|/)((?:(?:latent|tape)_(?:pos_emb|prev_)|(?:read|write)_unit_|latent_processing_unit|time_emb/|cond_proj/"
    r"|stem(?:_ln)?/|output_(?:ln|linear)/)[^:]*)"
)
# Options of the reference for which RINModel has no counterpart, with the only value that can be converted.
_UNSUPPORTED = {
    "conv_kernel_size": 0,
    "cond_tape_writable": False,
    "cond_dim": 0,
    "cond_proj": True,
    "cond_decoupled_read": False,
    "drop_att": 0.0,
}


def from_reference(weights: Mapping[str, Any], meta: Mapping[str, Any]) -> RINModel:
    """The network that a set of the reference's arrays belongs to, in evaluation mode.

    Args:
        weights: Arrays by the reference's variable names, for example ``stem/kernel``.
        meta: The reference's options: ``kind`` ("image" or "video"), ``image_size``, ``num_classes`` and, under
            ``config`` or ``model``, those of the network (``num_layers``, ``latent_slots``, ``tape_dim``, ...).

    Raises:
        ValueError: An option is missing or has no counterpart; an array is missing, left over or of the wrong shape.
    """
    model = RINModel(**reference_config(meta))
    state: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    for name, array in weights.items():
        # (A copy: arrays may be read-only.)
        tensor = array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
        ours, tensor = rename(name, tensor)
        if ours in state:
            raise ValueError(f"arrays {owners[ours]!r} and {name!r} of the reference are both {ours!r} here")
        state[ours], owners[ours] = tensor, name
    wanted = model.state_dict()
    if unused := [owners[name] for name in state.keys() - wanted.keys()]:
        raise ValueError(f"{len(unused)} arrays of the reference fit nowhere in this network: {_some(unused)}")
    if missing := wanted.keys() - state.keys():
        raise ValueError(f"the reference has no array for {len(missing)} parameters: {_some(missing)}")
    for name, tensor in state.items():
        _check_layout(model, owners[name], weights[owners[name]])
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"array {owners[name]!r} has shape {tuple(weights[owners[name]].shape)}, as {name!r} "
                f"{tuple(tensor.shape)}; this network needs {tuple(wanted[name].shape)}"
            )
    model.load_state_dict(state)
    return model.eval()


def _check_layout(model: RINModel, name: str, array: Tensor) -> None:
    """Refuse a wrong number of heads or a wrong patch, whose numbers would fit all the same once axes are joined."""
    *_, owner, leaf = ("", *name.split("/"))
    heads = model.config["latent_num_heads" if name.startswith("latent_processing") else "rw_num_heads"]
    patch = model.config.tokenizer["patch_size"]
    layouts: dict[tuple[str, str], tuple[int | None, ...]] = {
        ("stem", "kernel"): (*(patch if isinstance(patch, list) else (patch, patch)), None, None),
        ("attention_output", "kernel"): (heads, None, None),
        **{(part, "kernel"): (None, heads, None) for part in ("query", "key", "value")},
        **{(part, "bias"): (heads, None) for part in ("query", "key", "value")},
    }
    wanted = layouts.get((owner, leaf))
    if wanted is None:
        return
    fits = array.ndim == len(wanted) and all(w in (None, n) for w, n in zip(wanted, array.shape, strict=True))
    if not fits:
        axes = ", ".join("any" if w is None else str(w) for w in wanted)
        raise ValueError(f"array {name!r} has shape {tuple(array.shape)}; this network needs ({axes})")


def rename(name: str, array: Tensor) -> tuple[str, Tensor]:
    """Name and layout in a RINModel of one of the reference's arrays, or of its gradient."""
    *_, owner, leaf = ("", *name.split("/"))
    if leaf == "bias":
        array = array.reshape(-1)
    elif leaf == "kernel" and "pos_emb" not in name and array.ndim > 1:
        array = array.flatten(1).T if owner in ("query", "key", "value") else array.flatten(0, -2).T
    for pattern, ours in _MODULES:
        name = re.sub(pattern, ours, name)
    return ".".join(_PARTS.get(part, part) for part in name.split("/")), array.contiguous()


def reference_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`rinvid.RINModel` from the reference's options; see :func:`from_reference`."""
    options = meta.get("config", meta.get("model")) if isinstance(meta, Mapping) else None
    if not isinstance(options, Mapping) or meta.get("kind") not in ("image", "video"):
        raise ValueError("meta needs 'kind' (image or video) and the network's options under 'config' or 'model'")
    if options.get("arch_name", "tape") != "tape":
        raise ValueError(f"the reference's arch_name {options['arch_name']!r} is another network; it must be 'tape'")
    for name, value in _UNSUPPORTED.items():
        if options.get(name, value) != value:
            raise ValueError(f"the reference's option {name}={options[name]!r} has no counterpart; it must be {value}")
    try:
        return _image_or_video(meta, options) | _network(options)
    except KeyError as error:
        raise ValueError(f"meta lacks the reference's option {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"meta holds an option that cannot be read: {error}") from error


def _network(c: Mapping[str, Any]) -> dict[str, Any]:
    depths = c["num_layers"]
    return {
        "in_channels": c.get("image_channels", 3),
        "num_latents": c["latent_slots"],
        "latent_dim": c["latent_dim"],
        "interface_dim": c["tape_dim"],
        "num_layers": [int(depth) for depth in (depths.split(",") if isinstance(depths, str) else depths)],
        "latent_num_heads": c["latent_num_heads"],
        "rw_num_heads": c["rw_num_heads"],
        "latent_mlp_ratio": c["latent_mlp_ratio"],
        "interface_mlp_ratio": c["tape_mlp_ratio"],
        "time_on_latent": c.get("time_on_latent", False),
        "cond_on_latent": bool(c.get("cond_on_latent", c.get("cond_on_latent_n", 0))),
        "self_cond": c["self_cond"].replace("tape", "interface"),
        "dropout": c.get("drop_units", 0.0),
        "drop_path": c.get("drop_path", 0.0),
        "time_scaling": c["time_scaling"],
        "latent_position": c["latent_pos_encoding"],
        "interface_position": c["tape_pos_encoding"],
        "xattn_enc_ln": c.get("xattn_enc_ln", False),
    }


def _image_or_video(meta: Mapping[str, Any], c: Mapping[str, Any]) -> dict[str, Any]:
    size = [c[side] if side in c else meta["image_size"] for side in ("image_height", "image_width")]
    patch = c["patch_size"]
    # Either "class" or, for c given frames, "seq@c"; options of a network alone have seq_cond instead.
    condition = c.get("conditional", "class")
    if "seq_cond" not in c and meta["kind"] == "video" and not condition.startswith("seq@"):
        raise KeyError("seq_cond")
    shape: dict[str, Any] = {"sample_size": size[0] if size[0] == size[1] else size}
    if meta["kind"] == "image":
        classes = meta["num_classes"] if condition == "class" else 0
        return shape | {"num_classes": classes or None, "tokenizer": {"type": "patch2d", "patch_size": patch}}
    frames = c["seq_len"] if "seq_len" in c else meta["seq_len"]
    given = c["seq_cond"] if "seq_cond" in c else condition.removeprefix("seq@")
    tokenizer = {"type": "patch3d", "patch_size": [c["seq_stride"], patch, patch]}
    return shape | {"num_frames": frames, "context_frames": int(given), "tokenizer": tokenizer}


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and meta of an npz file with arrays ``weights/NAME`` and, empty if there is none, a JSON string ``meta``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is not such an npz.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path) as file:
            meta = dict(json.loads(str(file["meta"]))) if "meta" in file.files else {}
            arrays = {key.removeprefix("weights/"): file[key] for key in file.files if key.startswith("weights/")}
    except Exception as error:  # damage takes many forms: zlib, zipfile, numpy and json each have their own
        raise ValueError(f"{path}: not an npz file with arrays weights/NAME and a JSON string meta") from error
    return arrays, meta


def read_meta(path: str | Path) -> dict[str, Any]:
    """The reference's options from a JSON file; see :func:`from_reference`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is not a JSON object.
    """
    try:
        meta = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(meta).__name__}")
    return meta


def read_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Weights of a TensorFlow checkpoint folder by the reference's names, averaged ones where the checkpoint has them.

    Raises:
        ImportError: tensorflow is not installed.
        ValueError: The folder holds no checkpoint, or none of a RIN.
    """
    try:
        import tensorflow as tf
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    except ImportError as error:
        raise ImportError("reading a TensorFlow checkpoint needs tensorflow: pip install 'rinvid[convert]'") from error
    if tf.train.latest_checkpoint(str(folder)) is None:
        raise ValueError(f"{folder}: holds no TensorFlow checkpoint")
    try:
        reader = tf.train.load_checkpoint(str(folder))
        graph = TrackableObjectGraph()
        graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        # A variable is stored under the path of the object that owns it; beside that stands the name it was made with.
        found: list[tuple[str, str]] = []
        for attribute in (attribute for node in graph.nodes for attribute in node.attributes):
            key, variable = attribute.checkpoint_key, re.search(_VARIABLE, attribute.full_name)
            if variable and "optimizer" not in key.lower():
                found.append((key, variable[1]))
        if not found:
            raise ValueError(f"{folder}: the checkpoint holds no variable of a RIN")
        return {name: reader.get_tensor(key) for key, name in _one_network(found)}
    except (tf.errors.OpError, IndexError, RuntimeError) as error:
        raise ValueError(f"{folder}: not a whole TensorFlow 2 checkpoint: {error}") from error


def _one_network(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of (path in the checkpoint, variable) those of the averaged network, or of the only one."""
    if len({name for _, name in found}) == len(found):
        return found
    # Trained and averaged weights part at the first place where paths differ.
    shared = len([part for part in os.path.commonpath([key for key, _ in found]).split("/") if part])
    copies: dict[str, list[tuple[str, str]]] = {}
    for key, name in found:
        copies.setdefault("/".join(key.split("/")[: shared + 1]), []).append((key, name))
    averaged = [path for path in copies if "ema" in path.rpartition("/")[2]]
    if len(averaged) != 1:
        raise ValueError(f"the checkpoint holds several networks, and not one with 'ema' in its name: {_some(copies)}")
    return copies[averaged[0]]


def _some(names: Any, limit: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
