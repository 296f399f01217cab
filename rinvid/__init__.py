"""rinvid: image and video diffusion with Recurrent Interface Networks.

Public names load on first use; importing the package loads neither decoders nor plotting.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rinvid import stock

if TYPE_CHECKING:
    from rinvid.models.rin import RINModel, RINOutput
    from rinvid.pipelines.auto import DiffusionPipeline
    from rinvid.pipelines.image import RINImagePipeline
    from rinvid.pipelines.video import RINVideoPipeline, VideoPipelineOutput
    from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
    from rinvid.schedules import Schedule, create_schedule
    from rinvid.visual import export_to_gif, export_to_video

__version__ = version("rinvid")

_HOMES = {
    "DiffusionPipeline": "rinvid.pipelines.auto",
    "RINImagePipeline": "rinvid.pipelines.image",
    "RINModel": "rinvid.models.rin",
    "RINOutput": "rinvid.models.rin",
    "RINVideoPipeline": "rinvid.pipelines.video",
    "VideoPipelineOutput": "rinvid.pipelines.video",
    "GammaDDIMScheduler": "rinvid.schedulers.gamma",
    "GammaDDPMScheduler": "rinvid.schedulers.gamma",
    "Schedule": "rinvid.schedules",
    "create_schedule": "rinvid.schedules",
    "export_to_gif": "rinvid.visual",
    "export_to_video": "rinvid.visual",
}

__all__ = [
    "DiffusionPipeline",
    "GammaDDIMScheduler",
    "GammaDDPMScheduler",
    "RINImagePipeline",
    "RINModel",
    "RINOutput",
    "RINVideoPipeline",
    "Schedule",
    "VideoPipelineOutput",
    "create_schedule",
    "export_to_gif",
    "export_to_video",
]

stock.register()


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or stock.BASES.get(name)
    if home is None:
        raise AttributeError(f"module 'rinvid' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
