"""Code that a run or a store names: whoever made it chose that code, so it runs only where the user says so."""

from ..errors import InputError
from ..extract.backbones import code_of


def check_code(model: str, named_by: str, trust_code: bool, other_way: str = "") -> None:
    """Refuse a backbone that would run code, unless it is trusted.

    Args:
        model: the backbone, such as "hub:OWNER/REPO/ENTRY".
        named_by: what names it, for the message.
        trust_code: whether the user trusts it.
        other_way: what the user may do instead, for the message.

    Raises:
        InputError: loading the backbone would run code; says which, and from where.
    """
    code = code_of(model)
    if code and not trust_code:
        raise InputError(
            f"{named_by} asks for the backbone {model!r}, and loading it runs {code}; if you know that code and trust "
            f"it, give --trust-code{other_way}"
        )
