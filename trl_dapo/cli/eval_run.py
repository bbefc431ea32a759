"""
`trl-dapo eval` once its options are read: problems and scorers, the policy, the run, and what is printed.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from rich.console import Console
from transformers.utils import logging as transformers_logging

from trl_dapo.arena import load_warm_start
from trl_dapo.arena.settings import MAX_COMPLETION_LENGTH
from trl_dapo.evaluation.display import shown, table
from trl_dapo.evaluation.generation import Text, TransformersSampler, end_tokens
from trl_dapo.evaluation.judging import name_of
from trl_dapo.evaluation.models import (
    PolicySource,
    context_length,
    find_policy,
    load_policy,
    load_tokenizer,
    quantization_of,
)
from trl_dapo.evaluation.processes import Processes, launched
from trl_dapo.evaluation.results import RESULTS, ResultsFolder, read_results, summary
from trl_dapo.evaluation.runner import Problems, evaluate, make_problems, missing_batches
from trl_dapo.evaluation.settings import BATCH_SIZE, MAX_NEW_TOKENS, VLLM_BATCH_SIZE, Protocol
from trl_dapo.evaluation.vllm import VLLMSampler, check_vllm

from .errors import UsageError, one_line
from .hub import check_model
from .questions import ARENA, default_scorer, questions, scorer_of
from .reward_names import HOST_REWARDS


INTERRUPTED = 130
TRUNCATED_SHARE = 0.05  # above it, the limit decides about accuracy


@dataclass(frozen=True)
class Policy:
    """A policy that is loaded when samples are needed, not before."""

    name: str
    fingerprint: str
    text: Text
    context: int | None
    sampler: Callable[[Protocol], Any]
    quantization: Any = None


def run(options: argparse.Namespace) -> int:
    """Evaluates, prints, and returns the exit code."""
    # Transformers warns about names that TRL still uses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    processes = launched(options.device)
    # The others say nothing
    messages = Console(stderr=True, soft_wrap=True, quiet=not processes.is_first)
    if not messages.is_terminal:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    try:
        # What a reward function prints would stand in the JSON
        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            scores = _evaluated(options, messages, processes)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(one_line(error)) from error
    except KeyboardInterrupt:
        print(
            f"Stopped. What was sampled is in {options.output_dir}; the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    if processes.is_first:
        _report(options, scores, messages)
    if processes.count > 1:
        PartialState().destroy_process_group()
    return 0


def _evaluated(options: argparse.Namespace, messages: Console, processes: Processes) -> dict[str, Any]:
    if options.use_vllm and processes.count > 1:
        raise UsageError("--use_vllm with several processes: start one, and set tensor_parallel_size in vllm_kwargs.")
    problems = load(options)
    policy = arena_policy() if not options.model_name_or_path else named_policy(options)
    _tell_of_text(policy, problems, messages)
    _tell_of_bits(options, policy, messages)
    protocol = protocol_of(options, policy, problems, messages)
    return _scores(options, policy, protocol, problems, messages, processes)


def _scores(
    options: argparse.Namespace,
    policy: Policy,
    protocol: Protocol,
    problems: list[Problems],
    messages: Console,
    processes: Processes,
) -> dict[str, Any]:
    """Returns the scores by data set, as `results.json` has them."""
    folder = _opened(options.output_dir, settings_of(options, policy, protocol, problems), processes)
    try:
        left = any(missing_batches(one, protocol, folder.read(one.name)) for one in problems)
        sampler: Any = policy.sampler(protocol) if left else None
        with shown(messages) as progress:
            scores = evaluate(sampler, problems, protocol, folder, progress, processes)
    finally:
        folder.close()
    return {name: summary(score) for name, score in scores.items()}


def _opened(output_dir: Path, settings: dict[str, Any], processes: Processes) -> ResultsFolder:
    """Returns the folder of the results, which the first process makes before the others look into it."""
    folder, failure = None, None
    if processes.is_first:
        try:
            folder = ResultsFolder(output_dir, settings)
        except ValueError as error:
            failure = str(error)
    failure = processes.gather(failure)[0]
    if failure is not None:
        raise UsageError(failure)
    return folder or ResultsFolder(output_dir, settings, writes=False)


def load(options: argparse.Namespace) -> list[Problems]:
    """Returns the data sets with their scorers."""
    names = options.dataset_name or [ARENA]
    asked = options.scorer * (len(names) if len(options.scorer) == 1 else 1)
    scorers_of = [scorer_of(scorer) for scorer in asked or map(default_scorer, names)]
    columns = ("split", "answer_column", "prompt_column", "prompt_template", "size", "seed")
    how = {name: getattr(options, name) for name in columns}
    return [_loaded(name, scorer, how) for name, scorer in zip(names, scorers_of, strict=True)]


def _loaded(name: str, scorer: Any, how: dict[str, Any]) -> Problems:
    try:
        problems = make_problems(name, questions(name, scorer, **how), scorer)
    except (ValueError, ImportError) as error:
        line = one_line(error)
        # One of several may be at fault
        raise UsageError(line if name in line else f"dataset_name={name}: {line}") from error
    if isinstance(problems.rows[0]["prompt"], str) and name_of(scorer) in HOST_REWARDS:
        raise UsageError(
            f"dataset_name={name}: its prompts are text, and {name_of(scorer)} of TRL reads messages. Take a scorer "
            "such as math_verify, or call the column question."
        )
    return problems


def _tell_of_text(policy: Policy, problems: list[Problems], messages: Console) -> None:
    """Says where a model that was trained to chat is asked without its chat template."""
    texts = [one.name for one in problems if one.name != ARENA and isinstance(one.rows[0]["prompt"], str)]
    if texts and getattr(policy.text.tokenizer, "chat_template", None):
        messages.print(
            f"The prompts of {', '.join(texts)} are text, so the model is asked without its chat template, as in "
            "training. Call the column question to ask with it.",
            markup=False,
            highlight=False,
        )


def _tell_of_bits(options: argparse.Namespace, policy: Policy, messages: Console) -> None:
    """Says that the base of an adapter was quantized in training, where no option says so."""
    if policy.quantization is None or options.load_in_4bit:
        return
    bits = 4 if policy.quantization.load_in_4bit else 8
    line = f"The base is loaded in {bits} bits, as in training; --no_load_in_4bit takes its weights as they are saved."
    if options.use_vllm:
        line = (
            f"The adapter was trained on a base in {bits} bits, and vLLM loads it as --vllm_kwargs says. Set its "
            "quantization there, or give the model that `trl-dapo merge` writes."
        )
    messages.print(line, markup=False, highlight=False)


def arena_policy() -> Policy:
    """Returns the built-in task's warm start."""
    model, tokenizer = load_warm_start()
    text = Text(tokenizer)
    context = model.config.max_position_embeddings
    return Policy(ARENA, "warm start", text, context, lambda protocol: TransformersSampler(model, text, protocol))


