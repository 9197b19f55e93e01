"""A worker of an extraction: it runs the backbone over units of blocks, and hands their tokens to a writer.

The leader plans once. A worker gets the plan with its own device left open, and loads the backbone. It lists no images.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ..engines.contract import Tell, Worker
from ..errors import InputError
from ..runtime.device import resolve_device, resolve_precision
from ..runtime.stopping import finishing, is_stopping
from ..store import BlockWriter, open_block_writer
from ..store.layout import layer_name
from .decoded import Waits
from .forward import Job, run_batches
from .loaded import load_configured
from .loading import explained_loss
from .statistics import read_channels
from .stored import stored_arrays
from .units import Unit, batch_sizes, batches_of_unit


class ExtractWork:
    """Makes workers for one extraction: see `WorkerFactory`. In another process, a worker loads its own backbone.

    Attributes:
        waits: what the worker of this process waits for.
    """

    def __init__(self, job: Job, writer: BlockWriter) -> None:
        """Prepare workers.

        Args:
            job: objects of this process. Its config, plan and source travel to other processes.
            writer: of this process.
        """
        self._config, self._plan, self._source = job.config, job.plan, job.source
        self._here: tuple[Job, BlockWriter] | None = job, writer
        self.waits = Waits()

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to other processes."""
        return vars(self) | {"_here": None, "waits": Waits()}

    def __call__(self) -> AbstractContextManager[Worker]:
        """Make a worker in this process."""
        if self._here is not None:
            return nullcontext(_Worker(*self._here, self.waits))
        return self._elsewhere()

    @contextmanager
    def _elsewhere(self) -> Iterator[Worker]:
        job = self._load()
        with open_block_writer(self._config.out, self._plan.manifest) as writer:
            yield _Worker(job, writer, self.waits)

    def _load(self) -> Job:
        config, recipe = self._config, self._plan.manifest.recipe
        device = resolve_device(config.device)
        backbone = load_configured(config, self._source)
        precision = resolve_precision(config.amp, device)
        if precision != recipe.precision:
            raise InputError(
                f"a worker computes in {precision} on {device}, but the leader planned {recipe.precision}; give "
                "--device or --amp, so that all workers compute alike"
            )
        if backbone.weights_hash() != recipe.weights:
            raise InputError(f"a worker loaded other weights of {recipe.model!r} than the leader; use the same files")
        return Job(config, self._plan, backbone, self._source, device)


class _Worker:
    """See `Worker`. After a signal it finishes the block that it is at."""

    def __init__(self, job: Job, writer: BlockWriter, waits: Waits) -> None:
        self._job, self._writer, self._waits = job, writer, waits

    @explained_loss()
    def __call__(self, units: Iterator[Unit], tell: Tell) -> None:
        job, dtype = self._job, self._job.plan.manifest.recipe.dtype
        channels = read_channels(job, self._writer) if dtype == "int8" else {}
        work = (batch for unit in units for batch in batches_of_unit(job.plan, unit, job.config.batch_size))
        sizes = batch_sizes(job.plan, job.config.batch_size)
        batches = run_batches(
            job, work, self._waits.for_images, sizes
        )  # forks, so before a progress bar starts its thread
        tell(0, 0)
        with finishing():
            for batch, tokens in batches:
                n_bytes = 0
                split = batch.key.split
                ids = job.plan.rows[split].ids[batch.rows.start : batch.rows.stop]
                for layer, outputs in tokens.items():
                    kinds = job.plan.manifest.splits[split].layers[layer_name(layer)]
                    with self._waits.for_tokens:
                        arrays = stored_arrays(outputs, kinds, dtype, channels.get((split, layer), {}), layer, ids)
                    n_bytes += sum(values.nbytes for values in arrays.values())
                    with self._waits.for_disk:
                        self._writer.append(batch.key, layer, arrays)
                        if batch.last:
                            self._writer.finish_block(batch.key, layer)
                tell(len(batch.rows), n_bytes)
                if batch.last and is_stopping():
                    break
            with self._waits.for_disk:
                self._writer.flush()
