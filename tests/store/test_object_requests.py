"""Requests are repeated a few times, and their errors are one line without secrets."""

import sys

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from tokenprobe.errors import AddressError, InputError
from tokenprobe.store import object_requests
from tokenprobe.store.object_requests import explained, open_address, repeated


def test_a_request_is_repeated_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_requests, "PAUSE_SECONDS", 0)
    tries = []

    def call() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise GenericError("lost")
        return 7

    assert repeated(call) == 7 and len(tries) == 3


@pytest.mark.parametrize(("error", "n_tries"), [(GenericError("down"), 4), (PermissionDeniedError("no"), 1)])
def test_a_request_that_fails_for_good_is_given_up(
    monkeypatch: pytest.MonkeyPatch, error: Exception, n_tries: int
) -> None:
    monkeypatch.setattr(object_requests, "PAUSE_SECONDS", 0)
    tries = []

    def call() -> None:
        tries.append(1)
        raise error

    with pytest.raises(type(error)):
        repeated(call)
    assert len(tries) == n_tries


def test_errors_are_one_line_without_secrets() -> None:
    said = "failed at https://u:hunter2@host/x?sig=hunter2\nagain\n\nDebug source:\nhunter2"
    with pytest.raises(AddressError) as caught, explained("az://c/a.zarr"):
        raise GenericError(said)
    assert str(caught.value) == (
        "cannot use 'az://c/a.zarr': failed at https://…@host/x?… again; check the address, the network and the "
        "credentials in the environment"
    )
    with pytest.raises(FileNotFoundError, match=r"^x$"), explained("az://c/a.zarr"):
        raise FileNotFoundError("x")


def test_without_obstore_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InputError, match=r"^'s3://b/a\.zarr' is an address, .*; pip install 'tokenprobe\[remote\]'$"):
        open_address("s3://b/a.zarr")