def named_policy(options: argparse.Namespace) -> Policy:
    """Returns the policy that the options name; its weights are not loaded yet."""
    if options.use_vllm:
        check_vllm()
    check_model("model_name_or_path", options.model_name_or_path, options.model_revision)
    source = find_policy(options.model_name_or_path, options.model_revision, options.trust_remote_code)
    text = Text(load_tokenizer(source), options.chat_template_kwargs)
    quantization = quantization_of(source, options.load_in_4bit)

    def sampler(protocol: Protocol) -> Any:
        if options.use_vllm:
            return _vllm_sampler(options, source, text, protocol)
        model = load_policy(source, text.tokenizer, options.dtype, options.device, options.load_in_4bit)
        return TransformersSampler(model, text, protocol)

    return Policy(source.name, source.fingerprint(), text, context_length(source), sampler, quantization)


def _vllm_sampler(options: argparse.Namespace, source: PolicySource, text: Text, protocol: Protocol) -> VLLMSampler:
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(source.whole, **({} if source.base else source.where))
    except OSError:
        config = GenerationConfig()
    ends = end_tokens(argparse.Namespace(generation_config=config), text.tokenizer)
    engine = {"dtype": options.dtype, "trust_remote_code": options.trust_remote_code, **options.vllm_kwargs}
    if source.base is None:
        engine = {**source.where, **engine}
    return VLLMSampler(source.whole, text, protocol, ends, source.name if source.base else None, engine)


def protocol_of(options: argparse.Namespace, policy: Policy, problems: list[Problems], messages: Console) -> Protocol:
    """
    Returns how is sampled, with a `max_new_tokens` that the model's context has room for.

    Raises:
        [`UsageError`]: If the context cannot hold the longest prompt and as many tokens as were asked for.
    """
    default = MAX_COMPLETION_LENGTH if {one.name for one in problems} == {ARENA} else MAX_NEW_TOKENS
    protocol = Protocol(
        k=options.k,
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens or default,
        seed=options.seed,
        batch_size=options.batch_size or (VLLM_BATCH_SIZE if options.use_vllm else BATCH_SIZE),
    )
    if policy.context is None:
        return protocol
    longest, name = max((len(ids), one.name) for one in problems for ids in _encoded(policy.text, one))
    room = policy.context - longest
    if room >= protocol.max_new_tokens:
        return protocol
    what = f"the longest prompt of {name} has {longest} tokens, and the model's context holds {policy.context}"
    if options.max_new_tokens or room < 1:
        fix = f"Set --max_new_tokens to at most {room}." if room > 0 else "Leave out such prompts."
        raise UsageError(f"--max_new_tokens={protocol.max_new_tokens}: {what}. {fix}")
    messages.print(f"max_new_tokens is {room}: {what}.", markup=False, highlight=False)
    return replace(protocol, max_new_tokens=room)


def _encoded(text: Text, problems: Problems) -> list[list[int]]:
    prompts = [row["prompt"] for row in problems.rows]
    return text.encode(prompts)


def settings_of(
    options: argparse.Namespace, policy: Policy, protocol: Protocol, problems: list[Problems]
) -> dict[str, Any]:
    """Returns all that the results depend on."""
    how: dict[str, Any] = {"backend": "vllm" if options.use_vllm else "transformers"}
    how |= {name: getattr(options, name) for name in ("dtype", "vllm_kwargs", "chat_template_kwargs")}
    # vLLM quantizes as `vllm_kwargs` says
    quantization = None if options.use_vllm else policy.quantization
    how["load_in_4bit"] = quantization is not None and quantization.load_in_4bit
    if quantization is not None and quantization.load_in_8bit:
        how["load_in_8bit"] = True
    return {
        "model": policy.name,
        "model_revision": options.model_revision,
        "model_fingerprint": policy.fingerprint,
        **asdict(protocol),
        **how,
        "scorers": {one.name: name_of(one.scorer) for one in problems},
        "data_sets": {one.name: one.fingerprint() for one in problems},
    }


def _report(options: argparse.Namespace, scores: dict[str, Any], messages: Console) -> None:
    if options.json:
        print(json.dumps(read_results(options.output_dir), indent=2, ensure_ascii=False))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(table(scores))
        console.print(f"Results: {options.output_dir / RESULTS}", markup=False, highlight=False, soft_wrap=True)
    for name, score in scores.items():
        share = score["metrics"]["truncated"]["value"]
        if share > TRUNCATED_SHARE:
            messages.print(
                f"{name}: {share:.0%} of the completions ran out of tokens, so accuracy is that of the limit too. "
                "Raise --max_new_tokens.",
                markup=False,
                highlight=False,
            )
