"""Memory kept between passes, by the kernel's own count of pages."""

import os
import resource
from pathlib import Path

import pytest
import torch

from tokenprobe.extract.heap import kept_memory

N_BYTES = 96 * 2**20


def faults_of_one_more_tensor() -> int:
    """Fill a tensor and free it, then count the pages that the kernel maps for another one."""
    torch.ones(N_BYTES, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(N_BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="malloc of another C library")
def test_memory_is_mapped_once_inside_and_given_back_at_the_end() -> None:
    usual = faults_of_one_more_tensor()
    before = resident_bytes()
    with kept_memory():
        kept = faults_of_one_more_tensor()
        held = resident_bytes() - before
    assert kept < usual / 4
    assert held > N_BYTES / 2
    assert resident_bytes() - before < N_BYTES / 2
    assert faults_of_one_more_tensor() > usual / 2


def test_an_error_passes_and_the_usual_way_returns() -> None:
    usual = faults_of_one_more_tensor()
    with pytest.raises(ValueError, match="of the body"), kept_memory():
        raise ValueError("of the body")
    assert faults_of_one_more_tensor() > usual / 2
