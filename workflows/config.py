"""The settings of the workflows. Every field is a flag of the command and a key of its config file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..extract.config import CheckpointFile, ImageSize, ModelArg, WeightsKey
from ..probe.report.config import Style
from ..runtime.options import ALL, BACKBONE, DATA, OUTPUT, Joined, Option, Several, several
from ..runtime.settings import Amp, Device, ForwardSize, Settings, SkipBadImages, Workers

EXPORT_EXAMPLES = """
probe export mae.zarr -o mae-npy --to npy --layers -1 --tokens patch
probe export mae.zarr -o mae-archive.zarr
"""
ATTEND_EXAMPLES = """
probe attend runs/mae
probe attend runs/mae --cell CELL --n 24 -o attention
probe attend runs/mae --images new-photos -o attention-new
"""
PREDICT_EXAMPLES = """
probe predict runs/mae --images new-photos --cell CELL -o predictions.csv
probe predict runs/mae --images cat.jpg --cell best
"""
EXPORT_HEAD_EXAMPLES = """
probe heads export runs/mae -o mae-head --license apache-2.0
probe heads export runs/mae -o another-head --cell CELL
"""
IMPORT_HEAD_EXAMPLES = """
probe heads import ep_head.pth -m timm:vit_base_patch16_224.mae \\
    -o imported-head  # downloads weights
probe heads import aim.pth -m timm:VisionTransformer \\
    --checkpoint mine.safetensors \\
    --model-arg img_size=32,patch_size=4,embed_dim=192,depth=8,num_heads=3 \\
    --head aim:heads=12 -o aim-head
"""
License = Annotated[
    str | None,
    Option(
        "Licence of the head for its model card, as the hub names it, such as apache-2.0.", OUTPUT, default="not given"
    ),
]
Model = Annotated[
    str | Any | None,  # or, in Python, a tokenprobe.extract.backbones.Backbone
    Option(
        "Backbone, if it is a local folder that has moved, or python:MODULE:FUNCTION for one of your own.",
        BACKBONE,
        short="-m",
    ),
]
Checkpoint = Annotated[
    str | Path | None, Option("File with the weights of the backbone, if it has moved.", BACKBONE, metavar="FILE")
]
CheckpointKey = Annotated[
    str | None, Option("Key or prefix of the weights in the checkpoint.", BACKBONE, default="that of probe extract")
]
TrustCode = Annotated[bool, Option("Run code that the head names, of its backbone or its pooling.", BACKBONE)]


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """Settings of `probe export`. Each field's `Option` describes it."""

    split: Annotated[Several[str], Option("Splits to export.", DATA, default="every split of the store")] = field(
        default_factory=several()
    )
    layers: Annotated[
        Joined, Option("Layers to export: all, last4, or indices such as 0,5,-1.", DATA, joined=True, metavar="LAYERS")
    ] = ALL
    tokens: Annotated[
        Several[str], Option("Tokens to export: patch, prefix, mean.", DATA, default="all that the store has")
    ] = field(default_factory=several())
    out: Annotated[str | Path, Option("Folder to create.", OUTPUT, short="-o", metavar="FOLDER")]
    to: Annotated[
        Literal["npy", "safetensors", "zarr"] | None,
        Option("Form to write. zarr is compressed.", OUTPUT, default="zarr, if the folder ends in .zarr"),
    ] = None
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "int8"] | None,
        Option(
            "Type of patch and prefix tokens. npy files have no bfloat16, and only zarr has int8.",
            OUTPUT,
            default="that of the store, if the form has it",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """Settings of `probe predict`. Each field's `Option` describes it."""

    images: Annotated[str | Path, Option("An image, or a folder of images at any depth.", DATA, metavar="PATH")]
    skip_bad_images: SkipBadImages = False
    cell: Annotated[
        str | None,
        Option(
            "Cell whose head runs, from the column cell of results.csv; or best, the one that the summary selects.",
            BACKBONE,
            default="the only one selected",
        ),
    ] = None
    model: Model = None
    checkpoint: Checkpoint = None
    checkpoint_key: CheckpointKey = None
    trust_code: TrustCode = False
    out: Annotated[
        str | Path | None,
        Option(
            "File to write: .csv or .parquet (image, class, score), or .npz (all logits).",
            OUTPUT,
            short="-o",
            metavar="FILE",
            default="the table is printed",
        ),
    ] = None
    batch_size: ForwardSize = 64
    workers: Workers = None
    device: Device = "auto"
    amp: Amp = "auto"


@dataclass(frozen=True, kw_only=True)
class ExportHeadConfig(Settings):
    """Settings of `probe heads export`. Each field's `Option` describes it."""

    cell: Annotated[
        str,
        Option(
            "Cell whose head is exported, from the column cell of results.csv; best is that of the summary.",
            BACKBONE,
        ),
    ] = "best"
    license: License = None
    out: Annotated[str | Path, Option("Folder to create.", OUTPUT, short="-o", metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class ImportHeadConfig(Settings):
    """Settings of `probe heads import`. Each field's `Option` describes it."""

    model: Annotated[str, Option("Backbone whose tokens the head reads, as for probe extract.", BACKBONE, short="-m")]
    checkpoint: CheckpointFile = None
    checkpoint_key: WeightsKey = None
    model_arg: ModelArg = field(default_factory=dict)
    image_size: ImageSize = field(default_factory=several())
    layer: Annotated[int, Option("Layer whose tokens the head reads, counted from 0; -1 is the last.", BACKBONE)] = -1
    norm: Annotated[
        Literal["none", "final"],
        Option("Norm of the tokens before the head: none, or the final one of the backbone.", BACKBONE),
    ] = "none"
    head: Annotated[
        str | None,
        Option(
            "Head in the file with its settings, such as aim:heads=12 or ep:queries=32,tokens=patch+prefix.",
            BACKBONE,
            metavar="SPEC",
            default="read from the names and shapes in the file",
        ),
    ] = None
    classes: Annotated[
        str | Path | None,
        Option("Text file with the name of each class, one per line.", OUTPUT, metavar="FILE", default="their indices"),
    ] = None
    license: License = None
    out: Annotated[str | Path, Option("Folder to create.", OUTPUT, short="-o", metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class AttendConfig(Settings):
    """Settings of `probe attend`. Each field's `Option` describes it."""

    split: Annotated[
        str | None, Option("Split of the store whose images are shown.", DATA, default="the one reported on")
    ] = None
    n: Annotated[int, Option("Images to show.", DATA, least=1, most=48)] = 12
    images: Annotated[
        str | Path | None,
        Option(
            "An image, or a folder of images, to show instead; the backbone computes their tokens.",
            DATA,
            metavar="PATH",
            default="those of the store",
        ),
    ] = None
    cell: Annotated[
        str,
        Option(
            "Cell whose head is shown, from the column cell of results.csv; best is the one that the summary selects "
            "among heads with attention maps.",
            BACKBONE,
        ),
    ] = "best"
    model: Model = None
    checkpoint: Checkpoint = None
    checkpoint_key: CheckpointKey = None
    trust_code: TrustCode = False
    out: Annotated[
        str | Path | None,
        Option(
            "Folder of the pictures and the table.",
            OUTPUT,
            short="-o",
            metavar="FOLDER",
            default="attention/CELL in the run",
        ),
    ] = None
    style: Style = "paper"
    device: Device = "auto"
