"""Recipe schema: model, data and training settings as typed models with errors that name the key."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tailcut.channels.scoring.score import Method
from tailcut.errors import ArgumentError
from tailcut.printing import is_fraction
from tailcut.training.recipe.fields import Axes, Counts, Dtype, KeepRatio, ModelSection, Positive
from tailcut.training.recipe.fields import Fraction as Fraction
from tailcut.training.recipe.fields import RecipeSection as RecipeSection
from tailcut.training.recipe.sections import (
    GENERATIVE,
    CompressionSection,
    DataSection,
    GenerationSection,
    Stages,
    check_generation,
    check_stages,
)
from tailcut.weights.nested_levels import parts_of

MAX_EPOCHS = 1_000_000  # more is a typing error


class OverrideSection(RecipeSection):
    """Other settings for the tensors whose name fits a pattern; see `tailcut.regularize`."""

    keep_ratio: KeepRatio | None = None
    num_kept: Positive | None = None
    axes: Axes | None = None
    order_weights: tuple[Positive, ...] | None = None
    min_kept: Positive | None = None


class RegularizationSection(RecipeSection):
    """Tensors that become coefficients, and their initial counts; see `tailcut.regularize`.

    Attributes:
        keep_ratio: part of each tensor kept at the start.
        num_kept: coefficients kept at the start: one number for each tensor, or a table by tensor name.
        min_kept: the fewest that `keep_ratio` leaves of a tensor.
        axes: the transformed axes.
        order_weights: weight of each axis in the order of coefficients.
        include: name patterns of the tensors; the weights of all layers when left out.
        exclude: name patterns of tensors that stay as they are.
        overrides: settings per name pattern.
        initialization: `model` (transform the model's own initial weights, which loses the energy of the tail);
            `rescaled` (the same, enlarged so that the truncated weights have the variance of the dense ones);
            `he` (random coefficients such that the truncated weights have He's variance, 2 / inputs; biases
            start at zero); `normal` (random coefficients of standard deviation 0.1, as in the published code);
            `lsuv` (as `he`, then scaled so that each layer's outputs have mean 0 and variance 1 for one batch
            of training images; see `tailcut.weights.lsuv_init`).
        norm_std: standard deviation of the noise in the initial gains and biases of batch norm, so that channels
            differ; 0 for none. See `tailcut.weights.initialize_norms`.
        num_drawn: for comparison with the low-frequency corner: train only so many of those coefficients, drawn at
            random; the others stay zero. One number for each tensor, or a table by tensor name.
    """

    keep_ratio: KeepRatio | None = None
    num_kept: Counts | None = None
    min_kept: Positive = 1
    axes: Axes = "all"
    order_weights: tuple[Positive, ...] | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    overrides: dict[str, OverrideSection] = Field(default={})
    initialization: Literal["model", "rescaled", "he", "normal", "lsuv"] = "model"
    norm_std: Annotated[float, Field(ge=0)] = 0.0
    num_drawn: Counts | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.keep_ratio is not None and self.num_kept is not None:
            raise ValueError("give keep_ratio or num_kept, not both")
        return self


class NormsSection(RecipeSection):
    """Batch norm with fewer gains and shifts than channels; see `tailcut.weights.truncate_norms`.

    Attributes:
        num_kept: coefficients of each gain and of each shift along the channels, 1 for one number a layer; 0 for none.
    """

    num_kept: Annotated[int, Field(ge=0)]


class StartSection(RecipeSection):
    """The trained network to start from, in place of training from scratch.

    Attributes:
        file: a .tailcut file, `zoo:NAME`, a finished run folder, `run:NAME` (the run folder of that name beside this
            run's), or a torch checkpoint whose weights fit `model`; `data:PATH` is searched under the data roots.
    """

    file: str


class PruningSection(RecipeSection):
    """Channels removed before the training; see `tailcut.prune` and `tailcut.channels.score`.

    Attributes:
        rates: part of the channels to remove: one number, a list, a table by layer, or `paper` or `extended`.
        macs_ratio: instead: prune until at most this part of the MACs is left.
        params_ratio: instead: the same for parameters.
        method: `spectral` (the paper's) or a baseline: `l1`, `l2`, `fpgm`, `apoz`, `bn_scale`, `hrank`, `random`.
        num_batches: batches of training images to score on.
        batch_size: images in each.
        block_size: side of the blocks, `whole`, or `variant`.
        gaussian_sigma: of the Gaussian filter in pixels, `off` for none, or `variant`.
        spatial_weight: lambda, the weight of the spatial part.
        components: parts of the score that count.
        variant: `paper` or `published`.
        min_channels: fewest channels left in a layer.
        round_to: channels are kept in multiples of this.
        max_rate: the largest part of a layer's channels that goes.
        ignore: patterns on names of layers, or of modules that hold layers, that keep their channels.
        recalibrate: measure the statistics of batch norm again after the cut, on as many images.
    """

    rates: float | Literal["paper", "extended"] | tuple[float, ...] | dict[str, float] | None = None
    macs_ratio: KeepRatio | None = None
    params_ratio: KeepRatio | None = None
    method: Method = "spectral"
    num_batches: Positive = 5
    batch_size: Positive = 128
    block_size: Positive | Literal["whole", "variant"] = "variant"
    gaussian_sigma: float | Literal["off", "variant"] = "variant"
    spatial_weight: Annotated[float, Field(ge=0)] = 0.03
    components: tuple[Literal["spectral", "dist", "spatial"], ...] = ("spectral", "dist", "spatial")
    variant: Literal["paper", "published"] = "paper"
    min_channels: Positive = 1
    round_to: Positive = 1
    max_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    ignore: tuple[str, ...] = ()
    recalibrate: bool = False

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if sum(value is not None for value in (self.rates, self.macs_ratio, self.params_ratio)) != 1:
            raise ValueError("give exactly one of rates, macs_ratio and params_ratio")
        return self


class InputsSection(RecipeSection):
    """The network reads frequency channels instead of pixels; see `tailcut.inputs.replace_stem`.

    Attributes:
        pixels: `ycbcr`: YCbCr pixels instead of frequency channels (see `tailcut.inputs.use_ycbcr`); of the other keys
            only those of statistics then apply.
        channels: how many, or a list of their numbers, or the JSON file of a selection.
        chroma: `two_scale` (the paper's) or `full`.
        strides: `paper` or `published`.
        first: the first module that is kept, for networks that `replace_stem` does not know.
        gate: put a gate before the network, which learns the channels that matter.
        gate_temperature: temperature of the gate's Gumbel softmax.
        gate_strength: the weight of the gate's mean in the loss (the paper's lambda).
        statistics_images: training images that the mean and standard deviation of the channels are measured on; 0 for
            no normalisation.
        statistics: standard deviation over all `pixels`, or over the means of `images`, as in the published constants.
    """

    pixels: Literal["ycbcr"] | None = None
    channels: Positive | tuple[int, ...] | str = 64
    chroma: Literal["two_scale", "full"] = "two_scale"
    strides: Literal["paper", "published"] = "paper"
    first: str | None = None
    gate: bool = False
    gate_temperature: Annotated[float, Field(gt=0)] = 1.0
    gate_strength: Annotated[float, Field(ge=0)] = 0.1
    statistics_images: Annotated[int, Field(ge=0)] = 1000
    statistics: Literal["pixels", "images"] = "pixels"

    @model_validator(mode="after")
    def _pixels_or_channels(self) -> Self:
        fields = type(self).model_fields
        both = [key for key in fields if key not in ("pixels", "statistics_images", "statistics")]
        changed = [key for key in both if getattr(self, key) != fields[key].default]
        if self.pixels is not None and changed:
            raise ValueError(f"pixels are no frequency channels: leave out either pixels or {', '.join(changed)}")
        return self


class ScheduleSection(RecipeSection):
    """The cutting of tails; see `tailcut.TailTruncation`.

    Attributes:
        num_kept: coefficients kept at the end: one number for each tensor, or a table by tensor name.
        keep_ratio: the same as a part of each tensor.
        min_kept: the fewest that `keep_ratio` leaves of a tensor.
        spacing: `paper` (beta_n = beta_(n-1) - gamma (beta_(n-1) - epsilon)) or `geometric`.
        gamma: the paper's: the part of what is left above the target that each cut takes; the rest is cut at the end of
            the run.
        fraction: reach the target after this fraction of the run instead.
        every: cut once per `epoch`, or once per so many iterations.
    """

    num_kept: Counts | None = None
    keep_ratio: KeepRatio | None = None
    min_kept: Positive = 1
    spacing: Literal["paper", "geometric"] = "paper"
    gamma: Annotated[float, Field(gt=0, le=1)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    every: Literal["epoch"] | Positive = "epoch"

    @model_validator(mode="after")
    def _one_target_one_speed(self) -> Self:
        if (self.num_kept is None) == (self.keep_ratio is None):
            raise ValueError("give exactly one target: num_kept or keep_ratio")
        if (self.gamma is None) == (self.fraction is None):
            raise ValueError("give exactly one of gamma (of the paper, per cut) and fraction (of the run)")
        if self.spacing == "geometric" and self.fraction is None:
            raise ValueError("spacing 'geometric' needs fraction (of the run after which the target is reached)")
        return self


class LrScheduleSection(RecipeSection):
    """The learning rate over the run, as a factor of `optimizer.lr`.

    Attributes:
        name: `constant`; `cosine` (falls from 1 to 0); `one_cycle` (rises from 1/25 to 1, then falls as
            cosine); `multistep` (times `factor` at each milestone).
        warmup: fraction of the run over which the rate rises; of `cosine` and `one_cycle`.
        milestones: fractions of the run, of `multistep`.
        factor: of `multistep`.
    """

    name: Literal["constant", "cosine", "one_cycle", "multistep"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    milestones: tuple[Fraction, ...] = ()
    factor: Annotated[float, Field(gt=0)] = 0.1


class OptimizerSection(RecipeSection):
    """The optimiser.

    Attributes:
        name: `adam`, `adamw` or `sgd`.
        lr: the (peak) learning rate.
        betas: of `adam` and `adamw`.
        momentum: of `sgd`.
        weight_decay: as the optimiser defines it.
        clip_norm: the largest norm of all gradients together; no clipping when left out.
        ema_decay: decay per step of the moving average of parameters that is evaluated and packed; none when
            left out.
        lr_schedule: the learning rate over the run.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    lr_schedule: LrScheduleSection = LrScheduleSection()


class TrainingSection(RecipeSection):
    """The run.

    Attributes:
        epochs: passes over the training images; with 0 the network is pruned and cut as the recipe says, packed and
            evaluated.
        seed: of everything random.
        precision: `fp32`, or mixed precision `bf16` or `fp16`; the transform itself always runs in float32.
        execution: `fused` trains without dense weights (see `tailcut.fuse`), `dense` builds them in each step; `auto`
            decides by a cost model, at the start and wherever vectors are shortened.
        cuda_graph: on a CUDA device, record the forward and backward of a step as a CUDA graph and replay it: faster
            where a step is many short kernels. For networks whose steps differ by nothing but their numbers; the
            choice of layers, or random numbers of the CPU, would stay those of the recorded step. Without effect on
            other devices, and where several processes train.
        channels_last: train on images in channels-last memory order, often faster for convolutions.
        loss: `cross_entropy`; `dice_bce` (soft Dice plus cross entropy) for masks; `vae` and `gan` for generative
            networks.
        label_smoothing: of the cross entropy.
        round_from: fraction of the run after which the forward pass uses coefficients rounded to `pack.dtype`
            (straight-through: gradients reach the float32 masters); never when left out.
        validate_every: epochs between two validations.
        checkpoint_every: epochs between two checkpoints; the last epoch always has one.
        statistics_images: training images on which batch norm's statistics are measured again for each validation and
            for the packed network; with 0 they are running averages, unless an epoch has fewer than 20 steps,
            parameters are averaged or there is a gate.
    """

    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    execution: Literal["auto", "dense", "fused"] = "auto"
    cuda_graph: bool = False
    channels_last: bool = False
    loss: Literal["cross_entropy", "dice_bce", "vae", "gan"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    round_from: Fraction | None = None
    validate_every: Positive = 1
    checkpoint_every: Positive = 1
    statistics_images: Annotated[int, Field(ge=0)] = 0


class DistillationSection(RecipeSection):
    """A teacher whose outputs the network learns beside the labels.

    Attributes:
        teacher: `zoo:NAME`, a .tailcut file, a finished run folder, `run:NAME` (the run folder of that name beside
            this run's), or a torch checkpoint, for which `data:PATH` is searched under the data roots; or `start`: the
            network of the `start` section as it was before anything was removed.
        model: of a teacher that is a torch checkpoint: the registered model that its weights fit.
        temperature: both outputs are divided by it before the softmax.
        weight: weight of the teacher's part of the loss; that of the labels' part is 1 - weight.
    """

    teacher: str
    model: ModelSection | None = None
    temperature: Annotated[float, Field(gt=0)] = 4.0
    weight: Fraction = 0.7


class DetectionSection(RecipeSection):
    """Settings of the training of a detector; a recipe with this section trains `faster_rcnn` or `mask_rcnn`.

    Attributes:
        backbone: the classification network that the backbone starts from: a .tailcut file, `zoo:NAME`, a finished
            run folder or `run:NAME` beside this run's; random weights when left out.
        flip: probability that a training image is mirrored, left to right.
        statistics_images: training images that the channels' mean and standard deviation are measured on; those of a
            `backbone` are taken from it.
    """

    backbone: str | None = None
    flip: Fraction = 0.5
    statistics_images: Positive = 1000


class PackSection(RecipeSection):
    """Settings of the packed file.

    Attributes:
        dtype: number type of the coefficients.
        other_dtype: number type of everything else (biases, batch norm).
        levels: of a progressive file, the parts of the coefficients that its smaller networks have, see
            `tailcut.save`; each training step draws one level, see `tailcut.NestedLevels`. Empty for one network.
        max_bytes: the most bytes of the file: the trained network is compressed to them, see `tailcut.compress`. None
            packs it as it is.
    """

    dtype: Dtype = "float32"
    other_dtype: Dtype = "float32"
    levels: tuple[float, ...] = ()
    max_bytes: Positive | None = None

    @field_validator("levels")
    @classmethod
    def _rise(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if levels:
            try:
                parts_of(levels)
            except ArgumentError as error:
                raise ValueError(str(error)) from error
        return levels

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.max_bytes is not None and (self.dtype, self.other_dtype) != ("float32", "float32"):
            raise ValueError("max_bytes quantises all numbers: leave out dtype and other_dtype")
        return self


class PaperSection(RecipeSection):
    """The figures of the paper's row that the recipe reproduces.

    Attributes:
        source: where they stand.
        metrics: by name, 0 to 1; distances (`fid`) as they are.
        num_kept: coefficients.
        why_not: why our figures cannot be compared with them; empty if they can.
    """

    source: str
    metrics: dict[str, float] = Field(default={})
    num_kept: Positive | None = None
    why_not: str = ""

    @field_validator("metrics")
    @classmethod
    def _in_range(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if is_fraction(name) and not 0 <= value <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {value}")
        return metrics


class Recipe(RecipeSection):
    """A whole recipe; a section that is None is not used.

    The trainings of `stage` come first, one after another, each from the network of the one before; then that of the
    recipe itself. See `tailcut.training.recipe.stages`.
    """

    name: str
    description: str = ""
    model: ModelSection
    data: DataSection
    start: StartSection | None = None
    inputs: InputsSection | None = None
    pruning: PruningSection | None = None
    regularization: RegularizationSection | None = None
    norms: NormsSection | None = None
    schedule: ScheduleSection | None = None
    optimizer: OptimizerSection
    training: TrainingSection
    distillation: DistillationSection | None = None
    compression: CompressionSection | None = None
    detection: DetectionSection | None = None
    generation: GenerationSection | None = None
    pack: PackSection = PackSection()
    paper: PaperSection | None = None
    stage: Stages = ()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if self.schedule is not None and self.regularization is None:
            raise ValueError("a [schedule] needs a [regularization] section (it may be empty)")
        if self.schedule is not None and self.regularization is not None and self.regularization.num_drawn is not None:
            raise ValueError("regularization.num_drawn takes no [schedule]: a tail of coefficients drawn is no tail")
        if self.distillation is not None and self.distillation.teacher == "start" and not self._goes_on():
            raise ValueError("distillation.teacher 'start' needs a [start] section")
        if self.distillation is not None and self.distillation.teacher == "start" and self.distillation.model:
            raise ValueError("distillation.model: the teacher 'start' is of the recipe's own model; leave it out")
        if self.stage and (self.training.loss == "gan" or self.detection is not None):
            raise ValueError("stage: a gan and a detector cannot go on from another network, and so have no stages")
        check_stages(self.stage)
        if self.training.execution == "fused":
            if self.regularization is None:
                raise ValueError("training.execution 'fused' needs a [regularization] section")
            if self.training.precision != "fp32":
                raise ValueError("training.execution 'fused' needs training.precision 'fp32'")
        if self.training.round_from is not None:
            if self.regularization is None:
                raise ValueError("training.round_from needs a [regularization] section")
            if self.pack.dtype == "float32":
                raise ValueError("training.round_from rounds to pack.dtype; choose float16 or bfloat16 there")
        if self.norms is not None and (self.training.loss == "gan" or self.detection is not None):
            raise ValueError("[norms] is for networks of classes or masks, and for a vae")
        check_generation(self.generation, self.training.loss)
        self._check_pack()
        self._check_source()
        self._check_lsuv()
        self._check_recorded()
        return self

    def _goes_on(self) -> bool:
        """Return whether there is a network to start from."""
        return self.start is not None or bool(self.stage)

    def _check_pack(self) -> None:
        if self.pack.levels and (
            self.regularization is None or self.training.loss == "gan" or self.detection is not None
        ):
            raise ValueError("pack.levels is for networks of classes or masks with a [regularization] section")
        if self.pack.max_bytes is not None and (self.training.loss in GENERATIVE or self.detection is not None):
            raise ValueError("pack.max_bytes is for networks of classes or masks")

    def _check_source(self) -> None:
        if self.data.source == "pixels":
            return
        if self.training.loss != "cross_entropy" or self.detection is not None:
            raise ValueError("data.source 'coefficients' is for networks of classes")
        reads_pixels = self.inputs is None and not self._goes_on()
        if reads_pixels or (self.inputs is not None and self.inputs.pixels is not None):
            raise ValueError("data.source 'coefficients' needs a network on frequency channels: [inputs] says which")

    def _check_recorded(self) -> None:
        training = self.training
        if not training.cuda_graph:
            return
        if training.execution == "fused":
            raise ValueError("training.cuda_graph records steps with dense weights: choose training.execution 'dense'")
        if training.precision == "fp16":
            raise ValueError("training.cuda_graph: fp16 scales the loss step by step; choose training.precision 'bf16'")
        if training.loss == "gan":
            raise ValueError("training.cuda_graph: has no meaning for training.loss 'gan', leave it out")
        if self.pack.levels:
            raise ValueError("training.cuda_graph: each step of pack.levels trains another network; leave it out")

    def _check_lsuv(self) -> None:
        measured = self.regularization is not None and self.regularization.initialization == "lsuv"
        if measured and (self.training.loss == "gan" or self.detection is not None):
            kind = "the networks of a gan" if self.training.loss == "gan" else "a detector"
            raise ValueError(
                f"regularization.initialization 'lsuv' runs the network on one batch of images, and {kind} "
                "cannot be run so; choose 'he'"
            )
