"""Commands about one store: show, verify and repair, export."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import StoreError
from ..runtime.text import json_text
from ..workflows.config import EXPORT_EXAMPLES, ExportConfig
from .program import STORES, Json, Store, print_lines, program


@program.command("Show the contents of a store, and whether it is complete.", STORES, "probe info mae.zarr --audit")
def _info(
    store: Store,
    audit: Annotated[bool, typer.Option("--audit", help="Measure the loss of accuracy in smaller dtypes.")] = False,
    json: Json = False,
) -> None:
    from rich.console import Console

    from ..runtime.console import status
    from ..store import open_store
    from ..store.audit import audit as measure
    from ..store.describe import audit_table, describe
    from ..store.facts import facts

    opened, measured = open_store(store), None
    if audit:
        with status("measuring the errors of other dtypes on every layer"):
            measured = measure(opened)
    if json:
        print(json_text(facts(opened) | ({"audit": asdict(measured)} if measured else {})))
        return
    print_lines(describe(opened))
    if measured:
        Console().print(audit_table(measured))


@program.command(
    "Read a whole store, and name files that are damaged, missing or foreign.", STORES, "probe verify mae.zarr --repair"
)
def _verify(
    store: Store,
    repair: Annotated[bool, typer.Option("--repair", help="Extract damaged and missing files again.")] = False,
    trust_code: Annotated[
        bool,
        typer.Option("--trust-code", help="Let --repair run code of a backbone that the store names."),
    ] = False,
    json: Json = False,
) -> None:
    from ..workflows import repair as workflow

    problems = workflow.repair(store, trust_code=trust_code) if repair else workflow.check(store)
    if json:
        print(json_text({"store": store, "problems": [asdict(problem) for problem in problems]}))
    elif problems:
        print_lines(problem.line for problem in problems)
    else:
        print_lines([f"{store}: every file is intact"])
    if problems:
        raise StoreError(workflow.summary(store, problems))


@program.command("Complete what several commands made in shares (--shard).", STORES, "probe merge mae.zarr")
def _merge(path: Annotated[str, typer.Argument(metavar="STORE|RUN", help="A store or a run.")]) -> None:
    from ..workflows.merge import merge

    print_lines([merge(path)])


@program.command("Write tokens as plain files, or compress a store.", STORES, EXPORT_EXAMPLES)
def _export(store: Store, config: ExportConfig) -> None:
    from ..workflows.export import export

    export(store, config)
