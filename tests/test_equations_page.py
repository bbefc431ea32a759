"""`docs/equations.md`: every symbol that it names exists, every line that it quotes is there, every number follows."""

import ast
import functools
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from tiny import save_tiny_model, tiny_args, tiny_tokenizer
from training import build, record_rollouts
from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.dapo.sampling.groups import judge_groups
from trl_dapo.dapo.toggles import TOGGLES


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "equations.md").read_text()
OTHERS = [(ROOT / "docs" / name).read_text() for name in ("what_changes.md", "dpo.md", "reward_model_and_ppo.md")]
WRITTEN_FOR = "1.16"  # of TRL: the release whose lines the page quotes

SYMBOL = r"`((?:trl|trl_dapo)/[\w/]+\.py):([\w.]+)`"
NAMED = sorted({found for page in (PAGE, *OTHERS) for found in re.findall(SYMBOL, page)})
QUOTED = re.findall(rf"^\|[^\n]*\| `([^`]+)` \| {SYMBOL} \|", PAGE, re.M)


def source_of(path: str) -> Path:
    if path.startswith("trl_dapo/"):
        return ROOT / path
    (folder,) = find_spec("trl").submodule_search_locations
    return Path(folder).parent / path


@functools.cache
def tree(path: str) -> ast.Module:
    return ast.parse(source_of(path).read_text())


def node_of(path: str, symbol: str) -> ast.AST:
    """The definition of `symbol`, or the assignment to it; a dotted name is looked up level by level."""
    node: ast.AST = tree(path)
    for name in symbol.split("."):
        node = next(child for child in node.body if name in names_of(child))  # type: ignore[attr-defined]
    return node


def names_of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


@pytest.mark.parametrize(("path", "symbol"), NAMED, ids=[symbol for _, symbol in NAMED])
def test_a_symbol_that_is_named_exists(path, symbol):
    assert node_of(path, symbol)


def test_the_page_names_and_quotes_enough():
    assert len(NAMED) >= 9
    assert len(QUOTED) >= 20


@pytest.mark.parametrize(("line", "path", "symbol"), QUOTED, ids=[line[:40] for line, *_ in QUOTED])
def test_a_line_that_is_quoted_is_there(line, path, symbol):
    if path.startswith("trl/") and not version("trl").startswith(f"{WRITTEN_FOR}."):
        pytest.skip(f"lines of TRL are quoted from {WRITTEN_FOR}")
    found = ast.get_source_segment(source_of(path).read_text(), node_of(path, symbol))
    assert line in " ".join(found.split())


# ------------------------------------------------------------------------------------------------------- the example

LENGTHS = {"mixed": (2, 6, 3, 8), "right": (2, 6, 2, 6)}
RIGHT = {"mixed": (1, 1, 0, 0), "right": (1, 1, 1, 1)}
RATIOS = {"mixed": (1.25, 1.0, 0.7, 1.1), "right": (1.0, 1.0, 1.0, 1.0)}
LOG_OF_REFERENCE = 0.1  # the reference's log-probability of a token minus the policy's
OFF = dict.fromkeys(TOGGLES, False)


def rollout(prompts, trainer):
    """Four completions of each prompt, of the page's lengths; the one of 8 tokens has no end token."""
    end, word = trainer.processing_class.eos_token_id, trainer.processing_class.convert_tokens_to_ids("x")
    rows = [(kind_of(prompt), place % 4) for place, prompt in enumerate(prompts)]
    ids = [[word] * 8 if LENGTHS[kind][row] == 8 else [word] * (LENGTHS[kind][row] - 1) + [end] for kind, row in rows]
    return {
        "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": ids,
        "logprobs": [[-1.0] * len(row) for row in ids],
        "row": [row for _, row in rows],
    }


def kind_of(prompt: str) -> str:
    return "right" if prompt.startswith("b") else "mixed"


def right(prompts, row, **columns):
    return [float(RIGHT[kind_of(prompt)][place]) for prompt, place in zip(prompts, row, strict=True)]


right.reward_range = (0.0, 1.0)


def loss_of(tmp_path, make=DAPOConfig, **fields):
    """TRL's loss of the rollout of two groups, with the page's ratios, and the rows' advantages."""
    fields = {"max_completion_length": 8, "max_steps": 1, "learning_rate": 0.0, "warmup_steps": 0, **fields}
    given = {"soft_punish_cache": 4} if fields.get("soft_overlong_punishment") else {}
    args = tiny_args(tmp_path, cls=make, steps_per_generation=1, shuffle_dataset=False, **given, **fields)
    dataset = Dataset.from_dict({"prompt": ["a", "b", *(f"c{place}" for place in range(6))]})
    # A folder, from which a reference can be loaded
    save_tiny_model(tmp_path / "model", tiny_tokenizer())
    model = str(tmp_path / "model")
    trainer = build(DAPOTrainer, args, model=model, reward_funcs=right, train_dataset=dataset, rollout_func=rollout)
    rollouts = record_rollouts(trainer)
    trainer.train()
    inputs = rollouts[0]
    kinds = [kind_of(prompt) for prompt in inputs["prompts"]]
    ratios = torch.tensor([RATIOS[kind][row % 4] for row, kind in enumerate(kinds)], dtype=torch.float64)
    shape = inputs["completion_mask"].shape
    inputs["old_per_token_logps"] = torch.zeros(shape, dtype=torch.float64)
    logps = ratios.log().unsqueeze(1).expand(shape)
    inputs["ref_per_token_logps"] = logps + LOG_OF_REFERENCE
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logps, torch.zeros(shape), None)
    return trainer._compute_loss(trainer.model, inputs).item(), inputs["advantages"].tolist(), kinds


# As the page's table has them: what is on, in the order of the page
CHAIN = {
    "GRPO": {"beta": 0.04, "use_bias_correction_kl": False},
    "J1": {},
    "J2": {"token_level_loss": True},
    "J3": {"clip_higher": True},
    "+ length penalty": {"soft_overlong_punishment": True},
    "+ overlong filtering": {"overlong_filtering": True},
    "DAPO": {"dynamic_sampling": True},
}


def steps():
    fields = dict(OFF)
    for name, change in CHAIN.items():
        fields = {**fields, **change}
        yield name, dict(fields)
        fields.pop("beta", None)
        fields.pop("use_bias_correction_kl", None)


# By hand. Advantages without a penalty: ±0.5 / (sqrt(4 * 0.25 / 3) + 1e-4) = ±0.86588, and 0 in the second group.
# Losses of a token: -1.2 * 0.86588 = -1.03906; -0.86588; -0.8 * -0.86588 = 0.69270; -1.1 * -0.86588 = 0.95247.
# J1: (-1.03906 - 0.86588 + 0.69270 + 0.95247) / 8. GRPO adds 0.04 * (e^0.1 - 1.1) = 0.000207 in each of the 8 rows.
# J2: (-1.03906 * 2 - 0.86588 * 6 + 0.69270 * 3 + 0.95247 * 8) / (19 + 16). J3: -1.25 * 0.86588 in the first row.
# Penalties 0, -0.5, 0, -1 times 0.5: rewards 1, 0.75, 0, -0.5 with mean 0.3125 and deviation 0.68845: advantages
# 0.99848, 0.63539, -0.45385, -1.18001; in the second group 1, 0.75, 1, 0.75: ±0.125 / (0.14434 + 1e-4) = ±0.86543.
# (-1.24810 * 2 - 0.63539 * 6 + 0.36308 * 3 + 1.29801 * 8 + 2 * (-0.86543 * 2 + 0.86543 * 6)) / 35.
# Filtering takes out 8 tokens of 1.29801 each: the rest is divided by 27. With dynamic sampling, a second mixed group
# takes the place of the other: 2 * (-2.49621 - 3.81235 + 1.08925) / (2 * 11).
BY_HAND = {
    "GRPO": -0.03226,
    "J1": -0.03247,
    "J2": 0.06927,
    "J3": 0.06680,
    "+ length penalty": 0.34538,
    "+ overlong filtering": 0.06311,
    "DAPO": -0.47448,
}


def on_the_page() -> dict[str, float]:
    rows = re.findall(r"^\| ([^|]+?) \| [^\n]* \| (-?0\.\d{4}) \|$", PAGE, re.M)
    return {name: float(value) for name, value in rows if name in CHAIN}


@pytest.mark.parametrize(("name", "fields"), list(steps()), ids=CHAIN)
def test_a_loss_of_the_example_is_trls(tmp_path, name, fields):
    loss, *_ = loss_of(tmp_path, **fields)
    assert loss == pytest.approx(BY_HAND[name], abs=2e-5)
    assert on_the_page()[name] == pytest.approx(loss, abs=5e-5)


def test_advantages_of_the_example(tmp_path):
    _, plain, _ = loss_of(tmp_path / "plain", **OFF)
    _, shaped, _ = loss_of(tmp_path / "shaped", **{**OFF, "soft_overlong_punishment": True})
    assert plain == pytest.approx([0.86588, 0.86588, -0.86588, -0.86588, 0, 0, 0, 0], abs=1e-5)
    assert shaped == pytest.approx(
        [0.99848, 0.63539, -0.45385, -1.18001, 0.86543, -0.86543, 0.86543, -0.86543], abs=2e-5
    )
    for value in ("0.866", "0.998", "0.635", "-0.454", "-1.180", "0.865"):
        assert value in PAGE


def test_dynamic_sampling_replaces_the_second_group(tmp_path):
    *_, kinds = loss_of(tmp_path, **dict.fromkeys(TOGGLES, True))
    assert kinds == ["mixed"] * 8
    raw = torch.tensor([RIGHT["mixed"], RIGHT["right"]])
    assert judge_groups(raw, torch.ones(2, 4, dtype=torch.bool), 1e-6).informative_P.tolist() == [True, False]


def test_objectives_are_these_configs(tmp_path):
    def of(config):
        upper = config.epsilon if config.epsilon_high is None else config.epsilon_high
        parts = config.soft_overlong_punishment, config.mask_truncated_completions, config.dynamic_sampling
        return config.beta, config.loss_type, upper, *parts

    here = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    start = functools.partial(DAPOConfig.ladder_start, **here)
    assert of(DAPOConfig.naive_grpo(**here)) == (0.04, "grpo", 0.2, False, False, False)
    assert of(start()) == (0.0, "grpo", 0.2, False, False, False)
    assert of(start(token_level_loss=True)) == (0.0, "dapo", 0.2, False, False, False)
    assert of(start(token_level_loss=True, clip_higher=True)) == (0.0, "dapo", 0.28, False, False, False)
    assert of(DAPOConfig(**here)) == (0.0, "dapo", 0.28, True, True, True)
