"""Facts of every head that its code does not decide: the tests hold the code against them.

A new pooling is one entry of `FACTS`; docs/heads.md, "Adding one", has the recipe.
"""

from tokenprobe.probe.heads import POOLINGS

from .formulas import Settings
from .kit import DIM, D, HeadFacts, N

WITH_PREFIX: Settings = {"tokens": "patch+prefix"}
UNIFORM = 3**-0.5
"""Standard deviation of a uniform distribution within ±1."""
AS_LINEAR = (0, UNIFORM * DIM**-0.5)
"""Mean and standard deviation of the weights of torch's nn.Linear over tokens."""

FACTS = {
    "ep": HeadFacts(
        defaults={"queries": 32, "d_out": 1, "tokens": "patch"},
        cases=[
            *({"queries": q, "d_out": d} for q, d in ((1, 1), (4, 1), (12, 1), (3, 2), (2, 4), (6, 2))),
            {"queries": 3, **WITH_PREFIX},
        ],
        references={"ep": {"queries": 8}, "ep_dout2": {"queries": 4, "d_out": 2}},
        counts=[
            ({}, 1_383_400), ({"queries": 12}, 1_368_040), ({"queries": 1}, 1_359_592),
            ({"queries": 128, "d_out": 2}, 778_216), ({"queries": 48, "d_out": 8}, 207_592),
        ],
        published_mflop=(241.15, 482.6),
        drawn=3.39877,
        starts={"queries": (0, 0.02), "value": AS_LINEAR},
        trained=["queries=3", "queries=2,d_out=2"],
        saved=["queries=4"],
    ),
    "abmilp": HeadFacts(
        defaults={
            "self_attention": "both", "depth": 2, "activation": "tanh", "content": "all", "cond": "none",
            "tokens": "patch",
        },
        cases=[
            *({"self_attention": kind, "depth": depth} for kind in ("both", "map", "none") for depth in (1, 2, 3)),
            *({"self_attention": kind, "cond": "pe", **WITH_PREFIX} for kind in ("both", "none")),
            {"activation": "relu", "content": "patch", **WITH_PREFIX},
            {"self_attention": "none", "cond": "pe", "depth": 1},
        ],
        references={
            "abmilp": {},
            "abmilp_map_relu3": {"self_attention": "map", "activation": "relu", "depth": 3},
            "abmilp_none_pe": {"self_attention": "none", "content": "patch", "cond": "pe"},
        },
        counts=[
            ({}, 3_720_425), ({"self_attention": "none"}, 1_360_361),
            ({"self_attention": "none", "depth": 1}, 769_769), ({"depth": 1}, 2_360_833 + 769_000),
        ],
        published_mflop=(1274.4, 3129.5),
        drawn=-3.71868,
        starts={"qkv_weight": AS_LINEAR, "score0_weight": AS_LINEAR},
        saved=["self_attention=map,cond=pe"],
        least_saving=1.9,
        bfloat16_gradient=0.1,  # logits of tens between tokens are rounded
    ),
    "simpool": HeadFacts(
        defaults={"tokens": "patch"},
        cases=[{}, WITH_PREFIX],
        references={"simpool": {}},
        counts=[({}, 1_950_184)],
        published_mflop=(233.0, 697.8),
        drawn=0.38874,
        starts={"k_weight": AS_LINEAR},
        trained=["tokens=patch+prefix"],
        saved=["tokens=patch+prefix"],
    ),
    "esimpool": HeadFacts(
        defaults={"heads": 12, "tokens": "patch"},
        cases=[{}, {"heads": 4, **WITH_PREFIX}],
        references={"esimpool": {}},
        counts=[({}, 770_536)],
        published_mflop=(0.60, 1.5),
        drawn=-0.84785,
        starts={"norm_weight": (1, 0)},
        saved=["heads=2"],
    ),
    "clip": HeadFacts(
        defaults={"heads": 4, "tokens": "patch"},
        cases=[{}, {"heads": 3, **WITH_PREFIX}],
        references={"clip": {}},
        counts=[({}, 3_284_200)],
        published_mflop=(1048.8, 3146.4),
        drawn=15.81998,
        starts={
            "position": (0, DIM**-0.5), "qkv_weight": (0, DIM**-0.5), "qkv_bias": (0, 0),
            "proj_weight": AS_LINEAR,
        },
        saved=["tokens=patch+prefix"],
        maps_sum="below one",
        shared_flops=2 * N * D,  # the mean of normed tokens
    ),
    "siglip": HeadFacts(
        defaults={"heads": 8, "mlp_ratio": 4, "tokens": "patch"},
        cases=[{}, {"heads": 3, "mlp_ratio": 2, **WITH_PREFIX}],
        references={"siglip": {}},
        counts=[({}, 7_854_568)],
        published_mflop=(474.8, 962.0),
        drawn=-13.72858,
        starts={
            "latent": (0, 0.8796 * DIM**-0.5), "kv_weight": AS_LINEAR,
            "fc2_weight": (0, UNIFORM * (4 * DIM) ** -0.5),
        },
        trained=["heads=4"],
    ),
    "aim": HeadFacts(
        defaults={"heads": 16, "token_norm": "batch", "norm": "batch", "tokens": "patch"},
        cases=[
            {"heads": 8}, {"heads": 1, **WITH_PREFIX}, {"heads": 0}, {"heads": 3, "token_norm": "none", **WITH_PREFIX},
        ],
        references={"aim": {"heads": 8}},
        counts=[({}, 1_949_416), ({"heads": 12}, 1_949_416)],
        published_mflop=(463.0, 926.7),
        drawn=8.71894,
        starts={"query": (0, 0.02), "value": AS_LINEAR},
        trained=["heads=4", "heads=0,token_norm=none,norm=none"],
        saved=["heads=4", "heads=0,token_norm=none,norm=none"],
        zero_heads=True,
    ),
    "cbam": HeadFacts(
        references={"cbam": {}},
        counts=[({}, 842_828)],
        published_mflop=(0.33, 0.85),
        drawn=0.45137,
        starts={
            "fc1_weight": AS_LINEAR, "fc2_weight": (0, UNIFORM * 6**-0.5),
            "conv_weight": (0, UNIFORM * 98**-0.5),
        },
        maps_sum="anything",
    ),
    "coca": HeadFacts(
        defaults={"heads": 8, "queries": 196, "tokens": "patch"},
        cases=[{}, {"heads": 3, "queries": 2, **WITH_PREFIX}],
        references={"coca": {}},
        counts=[({}, 1_805_032)],
        published_mflop=(425.5, 1237.9),
        drawn=16.54754,
        starts={
            "query_bank": (0, 1), "kv_weight": AS_LINEAR, "proj_weight": (0, UNIFORM * 512**-0.5),
        },
        trained=["queries=2"],
        any_heads=True,
    ),
    "cait": HeadFacts(
        defaults={"heads": 4, "mlp_ratio": 4, "tokens": "patch"},
        cases=[{}, {"heads": 6, "mlp_ratio": 2, **WITH_PREFIX}],
        references={"cait": {}},
        counts=[({}, 7_860_712)],
        published_mflop=(477.2, 1431.6),
        drawn=-18.49982,
        starts={"query": (0, 0.02), "k_weight": AS_LINEAR, "scale1": (1e-5, 0)},
        maps_sum="below one",
        unstable=frozenset({"pooling.norm_bias", "running_mean"}),
    ),
    "dinovit": HeadFacts(
        defaults={"heads": 8, "mlp_ratio": 4, "tokens": "patch"},
        cases=[{}, {"heads": 2, "mlp_ratio": 3, **WITH_PREFIX}],
        references={"dinovit": {}},
        counts=[({}, 7_854_568)],
        published_mflop=(2892.6, 8677.6),
        drawn=26.91003,
        starts={"qkv_weight": AS_LINEAR, "fc1_weight": AS_LINEAR},
        trained=["heads=4"],
        least_saving=1.4,
    ),
    "jepa": HeadFacts(
        defaults={"heads": 16, "mlp_ratio": 4, "depth": 1, "norm": "batch", "tokens": "patch"},
        cases=[
            {"heads": 8}, {"heads": 3, "mlp_ratio": 2, **WITH_PREFIX}, {"heads": 2, "depth": 2, **WITH_PREFIX},
            {"heads": 3, "mlp_ratio": 2, "depth": 4},
        ],
        references={"jepa": {"heads": 8}},
        counts=[({}, 7_857_640)],
        published_mflop=(474.8, 1424.5),
        drawn=4.68115,
        starts={
            "query": (0, 0.02), "kv_weight": (0, 0.02), "fc1_weight": (0, 0.02), "q_bias": (0, 0),
            "proj_weight": (0, 0.02 * 2**-0.5), "fc2_weight": (0, 0.02 * 2**-0.5),
        },
        trained=["heads=4", "heads=4,depth=3,norm=none"],
        saved=["heads=4", "heads=4,depth=2"],
    ),
    "dolg": HeadFacts(
        defaults={"tokens": "patch"},
        cases=[{}, WITH_PREFIX],
        references={"dolg": {}},
        counts=[({}, 1_361_897)],
        published_mflop=(231.5, 463.3),
        drawn=-0.38235,
        starts={
            "conv1_weight": (0, (2 / DIM) ** 0.5), "conv2_weight": (0, 2**0.5), "conv1_bias": AS_LINEAR,
        },
        saved=["tokens=patch+prefix"],
        maps_sum="anything",
        least_saving=0.99,
        bfloat16_gradient=0.05,  # a norm is taken of rounded products
    ),
    "cae": HeadFacts(
        defaults={"heads": 8, "tokens": "patch"},
        cases=[{}, {"heads": 3, **WITH_PREFIX}],
        references={"cae": {}},
        counts=[({}, 3_135_976)],
        published_mflop=(465.4, 1396.2),
        drawn=4.94063,
        starts={"query": (0, 0), "q_weight": AS_LINEAR},
        trained=["heads=4"],
    ),
    "alf": HeadFacts(
        defaults={"heads": 0, "dropout": 0.0, "tokens": "cls+mean"},
        cases=[{}, {"heads": 3}, {"heads": 5, "tokens": "patch"}, {"heads": 24, **WITH_PREFIX}],
        references=None,  # test_alf.py has vectors of the whole probe
        counts=[({}, 5_495_272)],
        drawn=-3.80224,
        starts={"query": (0, 0.02), "q_weight": AS_LINEAR, "norm_k_weight": (1, 0)},
        trained=["tokens=patch,heads=4", "tokens=patch,heads=3,dropout=0.3"],
        saved=["", "tokens=patch+prefix,heads=3"],
        inputs=("cls", "mean"),
        any_heads=True,
    ),
    "linear": HeadFacts(
        defaults={"pool": "mean", "unit": False, "norm": "batch"},
        cases=[
            {"pool": pool, "unit": unit}
            for pool in ("cls", "mean", "cls+mean", "max", "embedding")
            for unit in (False, True)
        ],
        references=None,
        counts=[({}, 769_000)],
        published_mflop=(0.0, 0.0),
        trained=["pool=mean", "pool=cls", "pool=cls+mean", "pool=max", "pool=cls,norm=none"],
        saved=[
            "pool=cls", "pool=cls,norm=none", "pool=mean", "pool=cls+mean", "pool=max", "pool=embedding",
            "pool=embedding,unit=true",
        ],
        inputs=("mean",),
    ),
}  # fmt: skip
"""By the name in `POOLINGS`."""

KNOWN = {name: FACTS[name] for name in POOLINGS if name in FACTS}
"""The heads that tests of facts run over; where one is missing, test_registry.py fails."""
TRAINED = [f"{name}:{settings}".rstrip(":") for name, facts in KNOWN.items() for settings in facts.trained]
"""Heads to train together and alone, as `--head` takes them."""
SAVED = [f"{name}:{settings}".rstrip(":") for name, facts in KNOWN.items() for settings in facts.saved]
"""Heads to fit, save and load."""
