"""A package outside the tree inherits the suite for its pooling: the one of docs/your-own.md, and wrong ones."""

from pathlib import Path

from .outside import run_suite

PAGE = Path(__file__).parents[2] / "docs" / "your-own.md"
WRONG = {
    "Formula": ("pooled * 1.001", "test_output_maps_and_gradients_equal_the_formula"),
    "Mixing": ("pooled - pooled.mean(1, keepdim=True)", "test_stacked_cells_equal_each_alone"),
    "Infecting": ("pooled + 0 * pooled.sum(1, keepdim=True)", "test_a_cell_that_is_not_finite_leaves_others_alone"),
    "Batch": ("pooled - pooled.mean(0)", "test_an_image_alone_gives_what_it_gives_in_a_batch"),
    "Zero": ("pooled / self.scale.norm(dim=2)", "test_a_cell_that_was_zeroed_gives_finite_vectors"),
    "Values": ("pooled + 0 * float(pooled.sum())", "test_an_exported_program_takes_any_number_of_images"),
    "Rounding": ("pooled * (1 + 0.02 * (x_BND.element_size() < 8))", "test_bfloat16_products_give_the_float64_result"),
    "Width": ("pooled[:, :, :-1]", "test_any_grid_and_batch_give_vectors_of_the_poolings_width"),
}
"""What wrong poolings return, and the test of the suite that must say so."""
A_WRONG_ONE = """

class {name}(PowerMean):
    def pool(self, x_BND):
        pooled = super().pool(x_BND)
        return {returned}


class Test{name}(TestPowerMean):
    pooling = {name}
"""


def test_the_suite_passes_a_right_pooling_and_says_what_is_wrong_with_others(tmp_path: Path) -> None:
    pooling, suite = (code.split("```")[0] for code in PAGE.read_text().split("```python\n")[1:3])
    (tmp_path / "mypkg_heads.py").write_text(pooling)
    wrong = [A_WRONG_ONE.format(name=name, returned=returned) for name, (returned, _) in WRONG.items()]
    (tmp_path / "test_mine.py").write_text(suite + "".join(wrong))
    chosen = " or ".join(["TestPowerMean", *(f"(Test{name} and {test})" for name, (_, test) in WRONG.items())])
    shown, failed = run_suite(tmp_path, chosen)
    assert not any("::TestPowerMean::" in line for line in failed), shown
    for name, (_, test) in WRONG.items():
        assert any(f"::Test{name}::{test}" in line for line in failed), (name, shown)
    assert "1 skipped" in shown, "the power mean has no attention maps"
