"""Make a plan from a config and a store."""

from ...store import Store
from ..batches.data import open_data
from ..batches.layer_set import parse_layer_sets
from ..batches.subsets import parse_shots
from ..config import LR_GRID, PAPER_LR, FitConfig
from ..grid.cells import Grid
from ..grid.regimes import make_regimes
from ..grid.specs import parse_heads
from .check import check_config, check_plan
from .plan import Plan


def make_plan(store: Store, config: FitConfig, precision: str) -> Plan:
    """Check a config against a store, and choose the values that it leaves open.

    Args:
        store: to train on.
        config: of the fit.
        precision: the machine's precision for training.

    Raises:
        InputError: a setting is unknown or out of range, or the store lacks something.
        StoreError: a layer asked for is not completely written.
    """
    check_config(config)
    shots = parse_shots(config.shots, config.fraction)
    data = open_data(store, config)
    grid = Grid(
        store="",
        layers=parse_layer_sets(config.layers, data.train.layers, store.manifest.depth),
        heads=parse_heads(config.heads),
        regimes=make_regimes(data, config, shots),
        optimizer=config.optimizer,
        lrs=config.lr or (LR_GRID if config.protocol == "select" else PAPER_LR),
        weight_decays=config.weight_decay,
    )
    plan = Plan(config, data, grid, precision)
    check_plan(plan)
    return plan
