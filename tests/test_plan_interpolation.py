"""Replayed peaks against traced ones, and how few traces the questions of a plan take."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import LlamaConfig

from stand_in_plan import MIB, plan
from trl_dapo.planning import memory, replayed
from trl_dapo.planning.advice import first_change, largest
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.plans import Plans
from trl_dapo.planning.replayed import CHOICES, Recording, ReplayedModel, Sizes
from trl_dapo.planning.run_shape import RunShape
from trl_dapo.planning.traced_passes import Pass
from trl_dapo.planning.traced_step import TracedModel


KINDS = ("update", "score", "prefill", "decode", "critic")
LORA = LoraConfig(r=4, target_modules="all-linear")
MODELS = {
    "full-sdpa": {},
    "full-eager-checkpointing": {"attention": "eager", "gradient_checkpointing": True},
    "lora-sdpa-checkpointing": {"lora": LORA, "gradient_checkpointing": True, "compute_dtype": "bfloat16"},
    "lora-eager": {"lora": LORA, "attention": "eager"},
    "4bit-sdpa": {"lora": LORA, "quantization": "4bit", "dtype": "bfloat16", "compute_dtype": "bfloat16"},
}


def config(layers: int = 4, **sizes) -> LlamaConfig:
    return LlamaConfig(
        **{"vocab_size": 40_000, "hidden_size": 32, "intermediate_size": 112, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, **sizes}
    )  # fmt: skip


def shape(**settings) -> RunShape:
    sizes = {"prompt_length": 24, "completion_length": 64, "num_generations": 4, "round_rows": 16, "chunk_rows": 16}
    passes = {"scoring_rows": 4, "microbatch_rows": 4, "microbatches": 4}
    return RunShape("dapo", config(), **{**sizes, **passes, **settings})


@pytest.fixture(scope="module")
def models():
    """Models whose kinds of passes were traced once, at 4 rows of 24 + 64."""
    made = {name: ReplayedModel(shape(**settings)) for name, settings in MODELS.items()}
    for model in made.values():
        for kind in KINDS:
            model.peak(one_pass(kind, 4, 24, 64, accumulates=False))
    return made


@pytest.fixture
def traces(monkeypatch):
    """Counts traces of kinds of passes, at one depth each."""
    counted = Counter()
    traced = TracedModel._traced

    def counting(self, one, layers, *count):
        counted[one.kind] += 1
        return traced(self, one, layers, *count)

    monkeypatch.setattr(TracedModel, "_traced", counting)
    return counted


def one_pass(kind: str, rows: int, prompt: int, completion: int, **settings) -> Pass:
    return Pass(kind, rows, prompt, 0 if kind == "prefill" else completion, **settings)


# From 2 rows and 2 columns on: with one, a copy is spared
SIZES = st.tuples(
    st.sampled_from(list(MODELS)), st.sampled_from(KINDS), st.integers(2, 200), st.integers(2, 300),
    st.one_of(st.integers(2, 120), st.integers(500, 1500)),
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(SIZES)
def test_a_replay_is_the_trace_to_the_byte(models, sizes):
    name, kind, *columns = sizes
    one = one_pass(kind, *columns)
    replay = models[name].replayed_peak(one)
    assert replay.bytes == models[name].peak(one).bytes
    assert all(models[name]._recordings.values())  # none fell back


@pytest.mark.parametrize("tokens", [4096 - 64, 4096, 4096 + 64, 8192, 8192 + 64, 3 * 8192])
def test_tiles_of_the_head_are_as_many_as_the_tokens_fill(models, tokens):
    # 4096 tokens are a tile: one, one, two, two, three and six
    one = Pass("update", tokens // 64, 24, 64)
    assert models["full-sdpa"].replayed_peak(one).bytes == models["full-sdpa"].peak(one).bytes


@pytest.mark.parametrize("kind", ["dpo", "reward"])
@pytest.mark.parametrize("accumulates", [False, True])
def test_passes_of_pairs_are_replayed_too(kind, accumulates):
    lora = None if kind == "reward" else LORA
    model = ReplayedModel(replace(shape(lora=lora), algorithm=kind))
    model.peak(Pass(kind, 4, 24, 64, accumulates=accumulates))
    one = Pass(kind, 10, 48, 200, accumulates=accumulates)
    assert model.replayed_peak(one).bytes == model.peak(one).bytes
    assert len(model._recordings) == 1


def test_offloaded_activations_and_one_row_are_within_the_tolerance():
    model = ReplayedModel(shape(lora=LORA, activation_offloading=True))
    model.peak(Pass("update", 4, 24, 64))
    for one in (Pass("update", 30, 100, 300), Pass("update", 1, 100, 300)):
        assert model.replayed_peak(one).bytes == pytest.approx(model.peak(one).bytes, rel=replayed.TOLERANCE)


def test_the_peak_is_found_where_it_moves_with_the_size():
    # Made: 1000 bytes, freed; then rows x 10 bytes. The first is the peak up to 100 rows. One segment later, rows x
    # columns with half a kilobyte beside it
    sizes = CHOICES[0]
    recorded = Pass("score", sizes.rows, sizes.prompt, sizes.completion)
    rows, columns = sizes.rows, sizes.prompt + sizes.completion
    events = [1000, "a", -1000, 10 * rows, "a", 500, 2 * rows * columns, "b", -500, -2 * rows * columns, "b"]
    recording = Recording(events, sizes, recorded)
    assert recording.peaks(Pass("score", 7, 5, 3)) == {"a": 1000, "b": 70 + 500 + 2 * 7 * 8}
    assert recording.peaks(Pass("score", 300, 5, 3)) == {"a": 3000, "b": 3000 + 500 + 2 * 300 * 8}


def test_squares_of_columns_and_tiles_are_told_apart():
    sizes = CHOICES[1]
    columns, rest = sizes.prompt + sizes.completion, sizes.rows * sizes.completion - sizes.tile
    events = [columns * columns, "square", -columns * columns, 6 * sizes.tile, 2 * rest, "tiles"]
    recording = Recording(events, sizes, Pass("score", sizes.rows, sizes.prompt, sizes.completion))
    # 10 x 1000 tokens: two full tiles of 4096, and a third. 100 x 50: one, and 904
    assert recording.peaks(Pass("score", 10, 500, 1000)) == {"square": 1500**2, "tiles": 8 * 4096}
    assert recording.peaks(Pass("score", 100, 50, 50))["tiles"] == 6 * 4096 + 2 * 904
    assert recording.peaks(Pass("score", 2, 50, 50))["tiles"] == 600


@pytest.mark.parametrize("sizes", CHOICES)
def test_each_size_of_a_recording_has_a_factor_of_its_own(sizes: Sizes):
    known = list(sizes.of(Pass("score", sizes.rows, sizes.prompt, sizes.completion)))
    factors = [replayed._prime(size) for size in known]
    assert min(factors) >= 53
    for size, factor in zip(known, factors, strict=True):
        assert [other for other in known if other % factor == 0] == [size]


def test_a_model_with_a_size_of_the_recording_is_recorded_at_others():
    # 212 = 4 x 53: the first choice has 53 rows
    model = ReplayedModel(replace(shape(), model_config=config(intermediate_size=212)))
    model.peak(Pass("score", 4, 24, 64))
    one = Pass("score", 9, 30, 200)
    assert model.replayed_peak(one).bytes == model.peak(one).bytes
    (recordings,) = model._recordings.values()
    assert {recording._sizes for recording in recordings.values()} == {CHOICES[1]}


def test_a_model_with_sizes_of_all_recordings_is_traced():
    # 53, 59 and 61
    sizes = {"vocab_size": 53 * 61, "intermediate_size": 59 * 4}
    model = ReplayedModel(replace(shape(), model_config=config(**sizes)))
    model.peak(Pass("score", 4, 24, 64))
    one = Pass("score", 9, 30, 200)
    assert model.replayed_peak(one) == model.peak(one)
    assert list(model._recordings.values()) == [None]


@pytest.mark.parametrize(("miss", "falls_back"), [(1.005, False), (1.02, True), (0.98, True)])
def test_a_replay_that_misses_the_first_trace_is_not_used(monkeypatch, traces, miss, falls_back):
    peaks = Recording.peaks
    monkeypatch.setattr(
        Recording, "peaks", lambda self, one: {name: int(size * miss) for name, size in peaks(self, one).items()}
    )
    model = ReplayedModel(shape())
    exact = ReplayedModel(shape())
    model.peak(Pass("score", 4, 24, 64))
    found = [model.replayed_peak(Pass("score", rows, 24, 64)).bytes for rows in (8, 16)]
    # Two depths of the first size, of the recording, and of each size where it cannot be used
    assert traces["score"] == (8 if falls_back else 4)
    assert (found == [exact.peak(Pass("score", rows, 24, 64)).bytes for rows in (8, 16)]) is falls_back


def test_passes_on_the_cpu_are_traced(traces):
    # There all columns go to the head, so its tiles are others
    model = ReplayedModel(shape())
    for rows in (2, 3, 4):
        model.replayed_peak(Pass("score", rows, 24, 64, "cpu"))
    assert traces["score"] == 6


# ---------------------------------------------------------------------------------------------------------- questions


def answers(run: RunShape, free: int, replays: bool):
    memory.reset()
    plans = Plans(plan_memory, replay=(lambda one, limit: plan_memory(one, traced_from=limit)) if replays else None)
    needs = plans.bytes(run)
    return needs, first_change(run, plans, free), largest(run, plans, free)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.6, 0.95, 1.5])
@pytest.mark.parametrize("name", ["full-sdpa", "lora-eager"])
def test_answers_are_those_of_traces(name, share):
    run = shape(**MODELS[name])
    free = int(share * plan_memory(run).bytes)
    traced = answers(run, free, replays=False)
    found = answers(run, free, replays=True)
    assert found == traced


def test_questions_of_a_run_that_fits_take_few_traces(traces):
    run = shape(lora=LORA)
    free = int(1.5 * plan_memory(run).bytes)
    traces.clear()
    answers(run, free, replays=True)
    # Two depths of each: the run's own size, a recording, and the sizes that may decide: of four questions, at most
    # one each. An update of one pass is a kind of its own
    assert traces["prefill"] <= 2 * 3
    assert traces["decode"] <= 2 * 6
    assert traces["score"] <= 2 * 4
    assert traces["update"] <= 2 * 7
    assert sum(traces.values()) <= 30


def test_a_phase_that_may_decide_is_traced(traces):
    memory.reset()
    run = shape(lora=LORA)
    needs = plan_memory(run).bytes
    other = replace(run, microbatch_rows=6, scoring_rows=6)
    traces.clear()
    plan_memory(other, traced_from=float("inf"))
    assert traces == {"score": 2, "update": 2}  # recorded
    assert plan_memory(other, traced_from=needs * 100).bytes == plan_memory(other).bytes
    assert traces == {"score": 4, "update": 4}  # by the plan without a bound
    plan_memory(replace(run, microbatch_rows=7), traced_from=1)
    assert traces == {"score": 4, "update": 6}


def test_what_is_found_too_large_by_a_trace_is_stepped_down_from():
    # Replays are 1 % too low. 1000 + rows x 16 MiB: 18 rows are 1304 with gradients and optimizer, replayed as 1291
    run = RunShape(
        "dapo", None, prompt_length=64, completion_length=192, round_rows=8, chunk_rows=8, microbatch_rows=8,
        microbatches=2, lora=object(),
    )  # fmt: skip
    bytes_of = lambda one: plan(one).bytes  # noqa: E731

    class Low:
        def __init__(self, need):
            self.bytes = need

    def low(one, limit):
        need = int(0.99 * bytes_of(one))
        return Low(bytes_of(one) if need >= limit else need)

    free = 1300 * MIB
    found = largest(run, Plans(plan, 500, low), free).per_device_train_batch_size
    assert bytes_of(replace(run, microbatch_rows=found)) <= free
    # One that was known to fit
    assert found >= 8
