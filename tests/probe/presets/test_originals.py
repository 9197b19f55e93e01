"""Each preset against the probe that it is named after, written naively here from its formula, in float64."""

from collections.abc import Callable, Sequence
from math import cos, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.subsets import hold_out
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.heads import Head, build_pooling
from tokenprobe.probe.presets import PRESETS, load_preset
from tokenprobe.probe.run.results import Run

from .conftest import BLOCK_ROWS, GRID, N_CLASSES, WIDTH, Made

Parameters = dict[str, Tensor]
Probe = Callable[[Tensor, Parameters], Tensor]
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
EPOCHS, BATCH = 3, 40


def batch_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Norm the last axis by the statistics over all others."""
    flat = x.flatten(0, -2)
    return (x - flat.mean(0)) / torch.sqrt(flat.var(0, unbiased=False) + eps)


def attend(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention, (B, Q, D) over (B, N, D)."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, keys, values))
    weights = torch.softmax(q @ k.transpose(2, 3) / sqrt(q.shape[-1]), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def dense(x: Tensor, p: Parameters, name: str) -> Tensor:
    return F.linear(x, p[f"{name}_weight"], p[f"{name}_bias"])


def layer_norm(x: Tensor, p: Parameters, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}_weight"], p[f"{name}_bias"], eps=1e-5)


def classify(pooled: Tensor, p: Parameters) -> Tensor:
    return F.linear(pooled, p["weight"], p["bias"])


def ep_of(n_queries: int) -> Probe:
    def probe(x: Tensor, p: Parameters) -> Tensor:
        weights = torch.softmax(p["queries"] @ x.transpose(1, 2) / sqrt(x.shape[2]), dim=-1)
        blocks = (x @ p["value"].T).unflatten(2, (n_queries, -1))
        return classify(batch_norm(torch.einsum("bqn,bnqw->bqw", weights, blocks).flatten(1)), p)

    return probe


def mae_linear(x: Tensor, p: Parameters) -> Tensor:
    return classify(batch_norm(x[:, 0]), p)


def dinov2_cls(x: Tensor, p: Parameters) -> Tensor:
    return classify(x[:, 0], p)


def dinov2_cls_and_mean(x: Tensor, p: Parameters) -> Tensor:
    return classify(torch.cat([x[:, 0], x[:, 1]], dim=1), p)


def aim(x: Tensor, p: Parameters) -> Tensor:
    x = batch_norm(x)
    query = p["query"].expand(len(x), 1, -1)
    return classify(attend(query, x @ p["key"].T, x @ p["value"].T, heads=12)[:, 0], p)


def capi(x: Tensor, p: Parameters) -> Tensor:
    query = p["query"].expand(len(x), 1, -1)
    return classify(attend(query, x @ p["key"].T, x @ p["value"].T, heads=max(1, x.shape[2] // 64))[:, 0], p)


def vjepa2(x: Tensor, p: Parameters) -> Tensor:
    for block in range(3):
        own = {key.removeprefix(f"block{block}_"): value for key, value in p.items()}
        query, keys, values = dense(layer_norm(x, own, "norm1"), own, "qkv").chunk(3, dim=2)
        x = x + dense(attend(query, keys, values, heads=16), own, "proj")
        x = x + dense(F.gelu(dense(layer_norm(x, own, "norm2"), own, "fc1")), own, "fc2")
    query = p["query"].expand(len(x), 1, -1)
    keys, values = dense(layer_norm(x, p, "norm1"), p, "kv").chunk(2, dim=2)
    mixed = attend(dense(query, p, "q"), keys, values, heads=16)
    query = query + (dense(mixed, p, "proj") if "proj_weight" in p else mixed)  # version 2 has no such map
    query = query + dense(F.gelu(dense(layer_norm(query, p, "norm2"), p, "fc1")), p, "fc2")
    return classify(query[:, 0], p)


PROBES: dict[str, Sequence[Probe]] = {
    "ep": [ep_of(32)],
    "mae-linear": [mae_linear],
    "dinov2-linear": [dinov2_cls, dinov2_cls_and_mean],
    "vjepa2": [vjepa2],
    "capi": [capi],
    "aim": [aim],
}
"""The probe of each head of a preset. tests/probe/heads/test_alf.py holds `alf` against the vectors of its own code."""
NOT_TRAINED = {"dinov2-knn", "dinov2-logreg", "clip-logreg"}
RECOMMENDED = {"few-labels"}
"""Presets of this project, which have no original."""


def test_every_trained_preset_has_its_original() -> None:
    assert set(PROBES) | NOT_TRAINED | RECOMMENDED | {"alf"} == set(PRESETS)


def make_head(spec: str, dim: int, seed: int = 0) -> Head:
    (parsed,), generators = parse_heads([spec]), [torch.Generator().manual_seed(seed)]
    pooling = build_pooling(parsed.name, dim=dim, grid=GRID, cells=1, generators=generators, **dict(parsed.settings))
    return Head(pooling, N_CLASSES, generators)


def parameters_of(head: Head) -> Parameters:
    """Return copies of a head's parameters, under short names, without the axis of cells."""
    return {
        name.removeprefix("pooling."): value[0].detach().clone().requires_grad_()
        for name, value in head.named_parameters()
    }


