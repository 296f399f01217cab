"""``rinvid.DiffusionPipeline``: the pipeline that a saved folder says it is."""

from __future__ import annotations

from diffusers.pipelines import pipeline_utils


class DiffusionPipeline(pipeline_utils.DiffusionPipeline):
    """Loads RINImagePipeline or RINVideoPipeline, whichever ``model_index.json`` names.

    diffusers looks a pipeline's class up in the package of the class named DiffusionPipeline that loads it.
    """
