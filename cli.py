"""The `probe` command: flags in, one stage or workflow called, an exit status out.

Flags are the fields of the config dataclasses, and their help is those classes' documentation. torch and
timm load only once a command runs.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import __version__
from .errors import InputError, MissingError, StoreError, TokenprobeError
from .extract.config import ExtractConfig
from .probe.config import FILE_KEYS, FitConfig
from .runtime.flags import EXIT_INPUT, Parser, add_fields, given_fields
from .workflows.config import ExportConfig, PredictConfig

KEEP_WHAT_IS_FINISHED = ("extract", "fit", "verify", "demo")
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 130, 141, 143
WIDE = 160

EXTRACT_EXAMPLE = """examples:
  probe extract -m timm:vit_base_patch16_224.mae -d folder:imagenet -o mae.zarr --dry-run
  probe extract -m timm:vit_base_patch16_224.mae -d folder:imagenet -o mae.zarr --layers last4
  probe extract -m open_clip:ViT-L-14/openai -d folder:imagenet -o clip.zarr --layers last4
  probe extract -m timm:VisionTransformer --checkpoint mine.safetensors -d npz:cifar.npz -o mine.zarr \\
      --model-arg img_size=32,patch_size=4,embed_dim=192,depth=8,num_heads=3
"""
DATASETS_EXAMPLE = """example:
  probe datasets
"""
FIT_EXAMPLE = """examples:
  probe fit mae.zarr -o runs/mae --head ep:queries=32 --head linear:pool=cls
  probe fit mae.zarr -o runs/lr --head 'ep:queries=8|32' --layers last4 --lr 0.1,1,10 --seeds 3
  probe fit mae.zarr dino.zarr -o runs/few --head ep --head 'knn:k=10|20' --shots full,16,4 --seeds 5 --dry-run
"""
EXPORT_EXAMPLE = """examples:
  probe export mae.zarr -o mae-npy --to npy --layers -1 --split train --tokens patch
  probe export mae.zarr -o mae-archive.zarr
"""
MODELS_EXAMPLE = """examples:
  probe models 'vit_base*'
  probe models 'open_clip:ViT-B-16*' --page 2
  probe models 'dinov2*'
What others keep on the Hugging Face hub, in clones or in folders cannot be listed: hf-hub:ORG/NAME, hub:REPO/ENTRY.
"""
PREDICT_EXAMPLE = """examples:
  probe predict runs/mae --images new-photos \\
      --cell vit_base_patch16_224.mae-layer_11-ep-queries=32-lars-lr=1-wd=0-shots=full-seed=0
  probe predict runs/mae --images cat.jpg --cell …
  probe predict runs/mae --images new-photos --cell … -o predictions.csv
Without --cell it names those that did best on held-out images.
"""
DEMO_EXAMPLE = """example:
  probe demo -o my-first-probe
