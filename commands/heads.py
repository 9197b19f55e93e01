"""Commands about heads: the list of them, and trained heads to hand on."""

from typing import Annotated

import typer

from ..runtime.text import json_text
from ..workflows.config import EXPORT_HEAD_EXAMPLES, IMPORT_HEAD_EXAMPLES, ExportHeadConfig, ImportHeadConfig
from .program import LISTS, Json, print_lines, program

ONE_OF_A_RUN, ALL_KINDS = "Trained heads", "Kinds of heads"

heads = program.group(
    "heads",
    "List the heads, or describe one: probe heads ep. List, export, push and import trained heads.",
    LISTS,
    default="show",
)


@heads.command(
    "List the heads, with their settings and size, or describe one.",
    ALL_KINDS,
    "probe heads\nprobe heads ep\nprobe heads show ep --json",
)
def _show(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a head.")] = None, json: Json = False
) -> None:
    from ..probe.grid.specs import HEADS
    from ..probe.report.head_list import describe_head, head_facts, list_heads

    if json:
        print(json_text(head_facts(name) if name else [head_facts(each) for each in HEADS]))
    else:
        print_lines(describe_head(name) if name else list_heads())


@heads.command("List the trained heads of a run, best first.", ONE_OF_A_RUN, "probe heads list runs/mae")
def _list(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")],
    json: Json = False,
) -> None:
    from ..workflows.share_heads import lines_of, list_heads

    found = list_heads(run)
    if json:
        print(json_text(found.astype(object).where(found.notna(), None).to_dict("records")))
    else:
        print_lines(lines_of(found))


@heads.command("Write a trained head with its model card into a folder.", ONE_OF_A_RUN, EXPORT_HEAD_EXAMPLES)
def _export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")], config: ExportHeadConfig
) -> None:
    from ..workflows.share_heads import export_head

    export_head(run, config)


@heads.command(
    "Upload an exported head to the Hugging Face hub.",
    ONE_OF_A_RUN,
    "probe heads push mae-head ORG/NAME --private  # needs an account on the hub",
)
def _push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Made by probe heads export or import.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository; it is made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    from ..workflows.share_heads import push_head

    print(push_head(folder, repo, private=private))


@heads.command("Read a head that the reference implementation has saved.", ONE_OF_A_RUN, IMPORT_HEAD_EXAMPLES)
def _import(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The state_dict of a pooling, a BatchNorm1d and a Linear.")
    ],
    config: ImportHeadConfig,
) -> None:
    from ..workflows.import_head import import_head

    import_head(file, config)
