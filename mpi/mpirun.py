#!/usr/bin/env python3
"""Starts the launcher of the MPI that is installed beside it (Open MPI, MPICH or Intel MPI), with this project's
defaults. `make setup` installs it as .venv/bin/mpirun.

A flag on the command line overrides a default; so does the variable, if it is set already. Launchers kill their ranks
a moment after SIGINT, SIGTERM or SIGHUP. Here these become SIGUSR1, which launchers pass on: a training then saves a
checkpoint, and ends with status 130 after SIGINT, else 75. A second SIGINT ends all at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULTS = {
    # ranks are not bound to cores: they divide those they were granted among themselves (see affinity.py)
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "I_MPI_PIN": "off",
    # Open MPI only: root may run it, and more ranks than cores are allowed
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
RAW = ["--output", ":raw"]  # Open MPI 5 holds lines back until their end, and so a progress line for ever
OTHER_OUTPUT = ("--output", "--tag-output", "--timestamp-output", "--xml")
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
TWICE = 0.2  # s within which a second signal is the first one again, as timeout(1) sends it
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class Launcher:
    """A launcher that runs `words`, in a session of its own: a terminal's Ctrl-C reaches this process alone. `options`
    are those of subprocess.Popen.
    """

    def __init__(self, words, signals=None, **options):
        self.signals, self.process = [] if signals is None else signals, None  # those of a start that failed, too
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, self.catch)
        prctl = ctypes.CDLL(None).prctl  # if this process is killed, so is the launcher
        stdin = subprocess.DEVNULL if os.isatty(0) else None
        self.process = subprocess.Popen(words, stdin=stdin, start_new_session=True, **options,
                                        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))  # fmt: skip
        if self.signals:
            self.process.terminate()

    def catch(self, number, _):
        interrupted = [at for other, at in self.signals if other == signal.SIGINT]
        self.signals.append((number, time.monotonic()))
        if self.process is None:
            return
        if number == signal.SIGINT and interrupted and time.monotonic() - interrupted[0] > TWICE:
            self.process.terminate()
        elif len(self.signals) == 1:
            self.process.send_signal(signal.SIGUSR1)

    def status(self):
        """Wait for the end. Returns the exit status."""
        status = self.process.wait()
        status = status if status >= 0 else 128 - status
        if status and any(number == signal.SIGINT for number, _ in self.signals):
            return 130
        return TRY_AGAIN if self.signals and status == 128 + signal.SIGUSR1 else status


def main(words):
    os.environ["PATH"] = f"{HERE}:{os.environ.get('PATH', '')}"  # bin/train and the others run in this environment
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    hydra = HERE / "mpiexec.hydra"  # MPICH's, or Intel's
    if hydra.exists():
        return Launcher([hydra, *words]).status()
    raw = [] if any(word.startswith(OTHER_OUTPUT) for word in words) else RAW
    return Launcher([HERE / "mpirun.openmpi", *raw, *words]).status()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
