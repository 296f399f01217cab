"""The parts of a saved pipeline that come from plugins, so that a missing one can be asked for by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusers.pipelines import pipeline_loading_utils

from rinvid import registry
from rinvid.registry import RUNNING_PROGRAM, Registry
from rinvid.stock import add_library

_REGISTRIES = {r.group: r for r in (registry.tokenizers, registry.schedules, registry.schedulers, registry.backbones)}


def foreign_parts(model: Any, scheduler: Any) -> dict[str, str]:
    """``{"group:name": "distribution version"}`` of what does not belong to rinvid."""
    found = {}
    for parts, name in _parts(model, scheduler):
        origin = parts.distribution(name)
        if origin.split()[0] != "rinvid":
            found[f"{parts.group}:{name}"] = origin
    return found


def require_parts(recorded: Mapping[str, str]) -> None:
    """Raise ValueError unless all parts that a pipeline was saved with are there; tell diffusers of their classes."""
    for key, origin in recorded.items():
        group, _, name = key.partition(":")
        if group not in _REGISTRIES:
            raise ValueError(f"this pipeline needs {key!r} of {origin}; known groups: {', '.join(_REGISTRIES)}")
        parts = _REGISTRIES[group]
        if name not in parts.names():
            missing = "not installed: pip install " + origin.split()[0]
            if origin == RUNNING_PROGRAM:
                missing = "not registered in this one"
            raise ValueError(f"this pipeline needs the {parts.kind} {name!r} of {origin}, which is {missing}")
        part = parts.get(name)
        if group in ("rinvid.schedulers", "rinvid.backbones"):
            add_library(pipeline_loading_utils, part.__module__, [part.__name__])


def _parts(model: Any, scheduler: Any) -> Iterator[tuple[Registry, str]]:
    for parts, holder, key in ((registry.tokenizers, model, "tokenizer"), (registry.schedules, scheduler, "schedule")):
        spec = holder.config.get(key)
        if spec is not None:
            yield parts, spec if isinstance(spec, str) else spec["type"]
    for parts, component in ((registry.schedulers, scheduler), (registry.backbones, model)):
        try:
            yield parts, parts.name_of(type(component))
        except ValueError:
            continue  # diffusers' own
