"""Test suites for others to inherit: what every pooling must pass, and every store format.

The tests of this package inherit them too. They need pytest.
"""

import pytest

SUITES = ("poolings", "stores", "store_writing", "store_refusing", "store_kit")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in SUITES))
