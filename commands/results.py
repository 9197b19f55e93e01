"""Commands about runs: predict with a trained head."""

from typing import Annotated

import typer

from ..runtime.text import json_text
from ..workflows.config import PREDICT_EXAMPLES, PredictConfig
from .program import STORES, Json, program


@program.command("Run a trained head on new images.", STORES, PREDICT_EXAMPLES)
def _predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")],
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
