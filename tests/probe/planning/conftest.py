"""A small store, with any splits and kinds of tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.store import Store, open_store

from .kit import MakeStore, write_made


@pytest.fixture
def small_store(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Train and test, layers 0 and 2, all kinds of tokens. Written once; not to be changed."""
    path = tmp_path_factory.getbasetemp() / "plan.zarr"
    return open_store(path) if path.exists() else write_made(write_store, path)


@pytest.fixture
def make_store(write_store: Callable[..., Store], tmp_path: Path) -> MakeStore:
    return lambda *args, **kwargs: write_made(write_store, tmp_path / "s.zarr", *args, **kwargs)
