"""The reference's network, written out on its own arrays, and a RINModel's arrays by the reference's names."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rinvid.models.layers import Attention, FeedForward
from rinvid.models.rin import RINModel
from tests.helpers import parity

Arrays = dict[str, Tensor]


def weights_of(name: str) -> Arrays:
    return {key[8:]: array.clone() for key, array in parity(name)[0].items() if key.startswith("weights/")}


def meta_of(name: str) -> dict[str, Any]:
    """A copy that may be changed."""
    return json.loads(json.dumps(parity(name)[1]))


# -- from a RINModel to the reference's names and layouts


def reference_arrays(model: RINModel) -> Arrays:
    """The reference's arrays that make this network."""
    arrays: Arrays = {}

    def norm(name: str, layer: nn.LayerNorm) -> None:
        arrays.update({f"{name}/gamma": layer.weight, f"{name}/beta": layer.bias})

    def dense(name: str, layer: nn.Linear, *shape: int) -> None:
        kernel = layer.weight.T  # (in, out)
        arrays.update({f"{name}/kernel": kernel.reshape(shape or kernel.shape), f"{name}/bias": layer.bias})

    def feed_forward(name: str, layer: FeedForward) -> None:
        norm(f"{name}/ln", layer.norm)
        dense(f"{name}/dense1", layer.expand)
        dense(f"{name}/dense2", layer.contract)

    def attention(name: str, layer: Attention) -> None:
        for part in ("query", "key", "value"):
            own = getattr(layer, part)
            dense(f"{name}/{part}", own, own.in_features, layer.heads, own.out_features // layer.heads)
            arrays[f"{name}/{part}/bias"] = own.bias.reshape(layer.heads, -1)
        width, out = layer.output.in_features, layer.output.out_features
        dense(f"{name}/attention_output", layer.output, layer.heads, width // layer.heads, out)

    c = model.config
    patch = c.tokenizer["patch_size"]
    dense("stem", model.codec.stem, *([patch] * 2 if isinstance(patch, int) else patch), c.in_channels, c.interface_dim)
    norm("stem_ln", model.stem_norm)
    dense("time_emb/dense0", model.time_embedding.expand)
    dense("time_emb/dense1", model.time_embedding.mix)
    if model.label_embedding is not None:
        dense("cond_proj", model.label_embedding)
    for part, rows, recall, kind in (
        ("latent", model.latent_rows, model.latent_recall, c.latent_position),
        ("tape", model.interface_rows, model.interface_recall, c.interface_position),
    ):
        if rows.weight is not None:
            leaf = "pos_emb/kernel/vis_pos_embedding" if kind == "learned" else "pos_emb_res/kernel"
            arrays[f"{part}_{leaf}"] = rows.weight
        if recall is not None:
            feed_forward(f"{part}_prev_proj/ffn", recall.feed_forward)
            norm(f"{part}_prev_ln", recall.norm)
    for i, block in enumerate(model.blocks):
        for unit, layer in (("read", block.read), ("write", block.write)):
            name = f"{unit}_unit_{i}/transformer_decoder_layer"
            if layer is not None:
                norm(f"{name}/cross_mha/ln", layer.norm)
                if c.xattn_enc_ln:
                    norm(f"{name}/cross_mha/enc_ln", layer.norm_source)
                attention(f"{name}/cross_mha", layer.attention)
                feed_forward(f"{name}/mlp/ffn", layer.feed_forward)
        for k, layer in enumerate(block.compute):
            name = f"latent_processing_unit{i}/transformer_encoder{f'_{k}' if k else ''}"
            norm(f"{name}/mha/ln", layer.norm)
            attention(f"{name}/mha", layer.attention)
            feed_forward(f"{name}/mlp/ffn", layer.feed_forward)
    norm("output_ln", model.output_norm)
    dense("output_linear", model.codec.readout)
    return {name: array.detach().clone() for name, array in arrays.items()}


def reference_meta(model: RINModel, of_diffusion: bool = False) -> dict[str, Any]:
    """The reference's options, as files of a network alone have them, or as those with its diffusion do."""
    c, video = model.config, model.config.num_frames is not None
    options = {
        "num_layers": ",".join(map(str, c.num_layers)),
        "latent_slots": c.num_latents,
        "latent_dim": c.latent_dim,
        "latent_mlp_ratio": c.latent_mlp_ratio,
        "latent_num_heads": c.latent_num_heads,
        "tape_dim": c.interface_dim,
        "tape_mlp_ratio": c.interface_mlp_ratio,
        "rw_num_heads": c.rw_num_heads,
        "time_scaling": c.time_scaling,
        "self_cond": c.self_cond.replace("interface", "tape"),
        "latent_pos_encoding": c.latent_position,
        "tape_pos_encoding": c.interface_position,
        "xattn_enc_ln": c.xattn_enc_ln,
        "time_on_latent": c.time_on_latent,
        "image_channels": c.in_channels,
        "patch_size": c.tokenizer["patch_size"][1] if video else c.tokenizer["patch_size"],
    }
    if video:
        options["seq_stride"] = c.tokenizer["patch_size"][0]
    meta = {"kind": "video" if video else "image", "image_size": model.frame_size[0], "num_classes": c.num_classes or 0}
    if of_diffusion:
        condition = f"seq@{c.context_frames}" if video else "class"
        unused = {"conv_kernel_size": 0, "drop_att": 0.0, "cond_dim": 0, "cond_proj": True}
        options |= unused | {"conditional": condition, "cond_on_latent": c.cond_on_latent}
        return meta | {"seq_len": c.num_frames, "model": options}
    options |= {"image_height": model.frame_size[0], "image_width": model.frame_size[1]}
    options |= {"seq_len": c.num_frames, "seq_cond": c.context_frames} if video else {}
    return meta | {"config": options | {"cond_on_latent_n": int(c.cond_on_latent)}}


# -- the reference's network on its own arrays, channels last


def code(length: int, dim: int) -> Tensor:
    """Fixed code of a line, (length, dim)."""
    return wave(torch.arange(length) / max(length - 1, 1) * 1000, dim)


def wave(values: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of values (n,), as (n, dim)."""
    rates = torch.tensor([10000.0 ** (-2 * (i // 2) / dim) for i in range(0, dim, 2)])
    return torch.cat([torch.sin(values[:, None] * rates), torch.cos(values[:, None] * rates)], 1)


def written_out(
    arrays: Arrays,
    options: dict[str, Any],
    x: Tensor,
    gamma: Tensor,
    one_hot: Tensor | None = None,
    given: Tensor | None = None,
    latents: Tensor | None = None,
    tape: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, final latents and final tape of the reference, from (B, H, W, C) or (B, F, H, W, C) in float32."""

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * arrays[f"{name}/gamma"] + arrays[f"{name}/beta"]

    def ffn(name: str, x: Tensor) -> Tensor:
        return dense(f"{name}/dense2", F.gelu(dense(f"{name}/dense1", norm(f"{name}/ln", x))))

    def attend(name: str, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (
            torch.einsum("btd,dhk->bthk", z, arrays[f"{name}/{part}/kernel"]) + arrays[f"{name}/{part}/bias"]
            for part, z in (("query", x), ("key", y), ("value", y))
        )
        share = (torch.einsum("bqhk,bthk->bhqt", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        kernel = arrays[f"{name}/attention_output/kernel"]
        return torch.einsum("bhqt,bthk,hkd->bqd", share, v, kernel) + arrays[f"{name}/attention_output/bias"]

    def cross(unit: str, x: Tensor, y: Tensor) -> Tensor:
        name = f"{unit}/transformer_decoder_layer"
        y = norm(f"{name}/cross_mha/enc_ln", y) if options.get("xattn_enc_ln") else y
        x = x + attend(f"{name}/cross_mha", norm(f"{name}/cross_mha/ln", x), y)
        return x + ffn(f"{name}/mlp/ffn", x)

    def compute(name: str, z: Tensor) -> Tensor:
        normed = norm(f"{name}/mha/ln", z)
        z = z + attend(f"{name}/mha", normed, normed)
        return z + ffn(f"{name}/mlp/ffn", z)

    def stem(x: Tensor) -> Tensor:
        kernel = arrays["stem/kernel"]
        if kernel.ndim == 4:
            out = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), arrays["stem/bias"], kernel.shape[:2])
        else:
            rest = torch.zeros(x.shape[0], -x.shape[1] % kernel.shape[0], *x.shape[2:])
            clip = torch.cat([x, rest], 1).permute(0, 4, 1, 2, 3)
            out = F.conv3d(clip, kernel.permute(4, 3, 0, 1, 2), arrays["stem/bias"], kernel.shape[:3])
        return out.flatten(2).transpose(1, 2)

    def positions(part: str, fixed: Tensor) -> Tensor:
        kind = options[f"{part}_pos_encoding"]
        if kind == "learned":
            return arrays[f"{part}_pos_emb/kernel/vis_pos_embedding"]
        return fixed + (arrays[f"{part}_pos_emb_res/kernel"] if kind == "sin_cos_plus_learned" else 0)

    def recalled(part: str, x: Tensor, previous: Tensor | None) -> Tensor:
        if part not in options["self_cond"]:
            return x
        previous = torch.zeros_like(x) if previous is None else previous
        return x + norm(f"{part}_prev_ln", previous + ffn(f"{part}_prev_proj/ffn", previous))

    patch = arrays["stem/kernel"].shape[-4:-2]
    h, w = x.shape[-3] // patch[0], x.shape[-2] // patch[1]
    tokens = [stem(x)] if given is None else [stem(x), stem(given)]
    steps = sum(part.shape[1] for part in tokens) // (h * w)
    dim = options["tape_dim"]
    rows = torch.cat(
        [code(h, dim // 2)[:, None].expand(-1, w, -1), code(w, dim // 2)[None].expand(h, -1, -1)], -1
    ).flatten(0, 1)
    tape_now = norm("stem_ln", torch.cat(tokens, 1)) + positions("tape", rows.repeat(steps, 1))
    tape_now = recalled("tape", tape_now, tape)

    noise = wave(gamma * options["time_scaling"], arrays["time_emb/dense0/kernel"].shape[0])
    noise = (noise - noise.mean(1, keepdim=True)) / noise.std(1, correction=0, keepdim=True)
    time = dense("time_emb/dense1", F.silu(dense("time_emb/dense0", noise)))[:, None]
    on_latent, on_tape = ([time], []) if options.get("time_on_latent") else ([], [time])
    if one_hot is not None:
        on = on_latent if options.get("cond_on_latent", options.get("cond_on_latent_n")) else on_tape
        on.append(dense("cond_proj", one_hot)[:, None])
    free = options["latent_slots"] - len(on_latent)
    own = positions("latent", code(free, options["latent_dim"])).expand(len(x), -1, -1)
    z = recalled("latent", torch.cat([own, *on_latent], 1), latents)

    for i, depth in enumerate(map(int, options["num_layers"].split(","))):
        z = cross(f"read_unit_{i}", z, torch.cat([tape_now, *on_tape], 1))
        for k in range(depth):
            z = compute(f"latent_processing_unit{i}/transformer_encoder{f'_{k}' if k else ''}", z)
        if depth:
            tape_now = cross(f"write_unit_{i}", tape_now, z)

    pixels = dense("output_linear", norm("output_ln", tape_now))
    if x.ndim == 4:
        out = pixels.reshape(len(x), h, w, *patch, -1).permute(0, 1, 3, 2, 4, 5)
        return out.reshape(x.shape), z, tape_now
    stride = arrays["stem/kernel"].shape[0]
    out = pixels.reshape(len(x), steps, h, w, stride, *patch, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return out.reshape(len(x), steps * stride, *x.shape[2:])[:, : x.shape[1]], z, tape_now
