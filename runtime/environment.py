"""Settings of libraries below torch. They read the environment once, so the command sets it before torch is loaded."""

import os

SPIN = "200"
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
OWN_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_briefly() -> None:
    """Let idle worker threads of GNU's OpenMP library sleep soon.

    A worker thread of a parallel loop waits for the next loop. By default it spins for milliseconds, and so takes the
    core from whatever else runs there, which may be the thread that it waits for. A short spin is as fast on a quiet
    machine. A choice of the user stays. Processes that this one starts inherit the setting.
    """
    if not any(name in os.environ for name in OWN_CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN


def use_huge_pages() -> None:
    """Let torch ask Linux for huge pages for tensors of 2 MB and more, unless the user chose otherwise.

    Such tensors come fresh from the system in every step. With pages of 4 KB, their first touches took a fifth of a
    step of 24 stacked EP cells on a CPU.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