@pytest.mark.parametrize(
    ("name", "index"), [(name, index) for name, probes in PROBES.items() for index in range(len(probes))]
)
def test_equal_weights_give_the_logits_of_the_original(name: str, index: int) -> None:
    dim = 192  # three heads of 64 for CAPI
    head = make_head(load_preset(name).settings["heads"][index], dim).double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
            if name == "vjepa2" and key.startswith("pooling.proj_"):
                parameter.copy_(torch.eye(dim) if "weight" in key else torch.zeros(dim))
    kept = {key: value for key, value in parameters_of(head).items() if name != "vjepa2" or not key.startswith("proj_")}
    n_tokens = len(head.pooling.inputs) if head.pooling.shared else 5
    x = 2 * torch.randn(6, n_tokens, dim, dtype=torch.float64, generator=generator) + 1
    torch.testing.assert_close(head(x)[:, 0], PROBES[name][index](x, kept), **CLOSE)


def test_without_three_of_four_means_the_logits_are_those_of_dinov2() -> None:
    """Four blocks with the mean: DINOv2 joins four class tokens and the last block's mean, and we four means."""
    x = torch.randn(6, 4, 2, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    joined = x.transpose(1, 2).flatten(2)  # as --layers -4+-3+-2+-1 joins class tokens and means
    head = make_head(load_preset("dinov2-linear").settings["heads"][1], 4 * WIDTH).double()
    with torch.no_grad():
        head.weight[:, :, 4 * WIDTH : 7 * WIDTH] = 0
    original = torch.cat([*x[:, :, 0].unbind(1), x[:, -1, 1]], dim=1)
    weight = torch.cat([head.weight[0, :, : 4 * WIDTH], head.weight[0, :, 7 * WIDTH :]], dim=1)
    torch.testing.assert_close(head(joined)[:, 0], original @ weight.T + head.bias[0], **CLOSE)


def test_the_biases_of_capis_keys_and_values_change_nothing_that_its_classifier_cannot() -> None:
    dim = 128
    head = make_head(load_preset("capi").settings["heads"][0], dim).double()
    p = parameters_of(head)
    x = torch.randn(3, 5, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of_keys, of_values = torch.randn(2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query = p["query"].expand(3, 1, -1)
    pooled = attend(query, x @ p["key"].T + of_keys, x @ p["value"].T + of_values, heads=2)[:, 0]
    expected = pooled @ p["weight"].T + (p["bias"] - p["weight"] @ of_values)
    torch.testing.assert_close(head(x)[:, 0], expected, **CLOSE)


def lars(parameters: Sequence[Tensor], momenta: list[Tensor], lr: float) -> None:
    for parameter, momentum in zip(parameters, momenta, strict=True):
        assert parameter.grad is not None
        trust = 0.001 * parameter.norm() / parameter.grad.norm() if parameter.ndim > 1 else 1.0
        momentum.mul_(0.9).add_(trust * parameter.grad)
        parameter.data -= lr * momentum


def losses_of(probe: Probe, p: Parameters, x: Tensor, y: Tensor, config: FitConfig) -> list[float]:
    """Train with torch's own optimizers and return the mean loss of each epoch."""
    peak, warmup = config.lr[0] * BATCH / 256, config.warmup_epochs or 0
    parameters = list(p.values())
    momenta = [torch.zeros_like(each) for each in parameters]
    optimizer: Any = {
        "lars": None,
        "sgd": torch.optim.SGD(parameters, lr=peak, momentum=0.9),
        "adamw": torch.optim.AdamW(parameters, lr=peak, weight_decay=config.weight_decay[0]),
    }[config.optimizer]
    means = []
    for epoch in range(EPOCHS):
        order = np.concatenate(epoch_windows(np.arange(len(y)), BLOCK_ROWS, 0, epoch))
        batches, losses = list(torch.from_numpy(order).split(BATCH)), []
        for number, part in enumerate(batches):
            now = epoch + number / len(batches)
            factor = now / warmup if now < warmup else (1 + cos(pi * (now - warmup) / (EPOCHS - warmup))) / 2
            loss = F.cross_entropy(probe(x[part], p), y[part])
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            if config.clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad)
            if optimizer is None:
                lars(parameters, momenta, peak * factor)
            else:
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    return means


def tokens_for(made: Made, head: Head, layers: Sequence[int], norm: str) -> Tensor:
    """Return the training tokens that a head reads, with the channels of several layers joined."""
    arrays = []
    for kind in head.pooling.inputs:
        of_layers = []
        for layer in layers:
            source = "patch" if kind == "mean" else kind
            if norm == "final":
                tokens = made.normed("train", layer, source)
            else:
                tokens = torch.from_numpy(made.tokens["train"][layer][source]).double()
            of_layers.append(tokens.mean(1, keepdim=True) if kind == "mean" else tokens)
        arrays.append(torch.cat(of_layers, dim=2))
    return torch.cat(arrays, dim=1)


@pytest.mark.parametrize("name", PROBES)
def test_a_short_training_has_the_losses_of_the_original(made: Made, tmp_path: Path, name: str) -> None:
    settings = load_preset(name).settings
    warmup = min(1, settings["warmup_epochs"])
    shortened: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": BATCH, "warmup_epochs": warmup, "lr": [10 * settings["lr"][-1]],
        "weight_decay": [settings["weight_decay"][-1]], "protocol": "paper", "device": "cpu",
    }  # fmt: skip
    if name == "ep":
        shortened["heads"] = ["ep:queries=4"]
    torch.set_default_dtype(torch.float64)
    try:
        config = FitConfig(out=tmp_path / "run", preset=name, **shortened)
        run = fit(made.store.path, config)
        for row in run.results.itertuples():
            index = next(i for i, head in enumerate(parse_heads(config.heads)) if head.config == row.head_config)
            probe = ep_of(4) if name == "ep" else PROBES[name][index]
            layers = list(map(int, row.layer.split("+")))
            head = make_head(config.heads[index], WIDTH * len(layers))
            x, y = tokens_for(made, head, layers, config.norm), torch.from_numpy(made.labels["train"])
            found = run.history[run.history["cell"] == row.cell].sort_values("epoch")["train_loss"].tolist()
            expected = losses_of(probe, parameters_of(head), x, y, config)
            assert found == pytest.approx(expected, rel=1e-5)  # the final norm is computed in float32
            assert found[-1] < found[0]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session", params=PRESETS)
def one_epoch(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    """The run of every preset as it is, but for its length."""
    name: str = request.param
    out = tmp_path_factory.mktemp(name) / "run"
    short: dict[str, Any] = {"epochs": 1, "device": "cpu"}
    settings = load_preset(name).settings
    short |= {"warmup_epochs": 0} if "warmup_epochs" in settings else {}
    short |= {"min_steps": 0} if "min_steps" in settings else {}
    short |= {"seeds": 1} if "seeds" in settings else {}
    return name, fit(made.store.path, FitConfig(out=out, preset=name, **short))


N_CELLS = {
    "ep": 1, "mae-linear": 1, "dinov2-linear": 52, "dinov2-knn": 4, "dinov2-logreg": 45, "vjepa2": 20, "capi": 30,
    "aim": 14, "alf": 63, "clip-logreg": 45, "few-labels": 5 * 3 + 4 * (10 + 45) + 2,
}  # fmt: skip


def test_every_preset_runs(made: Made, one_epoch: tuple[str, Run]) -> None:
    name, run = one_epoch
    results = run.results
    assert len(results) == N_CELLS[name]
    assert results["status"].str.startswith("diverged").sum() == 0
    assert (
        results["test_top1"].between(0, 1).all()
        and results["protocol"].eq(load_preset(name).settings["protocol"]).all()
    )
    if name == "dinov2-knn":
        check_votes(made, run)
    if name in ("dinov2-logreg", "clip-logreg"):
        check_logreg(made, run, name)


def check_votes(made: Made, run: Run) -> None:
    """Hold every k against votes of exp(cosine / 0.07) of the nearest normed class tokens."""
    bank, x = (F.normalize(made.normed(split, 3, "prefix")[:, 0]) for split in ("train", "test"))
    one_hot = F.one_hot(torch.from_numpy(made.labels["train"])).double()
    assert {row.head_config.split(",")[0] for row in run.results.itertuples()} == {"k=10", "k=20", "k=100", "k=200"}
    for row in run.results.itertuples():
        similarity, nearest = (x @ bank.T).topk(int(row.head_config.split(",")[0].removeprefix("k=")))
        votes = ((similarity / 0.07).exp()[:, :, None] * one_hot[nearest]).sum(1)
        right = votes.argmax(1) == torch.from_numpy(made.labels["test"])
        assert row.test_top1 == pytest.approx(right.double().mean().item(), abs=1e-12)


def check_logreg(made: Made, run: Run, name: str) -> None:
    """Hold the logits at CLIP's C = 0.316 against scikit-learn's on the same training images."""
    row = min(run.results.itertuples(), key=lambda row: abs(1 / row.weight_decay - 0.316))
    assert 1 / row.weight_decay == pytest.approx(0.316, rel=1e-3)
    head = load_head(run.path, row.cell)
    if name == "clip-logreg":
        x, x_test = (torch.from_numpy(made.tokens[split][3]["embedding"]).double() for split in ("train", "test"))
    else:
        x, x_test = (made.normed(split, 3, "prefix")[:, 0] for split in ("train", "test"))
    rows = trained_rows(made)
    plain = LogisticRegression(C=1 / row.weight_decay, max_iter=1000, tol=1e-10)
    plain.fit(x[rows].numpy(), made.labels["train"][rows])
    found = head(x_test.float()[:, None]).softmax(1).detach().double().numpy()
    np.testing.assert_allclose(found, plain.predict_proba(x_test.numpy()), atol=1e-4)  # its weights are float32


def trained_rows(made: Made) -> np.ndarray:
    """Return the training rows that are not held out."""
    labels = made.labels["train"]
    return hold_out(labels, 0.1, 0, [f"class {label}" for label in range(N_CLASSES)])[0]
