"""The contract of a writer: it brings curves and tables to one service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Point(NamedTuple):
    """The place of a number.

    Attributes:
        chart: title of the chart.
        line: name of the line in it.
        axis: name of the horizontal axis, such as "epoch".
        step: place on it.
    """

    chart: str
    line: str
    axis: str
    step: int


class Writer(ABC):
    """Writes to one service, into a folder of a run."""

    @abstractmethod
    def steps(self) -> Mapping[tuple[str, str], set[int]]:
        """Return the steps that earlier sessions have written, by chart and line."""

    @abstractmethod
    def add(self, point: Point, value: float) -> None:
        """Write one number."""

    def add_spread(self, point: Point, values: Sequence[float]) -> None:  # noqa: B027
        """Write the distribution of numbers, if the service has a chart for it."""

    @abstractmethod
    def flush(self) -> None:
        """Make everything so far visible to readers."""

    @abstractmethod
    def replace_results(self, results: pd.DataFrame) -> None:
        """Write the results, in the place of those of an earlier session.

        Args:
            results: one row per choice of the protocol, the best first: texts and numbers; None is missing.
        """

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """End the session."""
