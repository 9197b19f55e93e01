"""What every pooling must pass: its formula, stacked cells, any batch and grid, gradients, autocast, export."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from ..probe.heads import Pooling
from ..probe.heads.attentive import AttentivePooling
from ..probe.heads.own import checked

Settings = Mapping[str, Any]
Weights = Mapping[str, Tensor]
Pooled = tuple[Tensor, Tensor | None]
SEEDS = (5, 0, 5)
"""Seeds of stacked cells: a seed that comes again starts with the same weights."""


class PoolingConformance:
    """Tests of a pooling. Inherit this class, name the pooling, and write its formula.

    For the pooling of docs/your-own.md:

        class TestPowerMean(PoolingConformance):
            pooling = PowerMean
            cases = ({}, {"power": 2.0})

            def formula(self, tokens, weights, settings):
                mean = (tokens.clamp(1e-6) ** settings["power"]).mean(0) ** (1 / settings["power"])
                return weights["scale"][0] * mean, None

    Everything is compared in float64.

    Attributes:
        pooling: the class.
        cases: settings to compare with the formula; those left out have their defaults. The first serves all other
            tests.
        dim: width of the tokens; every case must fit it.
        grid: (height, width) of the patch tokens.
        n_prefix: prefix tokens of a case that reads them ("patch+prefix").
        maps_sum: over tokens: "one", "below one" or "anything".
        bfloat16_gradient: largest relative error of a gradient under autocast.
    """

    pooling: type[Pooling]
    cases: Sequence[Settings] = ({},)
    dim = 24
    grid = (3, 2)
    n_prefix = 2
    maps_sum = "one"
    bfloat16_gradient = 0.02

    def formula(self, tokens_ND: Tensor, weights: Weights, settings: Settings) -> Pooled:
        """Compute the pooling of one image, naively: loops and plain products, no code of the pooling.

        Args:
            tokens_ND: tokens of the image, float64.
            weights: parameters of one cell, without the leading axis of cells.
            settings: all settings.

        Returns:
            The output (O,), and the attention maps (M, N), or None for a pooling without them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs the formula of {self.pooling.__name__}: write `formula`"
        )

    def batch_formula(
        self, tokens_BND: Tensor, weights: Weights, settings: Settings, statistics: Weights | None
    ) -> Pooled:
        """Compute the pooling of a batch. Write this instead of `formula` for statistics over the batch.

        Args:
            tokens_BND: tokens, float64.
            weights: as for `formula`.
            settings: as for `formula`.
            statistics: buffers of one cell in evaluation, or None in training.

        Returns:
            The outputs (B, O), and the maps (B, M, N) or None.
        """
        outputs, maps = zip(*(self.formula(image, weights, settings) for image in tokens_BND), strict=True)
        return torch.stack(outputs), None if maps[0] is None else torch.stack(maps)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give every test that takes `case` each of the cases."""
        if "case" in metafunc.fixturenames:
            names = [",".join(f"{key}={value}" for key, value in case.items()) or "defaults" for case in self.cases]
            metafunc.parametrize("case", self.cases, ids=names)

    def build(self, case: Settings | None = None, *, seeds: Sequence[int] | None = None, **changes: Any) -> Any:
        """Build the pooling in float64: plain, or a cell for each seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds or (0,)]
        settings = replace(self.pooling.settings, **(self.cases[0] if case is None else case))
        shape: dict[str, Any] = {"dim": self.dim, "grid": self.grid, "cells": len(seeds) if seeds else None}
        return self.pooling(settings, generators=generators, **shape | changes).double()

    def tokens(self, n_images: int = 3, pool: Pooling | None = None, *, outliers: bool = True) -> Tensor:
        """Draw tokens for a pooling's inputs, with the outlier channels of real ones, or with similar channels."""
        pool = pool or self.build()
        height, width = pool.grid
        n_tokens = height * width + self.n_prefix * ("prefix" in pool.inputs)
        x = torch.randn(n_images, n_tokens, self.dim, dtype=torch.float64, generator=_generator(0))
        scale, shift = (torch.linspace(0.2, 2, self.dim).exp(), 3) if outliers else (torch.full((self.dim,), 2), 2)
        return x * scale + torch.linspace(0, shift, self.dim)

    def test_other_code_finds_all_that_it_reads(self) -> None:
        assert checked(self.pooling, self.pooling.name) is self.pooling
        assert self.pooling.defaults == asdict(self.pooling.settings)

    @pytest.mark.parametrize("training", [True, False])
    def test_output_maps_and_gradients_equal_the_formula(self, case: Settings, training: bool) -> None:
        pool = _stirred(self.build(case), 0.4).train(training)
        x = self.tokens(pool=pool, outliers=False)  # powers of outliers lose digits
        weights = {name: value[0].detach().clone().requires_grad_() for name, value in pool.named_parameters()}
        statistics = None if training else {name: value[0].clone() for name, value in pool.named_buffers()}
        expected, maps = self.batch_formula(x, weights, {**pool.defaults, **case}, statistics)
        assert (maps is not None) == isinstance(pool, AttentivePooling), "a formula gives maps if the pooling does"
        if maps is not None:
            _assert_equal(pool.attention(x), maps, 1e-10)
        pooled = pool(x)
        _assert_equal(pooled, expected, 1e-10)
        if not weights:
            return
        cotangent = _cotangent(expected)
        (expected * cotangent).sum().backward()
        (pooled * cotangent).sum().backward()
        for name, value in pool.named_parameters():
            found, wanted = (torch.zeros(()) if g is None else g for g in (value.grad, weights[name].grad))
            _assert_equal(found.expand(value.shape)[0], wanted.expand(weights[name].shape).to(found), 1e-10)

    @pytest.mark.parametrize("training", [True, False])
    def test_stacked_cells_equal_each_alone(self, training: bool) -> None:
        """Outputs, gradients, statistics and initial weights: what a seed gives alone it gives in a stack."""
        x, stacked = self.tokens(), self.build(seeds=SEEDS).train(training)
        together = stacked(x)
        cotangent = _cotangent(together)
        if together.requires_grad:
            (together * cotangent).sum().backward()
        for cell, seed in enumerate(SEEDS):
            alone = self.build(seeds=(seed,)).train(training)
            one = alone(x)
            _assert_equal(together[:, cell], one[:, 0], 1e-10)
            if one.requires_grad:
                (one * cotangent[:, cell : cell + 1]).sum().backward()
            for ours, theirs in zip(stacked.parameters(), alone.parameters(), strict=True):
                assert torch.equal(ours[cell], theirs[0])
                assert (ours.grad is None) == (theirs.grad is None)
                if ours.grad is not None:
                    _assert_equal(ours.grad[cell], theirs.grad[0], 1e-10)
            for name, value in alone.state_dict().items():
                _assert_equal(stacked.state_dict()[name][cell], value[0], 1e-12)

    @pytest.mark.parametrize("training", [True, False])
    def test_a_cell_that_is_not_finite_leaves_others_alone(self, training: bool) -> None:
        x, sound, broken = self.tokens(), *(self.build(seeds=(0, 1)).train(training) for _ in range(2))
        with torch.no_grad():
            for value in broken.parameters():
                value[1] = torch.nan
        _assert_equal(broken(x)[:, 0], sound(x)[:, 0], 1e-12)

    @pytest.mark.parametrize("training", [True, False])
    def test_a_cell_that_was_zeroed_gives_finite_vectors(self, training: bool) -> None:
        """As one that has diverged is: numbers that are not finite are slow on some processors."""
        pool = self.build(seeds=(0, 1)).train(training)
        with torch.no_grad():
            for value in pool.state_dict().values():
                value[1] = 0
        _assert_finite_with_gradients(pool, pool(self.tokens()))

    @pytest.mark.parametrize("cells", [None, 1, 3])
    @pytest.mark.parametrize("grid", [(2, 3), (7, 1), (1, 1)])
    def test_any_grid_and_batch_give_vectors_of_the_poolings_width(
        self, cells: int | None, grid: tuple[int, int]
    ) -> None:
        pool = self.build(seeds=range(cells) if cells else None, grid=grid).eval()
        for n_images in (2, 1):
            pooled = pool(self.tokens(n_images, pool))
            assert pooled.shape == ((n_images, pool.out_dim) if cells is None else (n_images, cells, pool.out_dim))
            assert pooled.isfinite().all()
        for value in pool.state_dict().values():
            assert len(value) == (cells or 1)

    def test_an_image_alone_gives_what_it_gives_in_a_batch(self) -> None:
        pool, x = _stirred(self.build()).eval(), self.tokens()
        _assert_equal(pool(x[1:2]), pool(x)[1:2], 1e-12)

    def test_training_on_one_image_works(self) -> None:
        pool = _stirred(self.build(seeds=(0, 1)))
        pooled = pool(self.tokens(1))
        assert pooled.shape == (1, 2, pool.out_dim)
        _assert_finite_with_gradients(pool, pooled)

    def test_attention_is_a_map_over_tokens_and_looking_changes_nothing(self) -> None:
        if not issubclass(self.pooling, AttentivePooling):
            pytest.skip(f"{self.pooling.name} has no attention maps")
        x, stacked = self.tokens(), _stirred(self.build(seeds=SEEDS)).train()
        before = {name: value.clone() for name, value in stacked.state_dict().items()}
        maps, alone = stacked.attention(x), _stirred(self.build()).attention(x)
        assert all(torch.equal(before[name], value) for name, value in stacked.state_dict().items())
        assert maps.shape == (3, 3, alone.shape[1], x.shape[1]) and alone.shape == (3, alone.shape[1], x.shape[1])
        for found in (maps, alone):
            assert (found >= 0).all()
            sums = found.sum(-1)
            if self.maps_sum == "one":
                _assert_equal(sums, torch.ones_like(sums), 1e-12)
            elif self.maps_sum == "below one":
                assert ((sums > 0) & (sums < 1)).all()
            else:
                assert self.maps_sum == "anything"

    def test_bfloat16_products_give_the_float64_result_to_their_rounding(self) -> None:
        """Autocast rounds factors to 8 bits, 2^-9 relative: a few such roundings in a row stay below a percent or two.

        Tokens are given as bfloat16 to both, so that only the pooling's own rounding counts.
        """
        pool = _stirred(self.build(seeds=(0, 1)))
        if not list(pool.parameters()):
            pytest.skip(f"{self.pooling.name} has no weights")
        x = self.tokens(8, pool).bfloat16()
        exact = pool(x.double())
        cotangent = _cotangent(exact)
        (exact * cotangent).sum().backward()
        expected = {name: value.grad.clone() for name, value in pool.named_parameters() if value.grad is not None}
        pool.zero_grad()
        pool.float()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = pool(x)
            if isinstance(pool, AttentivePooling):
                assert pool.attention(x).dtype == torch.float32
        (rounded * cotangent).sum().backward()
        assert (rounded - exact).norm() <= 1e-2 * exact.norm()
        overall = sqrt(sum(float(gradient.norm()) ** 2 for gradient in expected.values()))
        for name, gradient in expected.items():
            found = pool.get_parameter(name).grad
            assert found.dtype == torch.float32
            largest = self.bfloat16_gradient * max(float(gradient.norm()), 0.1 * overall)
            assert (found - gradient).norm() <= largest, name

    def test_an_exported_program_takes_any_number_of_images(self) -> None:
        pool, x = self.build().float().eval(), self.tokens(4).float()
        exported = torch.export.export(pool, (x,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
        for n_images in (4, 1, 3):
            _assert_equal(exported.module()(x[:n_images]), pool(x[:n_images]), 1e-6)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cotangent(like: Tensor) -> Tensor:
    return torch.randn(like.shape, dtype=torch.float64, generator=_generator(1))


def _stirred(pool: Any, by: float = 0.1) -> Any:
    """Move every parameter and statistic away from zeros, ones and other special values."""
    generator = _generator(3)
    with torch.no_grad():
        for value in pool.parameters():
            value.add_(by * torch.randn(value.shape, dtype=torch.float64, generator=generator))
        for name, value in pool.named_buffers():
            if name.startswith("running"):
                value.add_(torch.rand(value.shape, dtype=torch.float64, generator=generator))
    return pool


def _assert_equal(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def _assert_finite_with_gradients(pool: Pooling, pooled: Tensor) -> None:
    assert pooled.isfinite().all()
    if pooled.requires_grad:
        pooled.square().sum().backward()
        assert all(value.grad is None or value.grad.isfinite().all() for value in pool.parameters())
