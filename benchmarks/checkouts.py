"""Code of others, from checkouts that the user has: nothing of it is part of this package.

* `--reference`: github.com/billpsomas/efficient-probing, the reference implementation of EP.
* `--dinov2`: github.com/facebookresearch/dinov2.
* `--capi`: github.com/facebookresearch/capi.

Each needs its own requirements too.
"""

import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class NotRunError(Exception):
    """The other side cannot run; the text says what it needs."""


@contextmanager
def checkout(path: Path | None, flag: str) -> Iterator[None]:
    """Make the modules of a checkout importable, and keep their messages from the terminal.

    Raises:
        NotRunError: there is no path, or a module is missing.
    """
    if path is None:
        raise NotRunError(f"give {flag} PATH")
    sys.path.insert(0, str(path.resolve()))
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    except ModuleNotFoundError as error:
        raise NotRunError(f"the code at {flag} lacks {error.name}") from error
    finally:
        logging.disable(logging.NOTSET)
        sys.path.remove(str(path.resolve()))


class Reference:
    """The reference's engine, with its heads, on a frozen backbone."""

    def __init__(self, path: Path | None, batches: dict[str, Sequence[tuple[Tensor, Tensor]]]) -> None:
        """Keep the batches (images, labels) of the splits train and test."""
        self._path, self._batches = path, batches

    def epoch(self, model: nn.Module, kind: str, n_maps: int) -> None:
        """Train a head for one epoch with `train_one_epoch`, and score it with `evaluate`.

        Args:
            model: computes logits of images; it has `head`, a linear layer, which `build_probe_head` replaces.
            kind: name of the head as the reference knows it.
            n_maps: queries of EP, or heads of AIM.
        """
        with checkout(self._path, "--reference"):
            engine, misc = importlib.import_module("engine_finetune"), importlib.import_module("util.misc")
            settings: dict[str, Any] = {"cls_features": kind, "ep_queries": n_maps, "num_heads": n_maps, "d_out": 1}
            head: Any = model.head
            settings |= {"nb_classes": head.out_features, "model": "", "accum_iter": 1, "amp": "none"}
            settings |= {"lr": 0.1, "min_lr": 0.0, "warmup_epochs": 10, "epochs": 90, "return_block": None}
            arguments = SimpleNamespace(**settings)
            importlib.import_module("probe_heads").build_probe_head(model, arguments)
            head = model.head  # the new one
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
            scaler, cpu = misc.NativeScalerWithGradNormCount(), torch.device("cpu")
            train, criterion = self._batches["train"], nn.CrossEntropyLoss()
            engine.train_one_epoch(model, criterion, train, optimizer, cpu, 0, scaler, None, args=arguments)
            engine.evaluate(self._batches["test"], model, cpu)
