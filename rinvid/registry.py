"""Parts by name: one registry a kind of part, filled from entry points and never by import.

A part is named by a *spec*: a plain name (``"cosine"``) or a mapping with the key ``type`` and the
part's own parameters (``{"type": "sigmoid", "tau": 0.9}``). rinvid's own parts are registered through
the same entry points that a plugin uses, so nothing built in is special.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

Spec = str | Mapping[str, Any]
# Where a part comes from that no distribution registered.
RUNNING_PROGRAM = "the program that saved it"
PartT = TypeVar("PartT", bound=Callable[..., Any])


class Registry:
    """Names of one kind of part, and how to make it.

    Args:
        kind: What a part is called in messages, for example ``"noise schedule"``.
        group: The entry-point group that distributions register into.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._parts: dict[str, Callable[..., Any]] = {}

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            known = found.setdefault(entry.name, entry)
            if known.value != entry.value:
                raise ValueError(
                    f"{self.kind} {entry.name!r} is registered twice in {self.group}: "
                    f"{_origin(known)} and {_origin(entry)}; uninstall one of them"
                )
        return found

    def names(self) -> list[str]:
        """All names, sorted; reads package metadata only and imports nothing."""
        return sorted({*self._entries, *self._parts})

    def register(self, name: str) -> Callable[[PartT], PartT]:
        """Decorator that adds a class or function of the running program under ``name``.

        Raises:
            ValueError: The name is taken by another part.
        """

        def add(part: PartT) -> PartT:
            if name in self.names():
                raise ValueError(f"{self.kind} {name!r} is already registered")
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> Callable[..., Any]:
        """The part called ``name``, imported on first use.

        Raises:
            ValueError: No such name, or the distribution that registered it cannot be imported.
        """
        if name not in self._parts:
            if name not in self._entries:
                raise ValueError(
                    f"unknown {self.kind} {name!r}; known: {', '.join(self.names())} "
                    f"(a plugin adds more through the entry-point group {self.group})"
                )
            entry = self._entries[name]
            try:
                self._parts[name] = entry.load()
            except Exception as error:
                raise ValueError(f"{self.kind} {name!r} from {_origin(entry)} cannot be imported: {error}") from error
        return self._parts[name]

    def create(self, spec: Spec, **parameters: Any) -> Any:
        """Make the part that ``spec`` names.

        Args:
            spec: A name, or a mapping with ``type`` and parameters.
            **parameters: Further parameters; they win over those of the mapping.

        Raises:
            ValueError: Unknown name, or a parameter that the part does not take.
            TypeError: ``spec`` is neither a name nor a mapping with ``type``.
        """
        if isinstance(spec, str):
            spec = {"type": spec}
        if not isinstance(spec, Mapping) or "type" not in spec:
            raise TypeError(f"a {self.kind} is a name or a mapping with the key 'type', got {spec!r}")
        arguments = {key: value for key, value in spec.items() if key != "type"} | parameters
        part = self.get(spec["type"])
        try:
            inspect.signature(part).bind(**arguments)
        except TypeError as error:
            known = ", ".join(inspect.signature(part).parameters) or "none"
            raise ValueError(f"{self.kind} {spec['type']!r}: {error}; its parameters: {known}") from error
        return part(**arguments)

    def distribution(self, name: str) -> str:
        """Name and version of the distribution that registered ``name``, or that the running program did.

        Raises:
            ValueError: No such name.
        """
        if name not in self.names():
            self.get(name)
        dist = self._entries[name].dist if name in self._entries else None
        return f"{dist.name} {dist.version}" if dist else RUNNING_PROGRAM

    def name_of(self, part: Callable[..., Any]) -> str:
        """The name under which ``part`` is registered, the inverse of :meth:`get`.

        Raises:
            ValueError: The part is not registered.
        """
        path = f"{part.__module__}:{part.__qualname__}"
        for name, known in self._parts.items():
            if known is part:
                return name
        for name, entry in self._entries.items():
            if entry.value == path:
                return name
        raise ValueError(f"{path} is not registered as a {self.kind}; register it with @{self.kind}s.register(name)")


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name if entry.dist else 'unknown distribution'} ({entry.value})"


tokenizers = Registry("tokenizer", "rinvid.tokenizers")
schedules = Registry("schedule", "rinvid.schedules")
schedulers = Registry("scheduler", "rinvid.schedulers")
backbones = Registry("backbone", "rinvid.backbones")
datasets = Registry("dataset", "rinvid.datasets")
extractors = Registry("extractor", "rinvid.extractors")
