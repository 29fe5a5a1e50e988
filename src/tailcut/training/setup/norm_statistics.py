"""Schedule and sample size of the recalibration of batch norm in a training.

Batch norm evaluates with running averages over the steps of training, of which each step adds a tenth. They are good
where many steps went by while the weights changed little. In a short training they are those of other weights: networks
that have learnt their training images by heart then give every image the same class.
"""

import math

from torch import nn

from tailcut.channels.scoring.recalibration import norms_with_statistics
from tailcut.evaluation.pixel_inputs import has_gate
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import Recipe

NUM_BATCHES = 20  # of inputs, where a recipe does not say how many images
# Running averages over fewer steps than that still contain old weights (0.9 ** 20 is 0.12).
FEW_STEPS = 20


def check_statistics(recipe: Recipe, model: nn.Module) -> None:
    """Refuse `training.statistics_images` for a network that keeps no running statistics.

    Raises:
        RecipeError: it does not, and the recipe has the key.
    """
    is_useless = recipe.training.statistics_images > 0 and not norms_with_statistics(model)
    useless = {"training.statistics_images": is_useless}
    check_unused(useless, of="a network without running statistics of batch norm")


def recalibration_batches(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[int, int]:
    """Return the batches for the recalibration of batch norm: images per batch, and number of batches; 0 for none.

    The recipe may say how many images. If not, it is done where the statistics of training do not fit. Short epochs:
    above. Gates: channels whose probability is a little below one half are open half of the time in training and never
    in evaluation, where the statistics of training would be those of other inputs. Averages: the statistics are those
    of the parameters before averaging (Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, section 3).
    The model is not changed; `num_images` are in the training split.
    """
    size = recipe.data.batch_size
    wanted = math.ceil(recipe.training.statistics_images / size)
    # A generator's statistics do not depend on how many images there are to learn from, and no class hangs on them.
    is_short = num_images // size < FEW_STEPS and recipe.training.loss != "gan"
    if not wanted and (is_short or recipe.optimizer.ema_decay is not None or has_gate(model)):
        wanted = NUM_BATCHES
    if wanted < num_images // size:
        return size, wanted
    # All images, in batches of nearly one size: each counts the same, and small ones are noisy.
    count = math.ceil(num_images / size)
    return math.ceil(num_images / count), count if wanted else 0
