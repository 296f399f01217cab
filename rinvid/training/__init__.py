"""Training: the objective, the optimiser, averaged weights, checkpoints and the loop."""

from rinvid.training.checkpoint import Checkpointer
from rinvid.training.ema import EMA
from rinvid.training.lamb import Lamb
from rinvid.training.objective import diffusion_loss
from rinvid.training.optim import learning_rate, parameter_groups

__all__ = ["EMA", "Checkpointer", "Lamb", "diffusion_loss", "learning_rate", "parameter_groups"]
