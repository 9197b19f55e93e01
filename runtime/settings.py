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
