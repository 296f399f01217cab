"""Configurations are taken whole or not at all: a key that a class does not know is an error."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any


class StrictConfig:
    """Mixin for diffusers' ConfigMixin, whose own answer to an unknown key is a warning."""

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Arguments of the constructor from a configuration; keys that begin with an underscore are diffusers' own.

        Raises:
            ValueError: The configuration has a key that the class does not take.
        """
        known = cls._get_init_keys(cls) - {"self"}  # type: ignore[attr-defined]
        for key in (config_dict.keys() | kwargs.keys()) - known:
            if not key.startswith("_"):
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
                raise ValueError(f"unknown key {key!r} in the configuration of {cls.__name__}; {hint}")
        return super().extract_init_dict(config_dict, **kwargs)  # type: ignore[misc]
