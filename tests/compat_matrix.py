"""
Runs the contract, equivalence and resume tests on each supported release of TRL and of what TRL builds on.

`make compat` runs it and writes the table into docs/compatibility.md. Each set of releases is installed without its
dependencies into a folder that is found before the environment's own packages; torch and all else are shared. A set
whose result is there is not run again, so a stopped matrix goes on where it was.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from trl_dapo.host.host_names import NEEDS_TRITON, TESTED


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
FOLDER = ROOT / "build" / "compat"
BEGIN, END = "<!-- table of tests/compat_matrix.py -->", "<!-- end of the table -->"

# The newest patch of each minor between the lowest and the highest
TRL = ("1.12.0", "1.13.0", "1.14.2", "1.15.0", "1.16.0")

# A few of each, so that a set takes half a minute of one core
SUITES = {
    "contract": (
        "tests/test_host_contract.py::test_the_installed_trl_has_the_seams",
        "tests/test_host_contract.py::test_the_trainers_of_preferences_have_the_seams",
        "tests/test_host_contract.py::test_every_private_name_of_the_host_that_the_package_uses_is_in_the_tables",
        "tests/test_host_contract.py::test_a_changed_data_flow_is_seen",
    ),
    "equivalence": (
        "tests/test_trainer_off_is_trl.py::test_sequence_level_losses_are_the_hosts[grpo]",
        "tests/test_trainer_off_is_trl.py::test_token_level_loss_alone_is_the_hosts[dapo]",
        "tests/test_trainer_off_is_trl.py::test_one_host_generation_per_rollout[3-of-4-iterated]",
        "tests/test_trainer_off_is_trl.py::test_one_host_generation_per_rollout[6-of-4]",
        "tests/test_trainer_off_is_trl.py::test_every_kind_of_input",
        "tests/test_trainer_off_is_trl.py::test_tools",
        "tests/test_trainer_off_is_trl.py::test_dynamic_sampling_is_trl_where_every_group_is_informative",
        "tests/test_grpo.py::test_without_compact_microbatches_it_is_trl_bit_for_bit[fields1]",
        "tests/test_dpo.py::test_with_a_reference_it_is_trl_bit_for_bit",
        "tests/test_reward.py::test_training_is_trls_bit_for_bit",
        "tests/test_reward.py::test_with_an_adapter_training_is_trls_bit_for_bit",
    ),
    "resume": (
        "tests/test_trainer_resume.py::test_resumed_at_any_step_equals_never_stopped[all_of_dapo]",
        "tests/test_trainer_resume.py::test_resumed_at_any_step_equals_never_stopped[adapter_with_kl_and_entropy]",
        "tests/test_dpo.py::test_a_killed_run_resumes_to_the_same_end[lora-True]",
        "tests/test_dpo.py::test_a_killed_run_resumes_to_the_same_end[nf4-False]",
        "tests/test_reward.py::test_a_killed_run_resumes_to_the_same_end[lora]",
        "tests/test_ppo.py::test_a_resumed_run_equals_one_never_stopped[3-True]",
    ),
}


@dataclass(frozen=True)
class Result:
    """
    What a set of releases gave.

    Args:
        releases (`dict[str, str]`):
            Versions of TRL, transformers, accelerate, datasets and peft, as a process with the set has them.
        beside (`list[str]`):
            What else had to be of another version, `name==version`.
        counts (`dict[str, list[int]]`):
            Of each suite, how many tests passed, and how many there were without the skipped ones.
        failed (`list[str]`):
            Tests that did not pass.
        python, torch (`str`):
            What all sets share.
    """

    releases: dict[str, str]
    beside: list[str]
    counts: dict[str, list[int]]
    failed: list[str]
    python: str
    torch: str


def release_sets() -> dict[str, dict[str, str]]:
    """Returns the sets: one release differs from the newest tested ones in each, all of them in `lowest`."""
    newest = {name: tested.highest for name, tested in TESTED.items()}
    sets = {f"trl-{release}": {**newest, "trl": release} for release in reversed(TRL)}
    for name, tested in TESTED.items():
        if name != "trl":
            sets[f"{name}-{tested.lowest}"] = {**newest, name: tested.lowest}
    return {**sets, "lowest": {name: tested.lowest for name, tested in TESTED.items()}}


def needs_triton(releases: dict[str, str]) -> bool:
    """Returns whether the set trains with Triton alone, which then computes in its interpreter, on the CPU."""
    return SpecifierSet(NEEDS_TRITON).contains(releases["trl"])


def install(releases: dict[str, str], folder: Path) -> list[str]:
    """Installs what differs from the environment into `folder`, and returns what that is besides the releases."""
    asked = [f"{name}=={release}" for name, release in releases.items()]
    asked += ["triton"] * needs_triton(releases)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    report = subprocess.run(
        [*pip, "--dry-run", "--report", "-", f"torch=={version('torch')}", *asked],
        check=True,
        capture_output=True,
        text=True,
    )
    metadata = [one["metadata"] for one in json.loads(report.stdout)["install"]]
    needed = [f"{one['name']}=={one['version']}" for one in metadata]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if needed:
        subprocess.run([*pip, "--no-deps", "--no-compile", "--target", str(folder), *needed], check=True)
    return sorted(set(needed) - set(asked))


def measure(releases: dict[str, str], folder: Path) -> Result:
    """Returns what the suites give with the releases, which are installed into `folder` first."""
    beside = install(releases, folder / "packages")
    path = os.pathsep.join([str(folder / "packages"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if needs_triton(releases) else {}
    code = (
        f"import json; from importlib.metadata import version; print(json.dumps([version(n) for n in {list(TESTED)}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    tests = [test for suite in SUITES.values() for test in suite]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
    with (folder / "pytest.log").open("w") as log:
        subprocess.run(
            [*command, *tests],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    counts, failed = read_report(report)
    versions = dict(zip(TESTED, json.loads(found.stdout), strict=True))
    return Result(versions, beside, counts, failed, platform.python_version(), version("torch"))


def read_report(report: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Returns passed and all tests of each suite, and the names of those that did not pass, from a JUnit file."""
    counts = {suite: [0, 0] for suite in SUITES}
    failed = []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        if not case.get("classname"):  # a file that cannot be imported
            name = f"{case.get('name', '').replace('.', '/')}.py"
        wrong = case.find("failure") is not None or case.find("error") is not None
        for suite in suites_of(name):
            counts[suite][0] += not wrong
            counts[suite][1] += 1
        if wrong:
            failed.append(name)
    return counts, failed


