"""Loading into a backbone: all weights, or an error that names one; and the report."""

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.loading import (
    Converted,
    LoadReport,
    Reading,
    load_weights,
    table_lines,
)
from tokenprobe.extract.backbones.weights.position_tables import UNKNOWN, PositionTable
from tokenprobe.extract.backbones.weights.sets import Weights

from ..kit import WEIGHTS, assert_weights, named, of_file

AS_IT_IS = Reading()


def test_weights_go_into_the_module_and_extra_names_come_back() -> None:
    module = nn.Linear(3, 2)
    report = load_weights(module, of_file(WEIGHTS | {"head.weight": torch.ones(1), "mask": torch.ones(1)}), AS_IT_IS)
    assert torch.equal(module(torch.tensor([1.0, 10.0, 100.0])), torch.tensor([217.0, 551.0]))
    assert report.ignored == ["head.weight", "mask"]


def test_half_precision_weights_become_the_modules_precision() -> None:
    module = nn.Linear(3, 2)
    half = {name: (tensor / 3).half() for name, tensor in WEIGHTS.items()}
    load_weights(module, of_file(half), AS_IT_IS)
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half["weight"].float())


LACKING = (
    r"it lacks 1 of the backbone's 2 weights, such as 'bias' \(it has 'weight', …\); check --model and --model-arg, or "
    "name weights that may be missing with --allow-missing"
)
NOT_FINITE = (
    "1 of the backbone's 2 weights are not finite there, such as 'bias'; use another checkpoint, or name weights "
    "that may be missing with --allow-missing"
)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": WEIGHTS["weight"]}, LACKING),
        (WEIGHTS | {"bias": torch.tensor([7.0, float("nan")])}, NOT_FINITE),
        (WEIGHTS | {"bias": torch.tensor([1e300, 0.0], dtype=torch.float64)}, NOT_FINITE),
    ],
    ids=["missing", "NaN", "beyond float32"],
)
def test_a_missing_weight_is_named_and_nothing_is_loaded(weights: dict[str, Tensor], message: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    with pytest.raises(InputError, match=rf"^checkpoint 'a\.pt' does not fit: {message}$"):
        load_weights(module, of_file(weights), AS_IT_IS)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("allowed", ["1", "1.bias"])
def test_what_may_be_missing_stays_as_it_is(allowed: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2, bias=allowed == "1.bias"))
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = named("0.") | ({"1.weight": torch.tensor([3.0, 4.0])} if allowed == "1.bias" else {})
    report = load_weights(module, of_file(given), Reading(allow_missing=[allowed]))
    assert_weights(module.state_dict(), own | given)
    assert report.missing == [name for name in own if name not in given]
    assert f"checkpoint: 1 missing, left as initialised: {report.missing[0]}" in report.lines()


def test_a_name_to_allow_missing_must_be_one_of_the_backbones() -> None:
    with pytest.raises(InputError, match=r"^unknown weight to allow missing 'biass'; known: bias, weight$"):
        load_weights(nn.Linear(3, 2), of_file(WEIGHTS), Reading(allow_missing=["biass"]))


