"""Secrets in an address reach no message, and addresses that cannot be used are refused."""

from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.runtime.address import check_address, check_writable, is_address, redacted, store_path

SECRET_ADDRESSES = [
    "s3://user:hunter2@bucket/a.zarr",
    "https://hunter2@host/a.zarr",
    "https://host/a.zarr?X-Amz-Signature=hunter2&X-Amz-Date=1",
    "az://container/a.zarr?sv=1&sig=hunter2",
    "https://host/a.zarr#hunter2",
    "ftp://user:hunter2@host/a",
]


@pytest.mark.parametrize("address", SECRET_ADDRESSES)
def test_secrets_in_an_address_are_refused_by_a_message_without_them(address: str) -> None:
    with pytest.raises(InputError, match=r"holds a password, a query or a fragment, .*credentials by") as caught:
        check_address(address)
    assert "hunter2" not in str(caught.value)


def test_text_is_shown_without_its_secrets() -> None:
    said = "Error performing GET https://me:pw@host/x/y?sig=abc%2F&se=2 in 3 ms, then s3://b/c?k=v"
    assert redacted(said) == "Error performing GET https://…@host/x/y?… in 3 ms, then s3://b/c?…"
    assert redacted("is it? /data/a@b.zarr") == "is it? /data/a@b.zarr"


def test_addresses_and_paths_are_told_apart() -> None:
    assert is_address("s3://bucket/a.zarr") and not is_address("/data/a.zarr") and not is_address(Path("a.zarr"))
    assert store_path("a.zarr") == Path("a.zarr")
    assert store_path("s3://bucket/a b.zarr//") == "s3://bucket/a b.zarr"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nosuch://a/b", r"^unknown kind of address 'nosuch://a/b'; known: s3://, gs://"),
        ("s3:///", r"^the address 's3:///' names no store; give one such as"),
    ],
)
def test_other_addresses_are_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_address(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host/a.zarr", "cannot write to 'https://host/a.zarr': a store at an HTTP address can only be read"),
        ("file:///data/a.zarr", "cannot write to 'file:///data/a.zarr': write to the path itself"),
    ],
)
def test_some_addresses_can_only_be_read(address: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        check_writable(address)
    assert check_writable("gs://bucket/a.zarr/") == "gs://bucket/a.zarr"
