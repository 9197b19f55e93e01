"""Test suites for others to inherit: what every pooling must pass, and every store format.

The tests of this package inherit them too. They need pytest.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.poolings")
