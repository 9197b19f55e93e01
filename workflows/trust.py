"""Trust in code that a run or a store names. Whoever made it chose the code, so it runs only if the user agrees."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..extract.backbones import code_of


def check_code(model: str, arguments: Mapping[str, Any], named_by: str, trust_code: bool, other_way: str = "") -> None:
    """Refuse a backbone that would run code, unless the user trusts it.

    Args:
        model: the backbone, such as "hub:OWNER/REPO/ENTRY".
        arguments: arguments of its constructor.
        named_by: the run or store that names it, for the message.
        trust_code: whether the user trusts it.
        other_way: an alternative for the user, for the message.

    Raises:
        InputError: loading the backbone would run code; the message names the code and its source.
    """
    code = code_of(model, arguments)
    if code and not trust_code:
        raise InputError(
            f"{named_by} asks for the backbone {model!r}, and loading it runs {code}; if you know that code and trust "
            f"it, give --trust-code{other_way}"
        )
