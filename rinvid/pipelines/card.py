"""The model card of a saved pipeline: what it is, what it was trained on, what it reached, how to use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rinvid.data.home import whole_file


def write_card(folder: str | os.PathLike[str], pipeline: Any, facts: Mapping[str, Any] | None = None) -> None:
    """Write README.md into a saved pipeline's folder.

    Args:
        folder: The pipeline's folder.
        pipeline: The pipeline.
        facts: Lines for the section on training and results, by name; None says that nothing is known.
    """
    name, config = type(pipeline).__name__, pipeline.model.config
    size = "x".join(map(str, pipeline.model.frame_size))
    parameters = sum(p.numel() for p in pipeline.model.parameters())
    lines = [
        "---",
        "library_name: diffusers",
        "tags: [rinvid, recurrent-interface-network]",
        "---",
        "",
        f"# {name}",
        "",
        f"A Recurrent Interface Network of {parameters / 1e6:.2f}M parameters, made with rinvid.",
        "",
        "| | |",
        "|---|---|",
    ]
    if config.num_frames:
        lines += [f"| clips | {config.num_frames} frames of {size}, {config.context_frames} of them given |"]
    else:
        lines += [f"| images | {size} |"]
    lines += [
        f"| classes | {config.num_classes or 'none'} |",
        f"| tokenizer | `{dict(config.tokenizer)}` |",
        f"| prediction | {pipeline.scheduler.config.get('prediction_type')} |",
        f"| sampler | {type(pipeline.scheduler).__name__} |",
        *(f"| {key} | {value} |" for key, value in (facts or {"training": "not recorded"}).items()),
        "",
        "```python",
        "import rinvid",
        "",
        'pipeline = rinvid.DiffusionPipeline.from_pretrained("path/or/repository")',
        "```",
        "",
    ]
    with whole_file(Path(folder) / "README.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
