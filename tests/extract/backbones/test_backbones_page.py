"""docs/backbones.md: every model in it has a known name, and its flags are valid."""

import re
from pathlib import Path

import open_clip
import pytest
import timm

from tokenprobe.extract.backbones import split_source
from tokenprobe.extract.backbones.from_hub import FAMILIES, split_entry
from tokenprobe.extract.backbones.from_open_clip import split_tag
from tokenprobe.extract.backbones.transformers_models import transformers_names
from tokenprobe.extract.backbones.weights.sets import AVERAGES, LEFT_FOR_LAST
from tokenprobe.extract.config import ExtractConfig
from tokenprobe.probe.config import FitConfig
from tokenprobe.runtime.values import read_pairs
from tokenprobe.workflows.config import PredictConfig

PAGE = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text()
MODELS = sorted(set(re.findall(r"-m (\S+?)[`\s]", PAGE)) - {"SOURCE:NAME"})


def test_the_page_names_models_of_every_source() -> None:
    assert {split_source(model)[0] for model in MODELS} == {"timm", "open_clip", "hub", "transformers"}
    assert len(MODELS) > 8


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_the_page_is_known(model: str) -> None:
    source, name = split_source(model)
    if source == "timm":
        assert timm.is_model(name.partition(".")[0])
        assert "." not in name or name in timm.list_pretrained()
    elif source == "open_clip":
        architecture, tag = split_tag(name)
        assert architecture in open_clip.list_models()
        assert not tag or tag in open_clip.list_pretrained_tags_by_model(architecture)
    elif source == "transformers":
        assert name in transformers_names()
    else:
        repository, entry = split_entry(name)
        assert repository in ("CLONE", "./mine") or repository.count("/") == 1
        assert entry.isidentifier()


def test_flags_of_the_page_are_flags() -> None:
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)}
    of_fit = set(FitConfig.__dataclass_fields__)
    others = ExtractConfig.__dataclass_fields__.keys() | PredictConfig.__dataclass_fields__.keys() | {"repair"}
    assert flags <= of_fit | others
    for pairs in re.findall(r"--model-arg ([a-z_]+=\S+?)`", PAGE):
        assert read_pairs(pairs)


def test_arguments_of_the_page_build_the_shared_table_of_simmim() -> None:
    (pairs,) = set(re.findall(r"--model-arg (use_shared\S+?)`", PAGE))
    model = timm.create_model("beitv2_base_patch16_224", depth=1, num_classes=0, **read_pairs(pairs))
    assert {"rel_pos_bias.relative_position_bias_table", "norm.weight"} <= model.state_dict().keys()
    assert "blocks.0.attn.relative_position_bias_table" not in model.state_dict()


def test_the_page_lists_the_words_that_rank_sets_of_weights_and_the_families() -> None:
    for words in (AVERAGES, LEFT_FOR_LAST):
        assert " ".join(f"`{word}`" for word in words) in PAGE
    for family in FAMILIES:
        assert all(part in PAGE for part in family.name.split(", "))
