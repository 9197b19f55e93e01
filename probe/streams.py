"""The streams of one layer: training rows, subsets, validation and test, each kept where there is room."""

from collections.abc import Sequence

from .caching import DISK, SUBSETS, TEST, TRAIN, VAL
from .course import Course
from .plan import Plan
from .split import FULL, Rows
from .stream import Rings, TokenStream


class LayerStreams:
    """What the passes over one layer, or several joined, read."""

    def __init__(self, plan: Plan, layers: tuple[int, ...], kinds: Sequence[str], courses: Sequence[Course]) -> None:
        """Read what is kept in memory.

        Args:
            plan: of the store.
            layers: indices.
            kinds: arrays that heads read.
            courses: that are still to be trained.
        """
        self._plan, self._layers, self._kinds = plan, layers, list(kinds)
        self._rings, self._rows, self._places = Rings(plan.device), plan.rows(courses), plan.places(layers, courses)
        if self._places.get(TRAIN, DISK) != DISK:
            self._rows.pop(SUBSETS, None)  # they are rows of what is kept already
        self._open = {name: self._stream(name) for name in self._rows}

    @property
    def test(self) -> TokenStream:
        """The test split."""
        return self._open[TEST]

    @property
    def test_rows(self) -> Rows:
        """All rows of the test split."""
        return self._rows[TEST]

    def train(self, course: Course) -> TokenStream:
        """Return the stream of a course's training rows."""
        return self._open[SUBSETS if course.shots != FULL and SUBSETS in self._open else TRAIN]

    def val(self, course: Course) -> TokenStream:
        """Return the stream of a course's validation rows."""
        return self._open[VAL] if VAL in self._open else self.train(course)

    def _stream(self, name: str) -> TokenStream:
        plan = self._plan
        return TokenStream(
            plan.split(name),
            self._layers,
            self._rows[name],
            self._kinds,
            cache=self._places[name],
            device=plan.device,
            rings=self._rings,
            norm=plan.norm,
        )
