"""The other sides of benchmarks do the same work: formats hold the same tokens, heads compute the same numbers."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import checkouts
    import formats
    import published_heads

    return {"formats": formats, "heads": published_heads, "checkouts": checkouts}


def test_every_format_gives_back_the_rows_asked_for(scripts: dict[str, Any], tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((64, 196, 384), np.float32).astype(np.float16)
    rows = np.array([0, 3, 63, 64, 127])
    kinds = scripts["formats"].FORMATS
    assert len(kinds) == 5
    for kind in kinds:
        other = kind(tmp_path / kind.__name__)
        other.write(values, 128)
        assert np.array_equal(other.read(rows).numpy(), values[rows % 64]), kind.name


@pytest.mark.parametrize("kind", ["ep", "aim"])
def test_a_published_head_weights_projected_tokens(scripts: dict[str, Any], kind: str) -> None:
    """Token by token, in float64."""
    torch.manual_seed(0)
    head = scripts["heads"].PublishedHead(kind, 8, 3, 2).double().eval()
    with torch.no_grad():
        head.queries.mul_(50)
    x = torch.randn(5, 7, 8, dtype=torch.float64)
    if kind == "aim":
        head.token_norm.running_var.fill_(4.0)
    pooled = torch.zeros(5, 8, dtype=torch.float64)
    for image, part in np.ndindex(5, 2):
        tokens, own = x[image] / (2.0 if kind == "aim" else 1.0), slice(4 * part, 4 * part + 4)
        query = head.queries[part] if kind == "ep" else head.queries[0, own]
        keys = tokens if kind == "ep" else (tokens @ head.key.weight.T)[:, own]
        weights = ((keys @ query) / len(query) ** 0.5).exp()
        values = (tokens @ head.value.weight.T)[:, own]
        pooled[image, own] = (weights[:, None] / weights.sum() * values).sum(0)
    expected = pooled @ head.classifier.weight.T + head.classifier.bias
    assert torch.allclose(head(x), expected, atol=1e-5)


def test_a_linear_head_reads_the_mean_token(scripts: dict[str, Any]) -> None:
    head = scripts["heads"].PublishedHead("linear", 8, 3, 1).eval()
    x = torch.randn(5, 7, 8)
    assert torch.allclose(head(x), head.classifier(x.mean(1)), rtol=1e-4)


def test_code_of_others_is_imported_from_the_checkout_alone(scripts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "their_code.py").write_text("print('noise')\nimport package_that_is_not_there\n")
    (tmp_path / "their_parts.py").write_text("n = 3\n")
    before, module = list(sys.path), scripts["checkouts"]
    with module.checkout(tmp_path, "--capi"):
        import their_parts  # type: ignore[import-not-found]
    assert their_parts.n == 3
    with (
        pytest.raises(module.NotRunError, match=r"^the code at --capi lacks package_that_is_not_there$"),
        module.checkout(tmp_path, "--capi"),
    ):
        import their_code  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(module.NotRunError, match=r"^give --dinov2 PATH$"), module.checkout(None, "--dinov2"):
        pass
    assert sys.path == before
