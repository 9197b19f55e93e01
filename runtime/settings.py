"""Settings: the options of a command or of a Python function, as a frozen dataclass."""

from typing import Annotated, Any, ClassVar, Literal, Self

from .options import DATA, MACHINE, Option, fields_of
from .values import read_value

Device = Annotated[str, Option("Device for the computation: auto, cpu, cuda or cuda:N.", MACHINE)]
Amp = Annotated[
    Literal["auto", "off", "bfloat16", "float16"],
    Option("Precision of matrix products. auto is bfloat16 on CUDA and off on a CPU.", MACHINE),
]
ForwardSize = Annotated[int, Option("Images per forward pass.", MACHINE, least=1)]
Workers = Annotated[int | None, Option("Processes that decode images.", MACHINE, default="one per core", least=0)]
Engine = Annotated[
    Literal["inline", "torchrun", "ray"] | None,
    Option(
        "What runs the work: this process, the processes that torchrun started, or Ray.",
        MACHINE,
        default="torchrun if it started this process, else inline",
    ),
]
Shard = Annotated[
    str | None,
    Option(
        "Do only a fixed part of the work: 0/8 to 7/8 are eight parts. probe merge completes them.",
        MACHINE,
        metavar="I/N",
    ),
]
Address = Annotated[
    str | None,
    Option("Ray cluster, such as auto or HOST:6379.", MACHINE, metavar="ADDRESS", default="started on this machine"),
]
NumGpus = Annotated[float | None, Option("GPUs per task of Ray.", MACHINE, default="1 if the cluster has any", least=0)]
SkipBadImages = Annotated[bool, Option("Leave out images that cannot be read.", DATA)]


class Settings:
    """Base of frozen dataclasses whose annotations hold an `Option`.

    A field takes a single value, a list or text, like its flag: `lr=3.0`, `lr=[0.1, 3]` and `lr="0.1,3"` all work.
    The value is converted to the declared type.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of a config file that are ignored."""
    given: frozenset[str]
    """Names of the arguments that the caller gave."""

    def __new__(cls, **given: Any) -> Self:
        """Note which arguments are given: a preset replaces the defaults of the others."""
        settings = super().__new__(cls)
        object.__setattr__(settings, "given", frozenset(given))
        return settings

    def __post_init__(self) -> None:
        for name, field in fields_of(type(self)).items():
            object.__setattr__(self, name, read_value(field, getattr(self, name)))
