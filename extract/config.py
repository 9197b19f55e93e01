"""The settings of one extraction. Every field is a flag of `probe extract` and a key of its config file."""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ..runtime.address import is_address, redacted
from ..runtime.options import ALL, BACKBONE, DATA, OUTPUT, Joined, Option, Several, fields_of, several
from ..runtime.settings import (
    Address,
    Amp,
    Device,
    Engine,
    ForwardSize,
    NumGpus,
    Settings,
    Shard,
    SkipBadImages,
    Workers,
)

EXAMPLES = """
probe extract -m timm:vit_base_patch16_224.mae -d folder:imagenet \\
    -o mae.zarr --layers last4 --dry-run
probe extract -m open_clip:ViT-L-14/openai -d folder:imagenet \\
    -o clip.zarr  # downloads weights
probe extract -m timm:VisionTransformer --checkpoint mine.safetensors \\
    -d npz:cifar.npz -o mine.zarr \\
    --model-arg img_size=32,patch_size=4,embed_dim=192,depth=8,num_heads=3
torchrun --nproc-per-node=8 -m tokenprobe extract \\
    -m timm:vit_base_patch16_224.mae -d folder:imagenet -o mae.zarr
"""
CheckpointFile = Annotated[
    str | Path | None,
    Option("File with the weights of the backbone; then nothing is downloaded.", BACKBONE, metavar="FILE"),
]
WeightsKey = Annotated[
    str | None,
    Option("Key or prefix of the weights in the checkpoint.", BACKBONE, default="an average, if there is one"),
]
ModelArg = Annotated[dict[str, Any], Option("Arguments for the constructor of the backbone.", BACKBONE)]
ImageSize = Annotated[
    Several[int],
    Option(
        "Size of the input images of the backbone in pixels: one side, or height and width.",
        BACKBONE,
        metavar="SIDE",
        default="that of the backbone",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(Settings):
    """Settings of one extraction. Each field's `Option` holds its help text."""

    data: Annotated[
        str,
        Option(
            "Images to read, such as folder:imagenet or npz:images.npz. The command probe datasets lists every form.",
            DATA,
            short="-d",
            metavar="SOURCE",
        ),
    ]
    split: Annotated[Several[str], Option("Splits to read.", DATA, default="every split of the data")] = field(
        default_factory=several()
    )
    split_fraction: Annotated[
        float | None,
        Option("Part of each class that becomes the test split, if the data has only one split.", DATA),
    ] = None
    limit: Annotated[
        int | None,
        Option(
            "Use at most this many images per split, balanced over classes. A larger limit later adds images.",
            DATA,
            least=1,
        ),
    ] = None
    row_order: Annotated[
        Literal["shuffled", "dataset"],
        Option("Order of the rows: shuffled by --seed, or dataset, the order of the source.", DATA),
    ] = "shuffled"
    skip_bad_images: SkipBadImages = False
    decode: Annotated[
        Literal["exact", "fast"],
        Option(
            "How images are resampled: exact uses Pillow; fast uses torch, which decodes 1.5 times as many images per "
            "core, with pixels at most two grey levels apart.",
            DATA,
        ),
    ] = "exact"
    views: Annotated[
        int,
        Option(
            "Views per training image. View 0 is the evaluation transform; the others are random crops.", DATA, least=1
        ),
    ] = 1
    view_scale: Annotated[
        Several[float], Option("Smallest and largest part of the image area in a random crop.", DATA, metavar="MIN,MAX")
    ] = field(default_factory=several(0.08, 1.0))
    view_ratio: Annotated[
        Several[float],
        Option("Smallest and largest ratio of width to height in a random crop.", DATA, metavar="MIN,MAX"),
    ] = field(default_factory=several(3 / 4, 4 / 3))
    seed: Annotated[
        int,
        Option(
            "Seed for the row order, --limit, --split-fraction, random crops, and the weights under --no-pretrained.",
            DATA,
            least=0,
            most=2**63 - 1,
        ),
    ] = 0
    model: Annotated[
        str | Any,  # or, in Python, a tokenprobe.extract.backbones.Backbone
        Option(
            "Backbone, such as timm:vit_base_patch16_224.mae or open_clip:ViT-L-14/openai. The command probe models "
            "lists them.",
            BACKBONE,
            short="-m",
        ),
    ]
    checkpoint: CheckpointFile = None
    checkpoint_key: WeightsKey = None
    checkpoint_grid: Annotated[
        Several[int],
        Option(
            "Grid of the position table in the checkpoint, in patches: one side, or height and width.",
            BACKBONE,
            metavar="SIDE",
            default="guessed from its size",
        ),
    ] = field(default_factory=several())
    allow_missing: Annotated[
        Several[str], Option("Weights, or submodules such as norm, that the checkpoint may lack.", BACKBONE)
    ] = field(default_factory=several())
    no_pretrained: Annotated[bool, Option("Load no weights; draw them from --seed.", BACKBONE)] = False
    model_arg: ModelArg = field(default_factory=dict)
    image_size: ImageSize = field(default_factory=several())
    out: Annotated[
        str | Path,
        Option(
            "Store to write: a folder in Zarr, NAME.h5 in HDF5, or an address in Zarr, such as s3://bucket/mae.zarr.",
            OUTPUT,
            short="-o",
            metavar="STORE",
        ),
    ]
    layers: Annotated[
        Joined, Option("Layers to store: all, last4, or indices such as 0,5,-1.", OUTPUT, joined=True, metavar="LAYERS")
    ] = ALL
    tokens: Annotated[
        Several[Literal["patch", "prefix"]],
        Option("Tokens to store. The mean over patch tokens is always stored.", OUTPUT),
    ] = field(default_factory=several("patch", "prefix"))
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "int8"], Option("Type of the stored tokens.", OUTPUT)
    ] = "float16"
    block_mib: Annotated[int, Option("Target size of one block file of one layer, in MiB.", OUTPUT, least=1)] = 128
    overwrite: Annotated[bool, Option("Empty the store first.", OUTPUT)] = False
    dry_run: Annotated[bool, Option("Show the plan of the extraction, and stop.", OUTPUT)] = False
    batch_size: ForwardSize = 64
    workers: Workers = None
    device: Device = "auto"
    amp: Amp = "auto"
    engine: Engine = None
    shard: Shard = None
    address: Address = None
    num_gpus: NumGpus = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `out` and `checkpoint` become absolute, and a backbone its name."""
        paths = {"out": self.out, "checkpoint": self.checkpoint}
        model = self.model if isinstance(self.model, str) else self.model.name
        return asdict(replace(self, model=model)) | {
            name: None if path is None else _absolute(path) for name, path in paths.items()
        }

    @property
    def not_default(self) -> list[str]:
        """Names of the settings that differ from their default: a command with these alone does the same."""
        return [name for name, field in fields_of(ExtractConfig).items() if getattr(self, name) != field.value]


def _absolute(path: str | Path) -> str:
    return redacted(path) if is_address(path) else os.path.abspath(path)
