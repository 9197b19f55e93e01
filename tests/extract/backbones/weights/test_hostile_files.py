"""Files that nobody would write: whatever is in them, weights are loaded as they are or refused in one line.

Contents are drawn by hypothesis, the same in every run.
"""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.files import load_checkpoint
from tokenprobe.extract.backbones.weights.kinds import FLOATS
from tokenprobe.extract.backbones.weights.loading import Reading, load_weights

from ..kit import WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ONE_FOR_ALL = [HealthCheck.function_scoped_fixture]
DRAWN = settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=ONE_FOR_ALL)

DTYPES = [*FLOATS, torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16]
PARTS = ["module", "model", "ema", "net", "student", "teacher", "_orig_mod", "blocks", "0", "1", "weight", "optimizer"]
paths = st.lists(st.sampled_from(PARTS), max_size=3).map(lambda parts: "".join(f"{part}." for part in parts))
names = st.builds(str.__add__, paths, st.sampled_from(["weight", "bias", "weight_scale", "head.weight"]))


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw tensors of any kind and shape, most of them weights."""
    size = shape or tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    value = draw(st.sampled_from([1.0, -2.0, 0.0, float("nan"), float("inf"), 1e300]))
    tensor = torch.full(size, value if draw(st.booleans()) else 1.0, dtype=torch.float64)
    dtype = draw(st.sampled_from([torch.float32, *DTYPES]))
    cast = tensor.nan_to_num(0.0, 9.0, -9.0).clamp(-9, 9).to(dtype) if dtype not in FLOATS else tensor.to(dtype)
    form = draw(st.sampled_from(["plain", "plain", "plain", "meta", "sparse"]))
    if form == "sparse" and size and dtype in FLOATS:
        return cast.to_sparse()
    return cast.to("meta") if form == "meta" else cast


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """Draw training files: sets of weights behind keys and prefixes, and other things beside them."""
    content: dict[Any, Any] = draw(st.dictionaries(names, tensors(), max_size=3))
    for prefix in draw(st.lists(paths, max_size=3)):
        as_weights = draw(st.integers(0, 3)) > 0  # else of any kind
        number = draw(st.integers(0, 3))
        of_set = {
            prefix + name: tensor + number if as_weights else draw(tensors(tuple(tensor.shape)))
            for name, tensor in WEIGHTS.items()
        }
        key = draw(st.sampled_from(["", *PARTS]))
        content |= {key: of_set} if key else of_set
    if draw(st.booleans()):
        content[draw(st.sampled_from(["epoch", 3, None, ("a", 1)]))] = draw(st.sampled_from([1, None, [], {}, "x"]))
    return draw(st.sampled_from([content, {"state_dict": content}, [content]]))


def assert_one_line(error: InputError) -> None:
    assert str(error) and "\n" not in str(error)


@given(content=contents(), key=st.sampled_from([None, None, *PARTS]), allowed=st.sampled_from([[], ["bias"]]))
@DRAWN
def test_any_content_is_loaded_whole_or_refused(
    content: Any, key: str | None, allowed: list[str], tmp_path: Path
) -> None:
    module = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.save(content, tmp_path / "a.pth")
    try:
        checkpoint = load_checkpoint(tmp_path / "a.pth")
        report = load_weights(module, checkpoint, Reading(allowed, key))
    except InputError as error:
        assert_one_line(error)
        assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
        return
    part = f"{report.part}." if report.part else ""
    stripped = {name.replace("_orig_mod.", ""): each for name, each in checkpoint.weights.items()} | checkpoint.weights
    for name, tensor in module.state_dict().items():
        given_tensor = before[name] if name in report.missing else stripped[part + name]
        assert given_tensor.dtype in FLOATS and torch.equal(tensor, given_tensor.float()) and tensor.isfinite().all()
    assert all("\n" not in line for line in report.lines())


def whole_files() -> list[bytes]:
    content = {"model": WEIGHTS, "model_ema": WEIGHTS, "epoch": 3}
    files = [save(WEIGHTS, metadata={"format": "pt"})]
    for zipped in (True, False):
        data = io.BytesIO()
        torch.save(content, data, _use_new_zipfile_serialization=zipped)
        files.append(data.getvalue())
    return files


WHOLE = whole_files()


@given(data=st.data())
@settings(DRAWN, max_examples=400)
def test_a_file_with_any_bytes_changed_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(begin, min(begin + 16, len(content))))
        content[begin:end] = data.draw(st.binary(max_size=16))
    file = tmp_path / data.draw(st.sampled_from(["a.pth", "a.safetensors", "a.bin"]))
    file.write_bytes(content)
    try:
        load_checkpoint(file)
    except InputError as error:
        assert_one_line(error)
