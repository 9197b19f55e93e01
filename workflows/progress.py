"""Progress of work measured in bytes."""

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from ..runtime.progress import Progress
from ..runtime.text import size_text


class ByteProgress(Progress):
    """Counts bytes, from any thread."""

    def __init__(self, what: str, n_bytes: int) -> None:
        """Start at zero of `n_bytes`; `what` names the work."""
        columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        super().__init__(what, n_bytes, *columns, last_line=False)

    def advance(self, n_bytes: int) -> None:
        """Count `n_bytes` more."""
        self._count(n_bytes)

    def _line(self) -> str:
        speed = self._done / max(self.seconds, 1e-9)
        return f"{self._what} {size_text(self._done)} of {size_text(self._total)}  {size_text(speed)}/s"
