"""The settings of one fit. Every field is a flag of `probe fit` and a key of its config file."""

import re
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..errors import InputError
from ..runtime.options import ALL, DATA, GRID, MACHINE, OUTPUT, TRAINING, Joined, Option, Several, fields_of, several
from ..runtime.settings import Address, Amp, Device, Engine, NumGpus, Settings, Shard
from ..runtime.values import read_value
from .presets import load_preset

MADE_FROM = "made_from"
"""Key in a run's `config.yaml` for everything that is not a setting. A fit that reads the file ignores this key."""

LR_GRID, PAPER_LR = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0], [0.1]

EXAMPLES = """
probe fit mae.zarr -o runs/mae --heads ep:queries=32,linear:pool=cls
probe fit mae.zarr -o runs/lr --heads 'ep:queries=8|32' --layers last4 \\
    --lr 0.1,1,10 --seeds 3
probe fit mae=mae.zarr dino=dino.zarr -o runs/few --heads 'ep,knn:k=10|20' \\
    --shots full,16,4 --seeds 5 --dry-run
probe fit mae.zarr --config sweep.yaml --epochs 30
probe fit dino.zarr -o runs/capi --preset capi
"""


def cut_heads(text: str) -> list[str]:
    """Split "ep:queries=8,d_out=2,linear" before each head. A part KEY=VALUE belongs to the head before it."""
    return re.split(r",(?!\s*[A-Za-z_]\w*=)", text)


