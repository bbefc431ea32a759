"""
`trl-dapo eval`: accuracy of a policy on held-out questions, with intervals, in files that a stopped run goes on from.

In here: the options and what can be checked without torch. `eval_run.py` does the rest.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

from .config_file import read_config_file, set_environment, split_config_flag
from .errors import UsageError, one_line, report
from .folders import check_folder
from .grouped_help import GroupedHelp
from .json_words import mapping_of


RUNS = Path("runs/eval")
# As the paper measures (section 4.1)
K, TEMPERATURE, TOP_P = 32, 1.0, 0.7


def make_parser(prog: str = "trl-dapo eval") -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Measure avg@k, pass@k and maj@k of a policy on held-out questions. Without a model and a data "
        "set: the built-in task. A stopped evaluation goes on when the same command is run again.",
    )
    parser.error = _refuse
    parser.add_argument("--config", metavar="FILE", help="YAML file of these options; flags win.")
    _add_model(parser.add_argument_group("model"))
    _add_problems(parser.add_argument_group("problems"))
    _add_sampling(parser.add_argument_group("sampling"))
    output = parser.add_argument_group("results")
    output.add_argument("--output_dir", type=Path, help=f"Folder (default: {RUNS}/<model>).")
    output.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    return parser


def _add_model(group: Any) -> None:
    group.add_argument("--model_name_or_path", help="Folder of a model or an adapter, or a Hub id.")
    group.add_argument("--model_revision", default="main", help="Revision on the Hub (default: main).")
    group.add_argument("--trust_remote_code", action="store_true", help="Let the model's own code run.")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="Precision of the weights (default: as saved).",
    )
    group.add_argument("--device", default="auto", help="Device of torch (default: the GPU, if any).")
    group.add_argument("--load_in_4bit", action="store_true", help="Quantize the weights to NF4.")
    group.add_argument("--use_vllm", action="store_true", help="Generate with vLLM.")
    group.add_argument(
        "--vllm_kwargs",
        type=mapping_of,
        default={},
        metavar="JSON",
        help='Further arguments of vllm.LLM, {"name": value}.',
    )
    group.add_argument(
        "--chat_template_kwargs",
        type=mapping_of,
        default={},
        metavar="JSON",
        help="Further arguments of the chat template.",
    )


def _add_problems(group: Any) -> None:
    group.add_argument(
        "--dataset_name",
        nargs="+",
        default=[],
        help="Data sets: aime-2024, gsm8k, ..., files or folders. math-500 too, or arena, the built-in task.",
    )
    group.add_argument(
        "--scorer",
        nargs="+",
        default=[],
        help="Scorer of all data sets, or one of each. dapo_math, math_verify, ..., a reward function of TRL, or a "
        "dotted import path (default: dapo_math; reasoning_gym for what it makes).",
    )
    group.add_argument("--split", help="Split (default: test, where there is one).")
    group.add_argument("--prompt_column", help="Column of the questions.")
    group.add_argument("--answer_column", help="Column of the answers; dotted where it is nested.")
    group.add_argument("--prompt_template", help="Text of each prompt, with {question} in it.")
    group.add_argument("--size", type=int, help="Questions of each data set, drawn at random.")


def _add_sampling(group: Any) -> None:
    group.add_argument("--k", type=int, default=K, help=f"Completions per question (default: {K}).")
    group.add_argument(
        "--temperature", type=float, default=TEMPERATURE, help=f"0 is greedy, with --k 1 (default: {TEMPERATURE})."
    )
    group.add_argument("--top_p", type=float, default=TOP_P, help=f"Share of the probability mass (default: {TOP_P}).")
    group.add_argument(
        "--max_new_tokens",
        type=int,
        help="Most tokens per completion (default: 4096). Less where the model's context is shorter; the built-in "
        "task: 40.",
    )
    group.add_argument("--seed", type=int, default=0, help="Seed of all draws (default: 0).")
    group.add_argument("--batch_size", type=int, help="Completions at once (default: 64; vLLM: 1024).")


def main(argv: list[str]) -> int:
    """Runs the evaluation and returns the exit code."""
    options = parse(argv)
    from .eval_run import run

    return run(options)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options of the file and the command line, checked as far as that needs neither torch nor a model."""
    argv = split_config_flag(argv)
    values = read_config_file(argv)
    parser = make_parser()
    set_environment(values)
    options = parser.parse_args([*_words(values, parser), *argv])
    _check(options)
    if options.output_dir is None:
        name = Path(options.model_name_or_path or "arena").name
        options.output_dir = RUNS / (name or "model")
    try:
        check_folder("--output_dir", str(options.output_dir))
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    return options


def _check(options: argparse.Namespace) -> None:
    if bool(options.model_name_or_path) != bool(options.dataset_name):
        given, missing = "model_name_or_path", "dataset_name"
        if options.dataset_name:
            given, missing = missing, given
        raise UsageError(
            f"--{missing} is missing: --{given} is given alone. Give both, or leave out both for the built-in task."
        )
    for name, least in {"k": 1, "max_new_tokens": 1, "batch_size": 1, "size": 1, "seed": 0}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: a number of at least {least} is needed.")
    if not 0.0 <= options.temperature < math.inf:
        raise UsageError(f"--temperature={options.temperature:g}: a finite number of at least 0 is needed.")
    if options.temperature == 0.0 and options.k > 1:
        raise UsageError(f"--temperature=0 gives the same completion {options.k} times. Set --k 1, or a temperature.")
    if not 0.0 < options.top_p <= 1.0:
        raise UsageError(f"--top_p={options.top_p:g}: a share above 0, at most 1, is needed. 1 samples all tokens.")
    if len(options.scorer) > 1 and len(options.scorer) != len(options.dataset_name):
        raise UsageError(
            f"--scorer names {len(options.scorer)} scorers for {len(options.dataset_name)} data sets. Give one for "
            "all, or one of each."
        )
    again = next((name for name in options.dataset_name if options.dataset_name.count(name) > 1), None)
    if again is not None:
        raise UsageError(f"--dataset_name names {again} twice. Name it once.")
    if options.use_vllm and options.load_in_4bit:
        raise UsageError("--use_vllm with --load_in_4bit: vLLM quantizes by itself; set it in --vllm_kwargs.")
    if not options.model_name_or_path and (options.use_vllm or options.load_in_4bit):
        name = "use_vllm" if options.use_vllm else "load_in_4bit"
        raise UsageError(f"--{name} has no effect on the built-in model. Leave it out, or give a model.")


def _words(values: dict[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Returns the lines of a file as words of a command line, so that both are checked alike."""
    actions = {action.dest: action for action in parser._actions}
    words: list[str] = []
    for name, value in values.items():
        if name == "env" or value is None:
            continue
        if name not in actions or name in ("help", "config"):
            raise UsageError(f"{name} in the config file is no option of eval. See `trl-dapo eval --help`.")
        if actions[name].nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"{name}={value!r} in the config file must be true or false.")
            words += [f"--{name}"] if value else []
            continue
        if isinstance(value, list) and actions[name].nargs is None:
            raise UsageError(f"{name}={value!r} in the config file must be one value.")
        many = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in many)]
    return words


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo eval --help`.")


if __name__ == "__main__":
    # As a module, for launchers that start several processes
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        sys.exit(report(error))
