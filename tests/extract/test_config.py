"""Settings of an extraction: their choices match the code, and they accept the same values as flags."""

import json
from pathlib import Path
from typing import Any

from tokenprobe.extract import ExtractConfig
from tokenprobe.runtime.options import fields_of
from tokenprobe.store.layout import PATCH, PREFIX
from tokenprobe.store.quantize import DTYPES


def test_the_choices_are_those_of_the_code() -> None:
    fields = fields_of(ExtractConfig)
    assert fields["dtype"].choices == tuple(DTYPES)
    assert fields["tokens"].choices == (PATCH, PREFIX)


def test_python_may_give_single_values_lists_and_paths() -> None:
    data: Any = Path("a/b")
    config = ExtractConfig(model="m", data=data, out=Path("o"), split="train", layers=[0, -1], image_size=64)
    assert (config.data, config.out, config.split, config.layers) == ("a/b", Path("o"), ["train"], "0,-1")
    assert config.image_size == [64]


def test_the_record_of_an_extraction_makes_the_same_settings() -> None:
    config = ExtractConfig(
        model="m", data="d", out="/o", model_arg={"a": [1, 2], "b": "3"}, view_scale="0.1,1", checkpoint="/c", seed=3
    )
    assert ExtractConfig(**json.loads(json.dumps(config.to_json()))) == config