@dataclass(frozen=True, kw_only=True)
class FitConfig(Settings):
    """The heads to train, the training, and the folder for results. Each field's `Option` explains the field.

    `head` is a second name for the argument `heads`.
    """

    ignored_keys = (MADE_FROM,)

    train_split: Annotated[str, Option("Split to train on.", DATA)] = "train"
    val_split: Annotated[str | None, Option("Split to select on, instead of a part of the training split.", DATA)] = (
        None
    )
    test_split: Annotated[
        str | None, Option("Split to report on.", DATA, default="the first of test, val, validation")
    ] = None
    test_store: Annotated[
        str | Path | None,
        Option(
            "Store of the same backbone that holds the test split.",
            DATA,
            metavar="STORE",
            default="the store trained on",
        ),
    ] = None
    heads: Annotated[
        Several[str],
        Option(
            "Heads to train, each NAME[:key=value,…]. Alternatives in a value make a grid: ep:queries=8|32.",
            GRID,
            also="head",
            metavar="HEAD,…",
            cut=cut_heads,
        ),
    ] = field(default_factory=several("ep", "linear:pool=mean"))
    layers: Annotated[
        Joined,
        Option(
            "Layers to train on: all, last4, or indices such as 0,5,-1. 8+9+10+11 joins the channels of several; "
            "stack:2+5+8, stack:last4 or stack:all puts their tokens side by side.",
            GRID,
            joined=True,
            metavar="LAYERS",
        ),
    ] = ALL
    norm: Annotated[
        Literal["none", "final"],
        Option("Norm of the tokens. final applies the final norm of the backbone to every token.", GRID),
    ] = "none"
    shots: Annotated[
        Several[str],
        Option(
            "Training images per class, such as 16, or full for all.",
            GRID,
            metavar="N,…",
            default="full, unless --fraction is given",
        ),
    ] = field(default_factory=several())
    fraction: Annotated[Several[float], Option("Part of the training images of each class, such as 0.01.", GRID)] = (
        field(default_factory=several())
    )
    lr: Annotated[
        Several[float],
        Option(
            "Base learning rates. The rate is base × batch size / 256.",
            GRID,
            default="0.1,0.3,1,3,10,30, or 0.1 under protocol paper",
        ),
    ] = field(default_factory=several())
    weight_decay: Annotated[Several[float], Option("Weight decays.", GRID)] = field(default_factory=several(0.0))
    seeds: Annotated[
        int,
        Option(
            "Times that each cell is trained, with seeds 0, 1, …. A seed draws the weights and any subset of the "
            "training images.",
            GRID,
            least=1,
        ),
    ] = 1
    preset: Annotated[
        str | None,
        Option(
            "Published protocol to take settings from. Flags and the config file win over it. `probe presets` lists "
            "them.",
            TRAINING,
        ),
    ] = None
    protocol: Annotated[
        Literal["select", "paper"],
        Option(
            "How the reported figure is chosen. select chooses on training images, held out by default, paper takes "
            "the best epoch on the test split.",
            TRAINING,
        ),
    ] = "select"
    select_on: Annotated[
        Literal["shots", "held-out"],
        Option(
            "Images that solvers choose their penalty on, with --shots or --fraction. shots chooses on the training "
            "images, each scored by a fit without it; held-out on others, as trained heads do.",
            TRAINING,
        ),
    ] = "shots"
    val: Annotated[float, Option("Part of the training split that protocol select holds out.", TRAINING)] = 0.1
    optimizer: Annotated[Literal["lars", "sgd", "adamw"], Option("Optimizer of the heads.", TRAINING)] = "lars"
    clip_grad: Annotated[
        float | None,
        Option(
            "Largest norm of the gradient of each head. Larger ones are scaled down.",
            TRAINING,
            default="no limit",
        ),
    ] = None
    class_weights: Annotated[
        Literal["none", "balanced"],
        Option(
            "Weights of the classes in the loss. balanced weighs a class with the inverse of its number of images.",
            TRAINING,
        ),
    ] = "none"
    noise: Annotated[float, Option("Standard deviation of Gaussian noise on training tokens.", TRAINING)] = 0.0
    noise_prob: Annotated[float, Option("Probability that a training batch gets noise.", TRAINING)] = 0.5
    epochs: Annotated[int, Option("Passes over the training images.", TRAINING, least=1)] = 90
    batch_size: Annotated[
        int | None,
        Option(
            "Images per step.",
            TRAINING,
            default="4096; for a small set the largest power of two that leaves ten steps per epoch",
            least=2,  # BatchNorm has no statistics for one image
        ),
    ] = None
    warmup_epochs: Annotated[
        float | None,
        Option("Epochs in which the rate rises from 0.", TRAINING, default="10, but at most a ninth of --epochs"),
    ] = None
    min_steps: Annotated[
        int,
        Option(
            "Least number of steps. A small subset is passed over several times per epoch to reach it.",
            TRAINING,
            least=0,
        ),
    ] = 0
    seed: Annotated[
        int, Option("Seed of the batch order and of the held-out images.", TRAINING, least=0, most=2**63 - 1)
    ] = 0
    out: Annotated[str | Path, Option("Folder of the run.", OUTPUT, short="-o", metavar="RUN")]
    log: Annotated[
        Literal["tensorboard", "wandb"] | None,
        Option(
            "Service that gets curves while the heads train, and the results. It needs the extra of that name.",
            OUTPUT,
        ),
    ] = None
    dry_run: Annotated[bool, Option("Show cells, memory and time, and do nothing.", OUTPUT)] = False
    device: Device = "auto"
    amp: Amp = "auto"
    cache: Annotated[
        Literal["auto", "gpu", "ram", "disk"],
        Option(
            "Where patch tokens stay between epochs. auto takes the first of gpu, ram and disk that has room.", MACHINE
        ),
    ] = "auto"
    local_cache: Annotated[
        str | Path | None,
        Option(
            "Folder that keeps the blocks of stores at addresses: later epochs and runs read them from there.",
            MACHINE,
            metavar="FOLDER",
        ),
    ] = None
    engine: Engine = None
    shard: Shard = None
    address: Address = None
    num_gpus: NumGpus = None
    head: InitVar[Any] = None

    def __post_init__(self, head: Any) -> None:
        if head is not None:
            if self.heads != fields_of(FitConfig)["heads"].value:
                raise InputError("heads and head are two names of one setting; give one of them")
            object.__setattr__(self, "heads", head)
        if self.preset is not None:
            named = self.given | {"heads"} if "head" in self.given else self.given
            for name, value in load_preset(self.preset).settings.items():
                if name not in named:
                    object.__setattr__(self, name, value)
        super().__post_init__()

    def of_preset(self) -> list[str]:
        """Return the names of the settings that have the value of the preset."""
        if self.preset is None:
            return []
        of_name = fields_of(FitConfig)
        values = load_preset(self.preset).settings
        return [name for name, value in values.items() if getattr(self, name) == read_value(of_name[name], value)]
