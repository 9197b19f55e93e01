"""The backbone's part of a file: found by its names, after any prefix of a training code."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.sets import Choice, Weights, choose_weights

from ..kit import WEIGHTS, assert_weights, named, of_file

OTHER = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
LARGER = {"weight": torch.zeros(4, 5), "bias": torch.zeros(4)}
OF_BLOCKS = {f"blocks.{i}.{name}": tensor + i for i in range(4) for name, tensor in WEIGHTS.items()}


def as_it_is(weights: Weights) -> Weights:
    return weights


def choose(weights: Mapping[str, Tensor], *sets: str, own: Weights = WEIGHTS, **options: Any) -> Choice:
    return choose_weights(of_file(weights, *sets), own, options.pop("convert", as_it_is), **options)


PREFIXES = [
    *("module.", "model.", "backbone.", "encoder.", "base_encoder.", "teacher.", "visual.", "net.", "student.", "ema."),
    *("teacher_backbone.", "module.encoder_q.", "state_dict.module.", "model.visual_encoder.", "a.b.c.d.", "x_y-z."),
]


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_the_backbones_part_is_found_under_whatever_stands_before_its_names(prefix: str) -> None:
    others = {"head.weight": torch.ones(1), "module.predictor.bias": torch.ones(1)}
    choice = choose(others | named(prefix))
    assert (choice.prefix, list(choice.others)) == (prefix, [])
    assert {name: choice.part()[name] for name in WEIGHTS}.keys() == WEIGHTS.keys()
    assert all(torch.equal(choice.part()[name], tensor) for name, tensor in WEIGHTS.items())


WRAPPED = {
    "torch.compile": "_orig_mod.{}",
    "DDP of compiled": "state_dict.module._orig_mod.{}",
    "compiled of DDP": "_orig_mod.module.{}",
    "FSDP": "_fsdp_wrapped_module.{}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_leave_the_names(wrapper: str) -> None:
    choice = choose({WRAPPED[wrapper].format(name): tensor for name, tensor in OF_BLOCKS.items()}, own=OF_BLOCKS)
    assert_weights(choice.part(), OF_BLOCKS)


@pytest.mark.parametrize("inside", ["_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."])
def test_wrappers_of_single_blocks_leave_the_names(inside: str) -> None:
    given = {f"module.blocks.{name[7]}.{inside}{name[9:]}": tensor for name, tensor in OF_BLOCKS.items()}
    choice = choose(given, own=OF_BLOCKS)
    assert choice.prefix == "module."
    assert_weights(choice.part(), OF_BLOCKS)


def in_chunks(name: str) -> str:
    index = int(name[7])
    return f"backbone.blocks.{index // 2}.{index}.{name[9:]}"


def test_chunks_of_blocks_are_joined_unless_the_backbone_has_them() -> None:
    chunked = {in_chunks(name): tensor for name, tensor in OF_BLOCKS.items()}
    assert_weights(choose(chunked, own=OF_BLOCKS).part(), OF_BLOCKS)
    own = {name.removeprefix("backbone."): tensor for name, tensor in chunked.items()}
    assert_weights(choose(chunked, own=own).part(), own)


def test_chunks_that_count_anew_are_not_joined() -> None:
    """Otherwise two blocks would have one name."""
    given = {f"blocks.{i // 2}.{i % 2}.w": torch.full((1,), float(i)) for i in range(4)}
    choice = choose(given, own={f"blocks.{i}.w": torch.zeros(1) for i in range(4)})
    assert choice.weights.keys() == given.keys()


AVERAGED = [
    ("state_dict.", "state_dict_ema."),
    ("model.", "model_ema."),
    ("model.", "ema_model."),
    ("model.", "ema.module."),
    ("student.backbone.", "teacher.backbone."),
    ("state_dict.student_backbone.", "state_dict.teacher_backbone."),
    ("encoder.module.", "target_encoder.module."),
    ("momentum_encoder.", "base_encoder."),
    ("module.encoder_k.", "module.encoder_q."),
    ("student.", "model."),
]


@pytest.mark.parametrize(("left", "taken"), AVERAGED)
@pytest.mark.parametrize("first", [True, False])
def test_of_two_sets_the_average_is_taken_and_the_other_is_offered(left: str, taken: str, first: bool) -> None:
    parts = [named(taken), named(left, OTHER)]
    given = parts[0] | parts[1] if first else parts[1] | parts[0]
    choice = choose(given)
    assert (choice.prefix, list(choice.others)) == (taken, [left])
    assert_weights(choice.part())
    asked = choose(given, key=left.strip("."))
    assert (asked.prefix, list(asked.others)) == (left, [])
    assert_weights(asked.part(), OTHER)


@pytest.mark.parametrize("key", ["state_dict", "student_backbone", "state_dict.student_backbone"])
def test_a_key_is_one_of_the_file_or_the_beginning_of_names(key: str) -> None:
    given = named("state_dict.student_backbone.") | named("ema.teacher_backbone.", OTHER)
    assert_weights(choose(given, key=key).part())


def test_an_unknown_key_lists_those_behind_which_names_of_the_backbone_are() -> None:
    given = named("model.") | named("model_ema.", OTHER) | {"head.x": torch.ones(1)}
    for key in ("ema", "mod", "weight"):
        message = rf"^unknown key in checkpoint 'a\.pt' '{key}'; known: model(_ema)?, model(_ema)?$"
        with pytest.raises(InputError, match=message):
            choose(given, key=key)


def test_sets_that_fit_alike_and_have_no_rank_are_refused() -> None:
    message = (
        r"^checkpoint 'a\.pt' has the backbone's weights more than once, under '' and 'backbone'; choose one "
        "with --checkpoint-key$"
    )
    with pytest.raises(InputError, match=message):
        choose(WEIGHTS | named("backbone."))


def test_more_names_count_before_shapes_and_shapes_before_the_rank() -> None:
    assert choose(named("teacher.", LARGER) | named("student.")).prefix == "student."
    assert choose(named("teacher.", LARGER) | named("student.")).others == []
    assert choose(named("ema.", {"weight": WEIGHTS["weight"]}) | named("model.", LARGER)).prefix == "model."


def others_names(weights: Weights) -> Weights:
    """Like timm's conversions: return "w" and "b" as the backbone's names, and refuse all others."""
    if not {"w", "b"} <= weights.keys():
        raise InputError("not theirs")
    return {"weight": weights["w"].view(2, 3), "bias": weights["b"]}


THEIRS = {"w": WEIGHTS["weight"].flatten(), "b": WEIGHTS["bias"]}


@pytest.mark.parametrize("prefix", ["", "model.", "module.backbone.", "state_dict.module."])
def test_a_conversion_sees_names_without_what_all_begin_with(prefix: str) -> None:
    choice = choose(named(prefix, THEIRS), convert=others_names)
    assert choice.prefix == prefix
    assert_weights(choice.part(), THEIRS)


def test_of_sets_to_convert_those_that_convert_are_meant_and_of_them_the_average() -> None:
    given = named("model.", THEIRS) | named("model_ema.", THEIRS) | {"criterion.weight": torch.ones(3)}
    sets = ("criterion.", "model.", "model_ema.")
    choice = choose(given, *sets, convert=others_names)
    assert (choice.prefix, list(choice.others)) == ("model_ema.", ["model."])
    assert choose(given, *sets, convert=others_names, key="model").prefix == "model."


def test_names_that_a_conversion_drops_before_the_backbones_stay_where_it_needs_them() -> None:
    """Like RADIO's and AIMv2's: some names are the backbone's, after a prefix longer than the common one."""

    def convert(weights: Weights) -> Weights:
        return {"weight": weights["trunk.weight"], "bias": weights["pre.b"]} if "pre.b" in weights else weights

    given = named("model.", {"trunk.weight": WEIGHTS["weight"], "pre.b": WEIGHTS["bias"]})
    assert choose(given, "model.", convert=convert).prefix == "model."


def test_a_file_that_fits_nowhere_is_left_to_be_refused_by_what_it_lacks() -> None:
    given = {"a.x": torch.ones(1), "b.y": torch.ones(1)}
    assert choose(given, "a.", "b.", convert=others_names).prefix in ("", "a.", "b.")