def test_a_weight_of_another_shape_is_named_and_nothing_is_loaded() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    message = (
        r"^checkpoint 'a\.pt' does not fit: 'bias' is \(3,\) there and \(2,\) in the backbone; "
        r"check --model and --model-arg$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, of_file(WEIGHTS | {"bias": torch.zeros(3)}), AS_IT_IS)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (torch.int8, "of type torch.int8"),
        (torch.complex64, "complex, torch.complex64"),
        (torch.float8_e4m3fn, "of type torch.float8_e4m3fn"),
    ],
)
def test_weights_of_another_kind_are_named_and_nothing_is_loaded(kind: torch.dtype, words: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2, bias=False))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = named("0.") | {"1.weight": WEIGHTS["weight"].to(kind), "1.weight_scale": torch.ones(2)}
    message = (
        rf"^checkpoint 'a\.pt' does not fit: '1\.weight' is {words}; save the weights as float16, bfloat16, float32 or "
        "float64 with the program that wrote them$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, of_file(given), AS_IT_IS)
    with pytest.raises(InputError, match=rf"'0\.weight' is {words}, and 3 more are unusable; save the weights as"):
        load_weights(module, of_file({name: tensor.to(kind) for name, tensor in given.items()}), AS_IT_IS)
    assert_weights(module.state_dict(), before)


def test_another_kind_of_what_the_backbone_has_no_place_for_is_left_alone() -> None:
    module = nn.BatchNorm1d(2)
    own = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    others = {"head.weight": torch.ones(2).to_sparse(), "ids": torch.arange(3), "scale": torch.ones(2, device="meta")}
    report = load_weights(module, of_file(own | others), AS_IT_IS)
    assert_weights(module.state_dict(), own)
    assert list(report.ignored) == list(others)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_and_integer_type_comes_in_the_backbones_own(dtype: torch.dtype) -> None:
    module = nn.BatchNorm1d(2)
    given = {name: torch.full_like(tensor, 3) for name, tensor in module.state_dict().items()}
    cast = {n: t.to(dtype) if dtype.is_floating_point or n == "num_batches_tracked" else t for n, t in given.items()}
    load_weights(module, of_file(cast), AS_IT_IS)
    assert_weights(module.state_dict(), given)
    assert module.num_batches_tracked is not None and module.num_batches_tracked.dtype == torch.int64


def test_quantised_weights_under_other_names_are_shown_where_one_is_missing() -> None:
    given = {"blocks.0.x": torch.ones(1), "0.qweight": WEIGHTS["weight"], "0.bias": WEIGHTS["bias"]}
    with pytest.raises(InputError, match=r"such as '0\.weight' \(it has '0\.qweight', …\)"):
        load_weights(nn.Sequential(nn.Linear(3, 2)), of_file(given), AS_IT_IS)


def test_a_key_decides_which_weights_are_loaded() -> None:
    module, other = nn.Linear(3, 2), {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    file = of_file(named("model.") | named("model_ema.", other) | {"model.head.bias": torch.ones(1)})
    report = load_weights(module, file, AS_IT_IS)
    assert_weights(module.state_dict(), other)
    assert (report.part, list(report.others)) == ("model_ema", ["model"])
    assert list(report.ignored) == [], "what stands in the other set is none of this one's rest"
    report = load_weights(module, file, Reading(key="model"))
    assert_weights(module.state_dict())
    assert (report.part, list(report.others)) == ("model", [])
    assert list(report.ignored) == ["model_ema.weight", "model_ema.bias", "model.head.bias"]


def test_a_conversion_brings_tables_along_and_what_else_it_reshaped_is_told() -> None:
    def convert(weights: Weights) -> Converted:
        return Converted({n: t.view(2, 3) if n == "weight" else t for n, t in weights.items()}, [table])

    module, table = nn.Linear(3, 2), PositionTable("pos_embed", "6 × 6", "4 × 9")
    report = load_weights(module, of_file(WEIGHTS | {"weight": WEIGHTS["weight"].flatten()}), AS_IT_IS, convert)
    assert_weights(module.state_dict())
    assert list(report.tables) == [table, PositionTable("weight", "6", "2 × 3")]
    assert report.resampled == ["pos_embed", "weight"]


def test_blocks_beyond_the_backbones_are_told_apart_from_heads() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    given = {name: tensor for i in range(4) for name, tensor in named(f"net.{i}.").items()}
    report = load_weights(module, of_file(given | {"net.head.weight": torch.ones(1), "1.w": torch.ones(1)}), AS_IT_IS)
    assert list(report.beyond) == ["net.2.weight", "net.2.bias", "net.3.weight", "net.3.bias"]
    assert list(report.ignored) == ["net.head.weight", "1.w"]


@pytest.mark.parametrize("name", ["mask_token", "decoder.0.weight", "lm_head.weight", "head.weight"])
def test_heads_and_decoders_are_listed_by_their_names_in_the_file(name: str) -> None:
    report = load_weights(nn.Linear(3, 2), of_file(named("encoder.") | {name: torch.ones(2, 2)}), AS_IT_IS)
    assert list(report.ignored) == [name]


def test_the_report_says_what_happened_and_nothing_else() -> None:
    tables = [
        PositionTable("a.pos", "4 × 4", "4 × 4"),
        *(PositionTable(f"{i}.pos", "6 × 6", "4 × 9") for i in range(2)),
    ]
    tables += [PositionTable("patch_pos", UNKNOWN, UNKNOWN)]
    heads = [f"head.{i}" for i in range(5)]
    report = LoadReport(
        3, 4, "model.encoder", ["ema.encoder", ""], tables, ["blocks.4.w"], ["norm"], ["head\x1b[2J", *heads]
    )
    assert report.lines() == [
        "checkpoint: 3 of the backbone's 4 weights loaded from 'model.encoder'",
        "checkpoint: 'ema.encoder' fits as well; --checkpoint-key ema.encoder selects it",
        "checkpoint: 1 ignored, of blocks beyond the backbone's last: blocks.4.w",
        "checkpoint: position table assumed to have the backbone's grid, 4 × 4 (if it has another, give "
        "--checkpoint-grid): a.pos",
        "checkpoint: position table of 6 × 6 resampled to 4 × 9: 0.pos, 1.pos",
        "checkpoint: position table of an unknown grid loaded unchanged: patch_pos",
        "checkpoint: 1 missing, left as initialised: norm",
        "checkpoint: 6 ignored, not in the backbone: 'head\\x1b[2J', head.0, head.1, head.2, head.3, …",
    ]
    assert LoadReport(4, 4).lines() == ["checkpoint: 4 of the backbone's 4 weights loaded"]
    assert table_lines([]) == []
