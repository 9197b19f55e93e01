"""Settings of the workflows: their choices agree with the code."""

from tokenprobe.runtime.options import fields_of
from tokenprobe.store.export import FORMS
from tokenprobe.store.quantize import DTYPES
from tokenprobe.workflows.config import ExportConfig


def test_the_choices_are_those_of_the_code() -> None:
    fields = fields_of(ExportConfig)
    assert set(fields["to"].choices) == set(FORMS)
    assert set(fields["dtype"].choices) == set(DTYPES)
