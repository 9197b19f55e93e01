"""Requests are repeated a few times, and their errors are one line without secrets."""

import os
import sys

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from tokenprobe.errors import AddressError, InputError
from tokenprobe.store import object_requests
from tokenprobe.store.object_requests import explained, open_address, repeated
from tokenprobe.store.objects import Bucket, ObjectPath


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


def test_messages_name_the_variable_in_place_of_its_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hunter2=")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")  # too short to be one
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    with pytest.raises(AddressError) as caught, explained("az://c/a.zarr"):
        raise GenericError("the key hunter2= of account is bad")
    assert "': the key $AZURE_STORAGE_ACCOUNT_KEY of account is bad; check" in str(caught.value)


def test_of_credentials_that_begin_alike_or_have_several_lines_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "minio1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "minio1hunter2")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '{"key":\n  "hunter2"}')
    monkeypatch.setenv("SERVICE_ACCOUNT", "/hunter2.json")
    said = 'minio1hunter2 and minio1, {"key":\n  "hunter2"} or {"key": "hunter2"}, /hunter2.json'
    with pytest.raises(AddressError) as caught, explained("az://c/a.zarr"):
        raise GenericError(said)
    shown = str(caught.value)
    assert "hunter2" not in shown and "$AWS_SECRET_ACCESS_KEY and $AWS_ACCESS_KEY_ID, $GOOGLE_SERVICE" in shown


ACCOUNT = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("address", "variables", "said"),
    [
        ("gs://b/a", {"GOOGLE_APPLICATION_CREDENTIALS": "/hunter2.json"}, r"from \$GOOGLE_APPLICATION_CREDENTIALS: No"),
        ("gs://b/a", {"GOOGLE_SERVICE_ACCOUNT": "/hunter2.json"}, r"file from \$GOOGLE_SERVICE_ACCOUNT: No such"),
        ("gs://b/a", {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "hunter2"}'}, "Unable to decode service account"),
        ("az://b/a", ACCOUNT | {"AZURE_STORAGE_ENDPOINT": "host?sig=hunter2"}, r"Url: \$AZURE_STORAGE_ENDPOINT, Error"),
        ("az://b/a", ACCOUNT | {"AZURE_STORAGE_ACCOUNT_KEY": "hunter2!"}, "Invalid Access Key"),
        ("az://b/a", ACCOUNT | {"AZURE_STORAGE_SAS_TOKEN": "hunter2"}, "Missing component in SAS"),
        ("az://b/a", ACCOUNT | {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=hunter2"}, "error sending request"),
    ],
)
def test_services_of_google_and_azure_repeat_no_credential(
    monkeypatch: pytest.MonkeyPatch, address: str, variables: dict[str, str], said: str
) -> None:
    monkeypatch.setattr(object_requests, "N_RETRIES", 0)
    monkeypatch.setattr(object_requests, "N_TRIES", 1)
    for name in [name for name in os.environ if name.startswith(object_requests.SERVICES)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AddressError, match=f"^cannot use '{address}.*{said}") as caught:
        ObjectPath(Bucket(address), "x").read_bytes()
    assert "hunter2" not in str(caught.value)


PLAIN = {
    "s3": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    "gs": {"GOOGLE_SERVICE_ACCOUNT": "/none.json"},
    "az": ACCOUNT | {"AZURE_STORAGE_TOKEN": "token"},
}


@pytest.mark.parametrize("control", ["\n", "\r", "\x01", "\x7f"])
@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("s3", "AWS_ACCESS_KEY_ID"),
        ("s3", "AWS_SESSION_TOKEN"),
        ("s3", "AWS_REGION"),
        ("s3", "AWS_ENDPOINT_URL"),
        ("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs", "SERVICE_ACCOUNT"),
        ("az", "AZURE_STORAGE_TOKEN"),
        ("az", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_a_variable_with_a_control_character_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, scheme: str, name: str, control: str
) -> None:
    """obstore would panic at some of them."""
    for variable, value in (PLAIN[scheme] | {name: f"hunter2{control}"}).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError) as caught:
        open_address(f"{scheme}://b/a")
    assert str(caught.value) == (
        f"cannot use '{scheme}://b/a': the variable ${name} holds a line break or another control character; set it "
        "again without, for it may have one at its end"
    )


def test_variables_of_another_service_and_keys_in_json_may_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "a\nb")
    monkeypatch.setenv(
        "GOOGLE_SERVICE_ACCOUNT_KEY", '{\n"client_email": "a", "private_key": "b", "private_key_id": "c"}'
    )
    monkeypatch.setenv("GOOGLE_CREDENTIALS", '{\n"of": "other tools"}')
    for name, value in PLAIN["s3"].items():
        monkeypatch.setenv(name, value)
    open_address("s3://b/a")
    with pytest.raises(AddressError):  # Google's key is read, and is no key
        open_address("gs://b/a")


def test_a_panic_of_obstore_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (PLAIN["s3"] | {"AWS_ENDPOINT_URL": "http://127.0.0.1:port"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AddressError, match=r"^cannot use 's3://b/a/x': .*InvalidPort; check the address, the network"):
        ObjectPath(Bucket("s3://b/a"), "x").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_stopped_program_is_no_error_of_an_address(error: type[BaseException]) -> None:
    with pytest.raises(error), explained("s3://b/a"):
        raise error


def test_without_obstore_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InputError, match=r"^'s3://b/a\.zarr' is an address, .*; pip install 'tokenprobe\[remote\]'$"):
        open_address("s3://b/a.zarr")
