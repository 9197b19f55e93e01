"""How OpenMP's worker threads wait for work."""

import os

SPIN = "200"
OWN_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_briefly() -> None:
    """Let idle worker threads sleep soon. Call this before torch is loaded: GNU's OpenMP library reads it only then.

    A worker thread of a parallel loop waits for the next loop. By default it spins for milliseconds, and so takes the
    core from whatever else runs there, which may be the thread that it waits for. A short spin is as fast on a quiet
    machine. A choice of the user stays. Processes that this one starts inherit the setting.
    """
    if not any(name in os.environ for name in OWN_CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN
