"""Progress of work that is measured in bytes."""

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from ..runtime.progress import Progress


class ByteProgress(Progress):
    """Counts bytes, from any thread. On stderr."""

    def __init__(self, what: str, n_bytes: int) -> None:
        """Start at nothing of `n_bytes`; `what` names the work."""
        columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        super().__init__(what, n_bytes, *columns, last_line=False)

    def advance(self, n_bytes: int) -> None:
        """Count some more."""
        self._count(n_bytes)

    def _line(self) -> str:
        speed = self._done / max(self.seconds, 1e-9)
        return f"{self._what} {self._done / 1e6:,.0f}/{self._total / 1e6:,.0f} MB  {speed / 1e6:.1f} MB/s"
