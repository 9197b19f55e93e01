"""Commands about runs: report, and attend and predict with a trained head."""

from typing import Annotated

import typer

from ..probe.report.config import EXAMPLES as REPORT_EXAMPLES
from ..probe.report.config import ReportConfig
from ..runtime.text import json_text
from ..workflows.config import ATTEND_EXAMPLES, PREDICT_EXAMPLES, AttendConfig, PredictConfig
from .program import STORES, Json, program


@program.command("Compare the backbones and heads of runs: tables, intervals and figures.", STORES, REPORT_EXAMPLES)
def _report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Made by probe fit. Several are compared in one report.")
    ],
    config: ReportConfig,
    json: Json = False,
) -> None:
    from ..probe.report import print_report, report, report_facts

    made, folder = report(runs, config)
    if json:
        print(json_text({"runs": runs, "out": str(folder)} | report_facts(made)))
    else:
        print_report(made, folder)


@program.command("Show where a trained head looks: attention maps.", STORES, ATTEND_EXAMPLES)
def _attend(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")],
    config: AttendConfig,
    json: Json = False,
) -> None:
    from ..workflows.attend import attend, print_attention

    found = attend(run, config)
    if json:
        rows = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
        print(json_text({"cell": found.cell, "out": str(found.folder)} | found.facts | {"rows": rows}))
    else:
        print_attention(found)


@program.command("Run a trained head on new images.", STORES, PREDICT_EXAMPLES)
def _predict(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Made by probe fit; or one head: a file, an exported folder, or hf:ORG/NAME."
        ),
    ],
    config: PredictConfig,
    json: Json = False,
) -> None:
    from ..workflows.predict import predict
    from ..workflows.predictions import as_lines

    table = predict(run, config)
    if json:
        print(json_text(table.to_dict("records")))
    elif config.out is None:
        print(as_lines(table), end="")