"""


class _Terminated(BaseException):
    """SIGTERM arrived."""

    arrived = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    _Terminated.arrived = False
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return EXIT_BROKEN_PIPE
    except (TokenprobeError, OSError) as error:
        print(f"probe {arguments.command}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"probe {arguments.command}: interrupted{_what_is_safe(arguments.command)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (_Terminated, RuntimeError):
        if not _Terminated.arrived:  # else torch may tell first that a worker was terminated too
            raise
        print(f"probe {arguments.command}: terminated{_what_is_safe(arguments.command)}", file=sys.stderr)
        return EXIT_TERMINATED
    return 0


def _what_is_safe(command: str) -> str:
    return "; what was finished is safe" if command in KEEP_WHAT_IS_FINISHED else ""


def _extract(arguments: argparse.Namespace) -> None:
    from .extract import extract

    extract(ExtractConfig(**given_fields(arguments, ExtractConfig)))


def _fit(arguments: argparse.Namespace) -> None:
    from .probe import fit
    from .probe.report import print_run

    from_file = _read_config(arguments.config) if arguments.config else {}
    config = FitConfig(**from_file | given_fields(arguments, FitConfig))
    run = fit(arguments.stores, config)
    if not config.dry_run:
        print_run(run)


def _datasets(arguments: argparse.Namespace) -> None:
    from .extract.datasets import describe_datasets

    print("\n".join(describe_datasets()))


def _info(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from .store import open_store
    from .store.audit import audit
    from .store.describe import audit_table, describe

    store = open_store(arguments.store)
    print("\n".join(describe(store)))
    if arguments.audit:
        with Console(stderr=True).status("measuring what other dtypes would do to every layer"):
            measured = audit(store)
        Console().print(audit_table(measured))


def _verify(arguments: argparse.Namespace) -> None:
    from .workflows.repair import check, repair, summary

    problems = repair(arguments.store) if arguments.repair else check(arguments.store)
    for problem in problems:
        print(problem.line)
    if problems:
        raise StoreError(summary(arguments.store, problems))
    print(f"{arguments.store}: every file is as it was written")


def _export(arguments: argparse.Namespace) -> None:
    from .workflows.export import export

    export(arguments.store, ExportConfig(**given_fields(arguments, ExportConfig)))


def _predict(arguments: argparse.Namespace) -> None:
    from .workflows.predict import predict
    from .workflows.predictions import as_csv

    config = PredictConfig(**given_fields(arguments, PredictConfig))
    table = predict(arguments.folder, config)
    if config.out is None:
        print(as_csv(table), end="")


def _models(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from .extract.backbones.catalogue import page_of, table_of

    page = page_of(arguments.pattern, arguments.page)
    with Console(stderr=True).status("looking at the shapes of each"):
        table = table_of(page)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)  # names in one piece, for grep


def _demo(arguments: argparse.Namespace) -> None:
    from .workflows.demo import run_demo

    run_demo(Path(arguments.out))


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="probe", description="Judge frozen vision backbones by probing stored tokens.")
    parser.add_argument("--version", action="version", version=f"tokenprobe {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    extract = _add_command(commands, "extract", _extract, "store every layer's tokens of a data set", EXTRACT_EXAMPLE)
    add_fields(extract, ExtractConfig, FILE_KEYS)

    _add_command(commands, "datasets", _datasets, "what data can be loaded, and how to write it", DATASETS_EXAMPLE)

    fit = _add_command(commands, "fit", _fit, "train heads from stores", FIT_EXAMPLE)
    fit.add_argument(
        "stores", metavar="STORE", nargs="+", help="made by probe extract; several are compared in one run"
    )
    fit.add_argument("--config", metavar="FILE", help="YAML with the same keys as these flags; a flag wins over it")
    add_fields(fit, FitConfig, FILE_KEYS)

    for name, run, summary in (
        ("info", _info, "what a store holds, and whether it is complete"),
        ("verify", _verify, "read a whole store and name what is damaged, missing or foreign"),
    ):
        parser_of = _add_command(commands, name, run, summary, f"example:\n  probe {name} mae.zarr\n")
        parser_of.add_argument("store", metavar="STORE", help="made by probe extract")
        if name == "verify":
            parser_of.add_argument("--repair", action="store_true", help="extract again what is not as it should be")
        if name == "info":
            parser_of.add_argument("--audit", action="store_true", help="measure what smaller dtypes would cost")

    export = _add_command(commands, "export", _export, "write tokens as plain files, or compress them", EXPORT_EXAMPLE)
    export.add_argument("store", metavar="STORE", help="made by probe extract")
    add_fields(export, ExportConfig, FILE_KEYS)

    models = _add_command(commands, "models", _models, "what backbones can be loaded, and their layers", MODELS_EXAMPLE)
    models.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="with * and ?; default: all")
    models.add_argument("--page", metavar="PAGE", type=int, default=1, help="which page (default: %(default)s)")

    predict = _add_command(commands, "predict", _predict, "run a trained head on new images", PREDICT_EXAMPLE)
    predict.add_argument("folder", metavar="RUN", help="made by probe fit")
    add_fields(predict, PredictConfig, FILE_KEYS)

    demo = _add_command(commands, "demo", _demo, "the whole pipeline on bundled images and weights", DEMO_EXAMPLE)
    demo.add_argument("-o", "--out", metavar="FOLDER", default="tokenprobe-demo", help="default: %(default)s")
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], summary: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _read_config(path: str) -> dict[str, Any]:
    """Read a YAML file whose keys are flags' names, into fields of `FitConfig`."""
    import yaml

    if not Path(path).is_file():
        raise MissingError(f"no config file at {path!r}")
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise InputError(f"config file {path!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"config file {path!r}: expected keys and values, found {type(content).__name__}")
    return FitConfig.fields_from_file(content)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _Terminated.arrived = True
    raise _Terminated
