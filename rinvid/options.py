"""The command line of a recipe: preset, then --config file, then single options, into a frozen RunConfig."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from rinvid.models.rin import RINModel
from rinvid.training.config import (
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
)

Presets = Mapping[str, Mapping[str, Any]]

GROUPS = {
    "data": DataConfig,
    "diffusion": DiffusionConfig,
    "optimizer": OptimizerConfig,
    "sampling": SamplingConfig,
    "evaluation": EvaluationConfig,
}


def parse(presets: Presets, default: str, arguments: list[str] | None = None) -> RunConfig:
    """The run that a command line asks for: preset, then --config file, then single options.

    An unknown key or a value of the wrong type ends the program with one line and status 2.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset")
    chooser.add_argument("--config")
    chosen, _ = chooser.parse_known_args(arguments)
    preset = chosen.preset or _preset_of_file(chosen.config) or default
    if preset not in presets:
        _fail(f"unknown preset {preset!r}; known: {', '.join(presets)}")

    parser = ArgumentParser(
        description="Train, sample and evaluate a RIN on video.", exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file, for example runs/x/config.yaml of another run")
    parser.add_argument("--preset", type=str, default=preset, help=f"where to start from: {', '.join(presets)}")
    parser.add_class_arguments(RINModel, "model", instantiate=False)
    for name, group in GROUPS.items():
        parser.add_class_arguments(group, name, instantiate=False)
    parser.add_class_arguments(RunConfig, None, skip={"preset", "model", *GROUPS}, instantiate=False)
    parser.set_defaults(_flat(presets[preset]))
    try:
        values = parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        _fail(" ".join(str(error).split()) + _suggestion(str(error), parser))
    values.pop("config")
    if values["data"]["root"] is not None:
        # The saved configuration must mean the same folder from everywhere.
        values["data"]["root"] = str(Path(values["data"]["root"]).expanduser().resolve())
    groups = {name: group(**values.pop(name)) for name, group in GROUPS.items()}
    return RunConfig(**values, **groups)


def as_plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON and YAML data."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _flat(preset: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with the keys of its groups joined by dots, as the parser names them."""
    flat: dict[str, Any] = {}
    for key, value in preset.items():
        if key == "model" or key in GROUPS:
            flat |= {f"{key}.{name}": setting for name, setting in value.items()}
        else:
            flat[key] = value
    return flat


def _suggestion(message: str, parser: ArgumentParser) -> str:
    """The option that a mistyped one was probably meant to be."""
    if "unrecognized arguments" not in message:
        return ""
    known = [option for action in parser._actions for option in action.option_strings]
    near = get_close_matches(message.split("unrecognized arguments:")[1].split()[0].split("=")[0], known, n=1)
    return f" (did you mean {near[0]}?)" if near else "; --help lists all options"


def _preset_of_file(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        _fail(f"--config {path}: {' '.join(str(error).split())}")
    return content.get("preset") if isinstance(content, dict) else None


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
