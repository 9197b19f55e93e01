"""The stages: extract, fit, and both on bundled data."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..engines import is_follower
from ..extract.config import EXAMPLES as EXTRACT_EXAMPLES
from ..extract.config import ExtractConfig
from ..probe.config import EXAMPLES as FIT_EXAMPLES
from ..probe.config import FitConfig
from ..runtime.text import json_text
from .program import STAGES, Json, check_text, print_lines, program

if TYPE_CHECKING:
    from ..probe.run.results import Run


@program.command("Store the tokens of every layer, for a data set.", STAGES, EXTRACT_EXAMPLES)
def _extract(config: ExtractConfig, json: Json = False) -> None:
    from ..extract import describe_extraction, extract
    from ..store import open_store
    from ..store.facts import facts

    if config.dry_run:
        check_text(json)
        print_lines(describe_extraction(config))
        return
    out = extract(config)
    if json and not is_follower(config.engine):
        print(json_text(facts(open_store(out))))


@program.command("Train heads from stores.", STAGES, FIT_EXAMPLES)
def _fit(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE",
            help="Made by probe extract. Several are compared in one run. NAME=STORE gives one a name in tables.",
        ),
    ],
    config: FitConfig,
    json: Json = False,
) -> None:
    from ..probe import describe_fit, fit

    if config.dry_run:
        check_text(json)
        print_lines(describe_fit(stores, config))
    else:
        run = fit(stores, config)
        if config.shard is None and not is_follower(config.engine):
            _print_run(run, json=json)


@program.command("Run both stages on bundled images and weights.", STAGES, "probe demo -o my-first-probe")
def _demo(
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the store and the run.")
    ] = "tokenprobe-demo",
    json: Json = False,
) -> None:
    from ..workflows.demo import run_demo

    _print_run(run_demo(out), json=json)


def _print_run(run: "Run", *, json: bool) -> None:
    from ..probe.report import print_run, run_facts

    if json:
        print(json_text(run_facts(run)))
    else:
        print_run(run)
