"""Settings that must be in place before anything imports torch or the hub client."""

import gc
import os
import signal


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# Tiny matrices: a second thread costs more than it brings, and results must not depend on the number of cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell gives what it starts in the background no Ctrl-C, and `nohup` no hang-up; processes that tests start would
# inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from hypothesis import settings


# On shared cores, a deadline per example measures the machine
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# The files that take longest, longest first: whoever takes one of them last keeps the others waiting
LONG = (
    "test_trainer_compact.py",
    "test_ppo.py",
    "test_dpo.py",
    "test_examples.py",
    "test_trainer_distributed.py",
    "test_demo.py",
    "test_cli.py",
)


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish(session) -> None:
    # Each training collects garbage, and walks all that was ever imported to do so: longer than the training itself
    gc.collect()
    gc.freeze()
