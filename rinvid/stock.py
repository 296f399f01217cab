"""Our classes under their names in ``diffusers``, where its DiffusionPipeline and schedulers look for them.

diffusers loads a pipeline's class by ``getattr(diffusers, name)``. Importing rinvid must not import diffusers, which
takes seconds, nor may it matter which of the two is imported first; so its module is taught the names when it is there,
and the classes behind them are imported when they are asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import wrapt

NAMES = ("GammaDDIMScheduler", "GammaDDPMScheduler", "RINImagePipeline", "RINModel", "RINVideoPipeline")
# diffusers looks for the base classes of a library's components in that library.
BASES = {
    "ModelMixin": "diffusers.models.modeling_utils",
    "SchedulerMixin": "diffusers.schedulers.scheduling_utils",
}


def register() -> None:
    """Make diffusers know our names, now or as soon as it is imported."""
    wrapt.register_post_import_hook(_teach, "diffusers")
    wrapt.register_post_import_hook(_list, "diffusers.pipelines.pipeline_loading_utils")


def add_library(loading: ModuleType, library: str, names: Iterable[str]) -> None:
    """List a library among those whose components diffusers saves by name, downloads from the hub and imports itself.

    Args:
        loading: The module ``diffusers.pipelines.pipeline_loading_utils``.
        library: The module that has the classes.
        names: The names of the classes.
    """
    methods = {name: ["save_pretrained", "from_pretrained"] for name in names}
    loading.LOADABLE_CLASSES[library] = loading.LOADABLE_CLASSES.get(library, {}) | methods
    loading.ALL_IMPORTABLE_CLASSES.update(methods)


def _list(loading: ModuleType) -> None:
    add_library(loading, "rinvid", BASES)


def _teach(loaded: ModuleType) -> None:
    # diffusers puts a lazy module in its own place while it is imported.
    diffusers = sys.modules[loaded.__name__]
    kind = type(diffusers)

    class Diffusers(kind):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> Any:
            if name in NAMES:
                import rinvid

                return getattr(rinvid, name)
            if hasattr(kind, "__getattr__"):
                return super().__getattr__(name)
            raise AttributeError(f"module 'diffusers' has no attribute {name!r}")

    diffusers.__class__ = Diffusers