def suites_of(name: str) -> list[str]:
    """Returns the suites that a test is of, by its name; those of its file if the file alone is named."""
    if "::" not in name:
        return [suite for suite, tests in SUITES.items() if any(test.startswith(name) for test in tests)]
    parts = (name, name.partition("[")[0], name.partition("::")[0])
    return [suite for suite, tests in SUITES.items() if any(part in tests for part in parts)]


# ---------------------------------------------------------------------------------------------------------- the table


def table(results: dict[str, Result]) -> str:
    """Returns the results as Markdown: a line for each set, and the tests that failed below."""
    lines = [
        f"| {' | '.join(['Release', *(name for name in TESTED), *SUITES])} |",
        f"|{'---|' * (1 + len(TESTED) + len(SUITES))}",
    ]
    for name, result in results.items():
        versions = [f"**{found}**" if name.startswith(one) else found for one, found in result.releases.items()]
        counts = [f"{passed} passed" if passed == of else f"**{passed} of {of}**" for passed, of in counts_of(result)]
        lines.append(f"| {' | '.join([name.replace('-', ' '), *versions, *counts])} |")
    failed = [f"- {name}: `{test}`" for name, result in results.items() for test in result.failed]
    beside = [
        f"- {name}: {', '.join(result.beside).replace('==', ' ')}" for name, result in results.items() if result.beside
    ]
    shared = sorted({f"Python {result.python}, torch {result.torch}" for result in results.values()})
    return "\n".join(
        [
            *lines,
            "",
            f"On {'; '.join(shared)}.",
            *(["", "Did not pass:", "", *failed] if failed else []),
            *(["", "Other packages of these sets, which their releases ask for:", "", *beside] if beside else []),
        ]
    )


def counts_of(result: Result) -> list[list[int]]:
    """Returns passed and all tests, in the order of the suites."""
    return [result.counts[suite] for suite in SUITES]


def write_page(results: dict[str, Result]) -> None:
    """Puts the table into the page, and leaves the prose around it."""
    text = PAGE.read_text()
    found = re.search(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", text, re.DOTALL)
    if found is None:
        sys.exit(f"{PAGE} has no lines {BEGIN} and {END} between which the table belongs.")
    PAGE.write_text(f"{text[: found.start()]}{BEGIN}\n{table(results)}\n{END}{text[found.end() :]}")


def read_result(path: Path) -> Result | None:
    """Returns what an earlier run found, or `None` if there is none."""
    return Result(**json.loads(path.read_text())) if path.is_file() else None


def main(argv: list[str] | None = None) -> int:
    """Runs the sets that are asked for, and writes the page once all have results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="SET", help="Sets whose name begins like this, such as trl-1.13.")
    parser.add_argument("--again", action="store_true", help="Run sets that have a result already.")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "compat", help="Where releases and results are."
    )
    options: Any = parser.parse_args(argv)
    sets = release_sets()
    chosen = [name for name in sets if not options.only or name.startswith(tuple(options.only))]
    if not chosen:
        parser.error(f"--only {' '.join(options.only)}: the sets are {', '.join(sets)}")
    results = {name: read_result(options.folder / name / "result.json") for name in sets}
    for name in chosen:
        if results[name] is None or options.again:
            print(f"{name}: ", end="", flush=True)
            measured = results[name] = measure(sets[name], options.folder / name)
            (options.folder / name / "result.json").write_text(json.dumps(asdict(measured), indent=1))
            print(
                ", ".join(f"{suite} {passed}/{of}" for suite, (passed, of) in results[name].counts.items()), flush=True
            )
    done = {name: result for name, result in results.items() if result is not None}
    if done.keys() == sets.keys():
        write_page(done)
    else:
        print(f"No table yet: {', '.join(sets.keys() - done.keys())} not run.")
    return int(any(done[name].failed for name in chosen))


if __name__ == "__main__":
    sys.exit(main())
