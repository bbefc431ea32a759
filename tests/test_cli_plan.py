"""`trl-dapo plan`: its answer and exit codes, what it refuses, and what training commands say of memory."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import stand_in_plan
from stand_in_plan import MIB
from tiny import save_tiny_model, tiny_tokenizer
from trl_dapo.cli import plan_before, plan_result
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.grpo import run_script
from trl_dapo.cli.main import main
from trl_dapo.cli.script import parse_words
from trl_dapo.planning.log_prob_head import NoTracedHead
from trl_dapo.planning.measured import FILE


ONLINE = ("dapo", "grpo", "ppo")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


@pytest.fixture
def workspace(tmp_path, monkeypatch, model_dir):
    """An empty folder to run in with prompts and pairs; the network is closed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, row in (
        ("data", lambda i: {"prompt": f"{i:02}+{i:02}=", "answer": str(2 * i)}),
        ("pairs", lambda i: {"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": str(i)}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(json.dumps(row(i)) for i in range(64)))
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def sums(workspace, monkeypatch):
    """Plans whose sums are done in the head, in place of traced ones."""

    def plan_memory(shape, device="cuda", card_bytes=None, context=None, traced_from=0.0):
        return stand_in_plan.plan(shape)

    monkeypatch.setattr("trl_dapo.planning.memory.plan_memory", plan_memory)
    monkeypatch.setattr(plan_before, "plan_memory", plan_memory)
    monkeypatch.setattr(plan_result, "plan_memory", plan_memory)


def settings(name, model):
    common = {
        "model_name_or_path": model,
        "output_dir": "out",
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "use_peft": True,
        "lora_target_modules": ["q_proj", "v_proj"],
        "gradient_checkpointing": False,
    }
    if name not in ONLINE:
        return {**common, "dataset_name": "pairs", "max_length": 64}
    own = {"num_generations": 8, "max_completion_length": 32, "gradient_accumulation_steps": 8}
    return {**common, "dataset_name": "data", "reward_funcs": ["get_soft_overlong_punishment"], **own}


def write(values, **more):
    Path("run.yaml").write_text(yaml.safe_dump({**values, **more}))
    return ["--config", "run.yaml"]


def planned(capfd, *argv):
    """Returns the exit code and the JSON."""
    capfd.readouterr()
    code = main(["plan", *argv, "--json"])
    return code, json.loads(capfd.readouterr().out)


def refused(capfd, *argv):
    capfd.readouterr()
    assert main(["plan", *argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("trl-dapo: error: ")
    return err


# ---------------------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_planned_from_its_own_file(workspace, model_dir, capfd, monkeypatch, name):
    def closed(*args, **kwargs):
        pytest.fail("a plan asked for weights")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", closed)
    before = set(workspace.rglob("*"))
    code, found = planned(capfd, name, *write(settings(name, model_dir)))
    assert (code, found["command"], found["fits_cards"][0]) == (0, name, "8gb")
    phases = [phase["name"] for phase in found["phases"]]
    assert phases[0] == "load"
    assert phases[-1] == "update"
    assert ("generate" in phases) == (name in ONLINE)
    assert found["needs_bytes"] == int(
        max(sum(item["bytes"] for item in phase["items"]) for phase in found["phases"]) * (1 + found["fragmentation"])
    )
    assert {path for path in workspace.rglob("*") if "cache" not in path.parts} - before <= {workspace / "run.yaml"}


def test_it_is_dapo_without_a_name_and_flags_win(sums, model_dir, capfd):
    argv = write(settings("dapo", model_dir))
    # "00+00=" has 6 characters, which are the tokens
    code, found = planned(capfd, *argv, "--max_completion_length", "16")
    assert (code, found["command"], found["prompt_length"], found["completion_length"]) == (0, "dapo", 6, 16)
    assert found["gpu"] is None
    assert any("prompts" in line or "prompt" in line for line in found["batch"])
    assert planned(capfd, *argv, "--prompt_length", "100")[1]["prompt_length"] == 100


def test_a_run_that_does_not_fit_names_a_knob_which_then_fits(sums, model_dir, capfd):
    values = settings("grpo", model_dir)
    # 32 rows of 38 tokens: a cache of 19 MiB on 1000; the update 4 rows x 38 / 16 = 9.5, and 4 of the adapter
    argv = [*write(values), "--gpu", f"{1016 * MIB}"]
    code, found = planned(capfd, "grpo", *argv)
    assert found["gpu"]["spare_bytes"] == -3 * MIB
    change = found["gpu"]["change"]
    assert (code, found["gpu"]["fits"], found["needs_bytes"]) == (1, False, 1019 * MIB)
    assert (change["field"], change["value"]) == ("generation_chunk_size", 16)
    code, again = planned(capfd, "grpo", *argv, "--generation_chunk_size", "16")
    assert code == 0
    assert again["needs_bytes"] == change["needs_bytes"] <= 1016 * MIB
    assert found["needs_bytes"] - again["needs_bytes"] == change["saves_bytes"]


def test_where_one_knob_is_not_enough_the_next_is_named(sums, model_dir, capfd):
    # 250 in 4 bits, 19 of cache: 269, where 265 is free
    argv = [*write(settings("grpo", model_dir)), "--gpu", f"{265 * MIB}"]
    code, found = planned(capfd, "grpo", *argv)
    assert (code, found["gpu"]["change"]["field"]) == (1, "load_in_4bit")
    assert found["gpu"]["change"]["needs_bytes"] > 265 * MIB
    more = ["--load_in_4bit", "true"]
    code, found = planned(capfd, "grpo", *argv, *more)
    assert (code, found["gpu"]["change"]["field"]) == (1, "generation_chunk_size")
    more += ["--generation_chunk_size", str(found["gpu"]["change"]["value"])]
    assert planned(capfd, "grpo", *argv, *more)[0] == 0


def test_the_largest_and_a_chunk_for_the_card_are_told(sums, model_dir, capfd):
    argv = [*write(settings("grpo", model_dir)), "--gpu", f"{1130 * MIB}"]
    found = planned(capfd, "grpo", *argv)[1]["gpu"]
    # A tenth less is 1017: 17 MiB are 28 rows of 38 / 64, so 24 in groups of 8, of 38 tokens each
    assert (found["recommended_chunk"], found["recommended_tokens_per_call"]) == (24, 24 * 38)
    # Groups of 8 whose cache is 130 MiB at most: 218 rows of 38 / 64; the round has 32
    assert found["largest"]["generation_chunk_size"] == 32
    rows = found["largest"]["per_device_train_batch_size"]
    # 126 MiB of activations, 2.375 a row: 53, to a sixteenth
    assert 53 * 15 // 16 <= rows <= 53


def test_bytes_and_names_of_cards(sums, model_dir, capfd):
    argv = ["dpo", *write(settings("dpo", model_dir))]
    assert planned(capfd, *argv, "--gpu", "10GiB")[1]["gpu"]["usable_bytes"] == 10 * 2**30
    assert planned(capfd, *argv, "--gpu", "RTX 4070")[1]["gpu"]["total_bytes"] == 12282 * MIB
    assert planned(capfd, *argv, "--gpu", "512MiB")[0] == 1


def test_seconds_follow_from_a_stated_speed(sums, model_dir, capfd):
    argv = ["grpo", *write(settings("grpo", model_dir)), "--tokens_per_second", "64"]
    # 32 rows of 32 tokens in one rollout of one update: 1024 tokens, 16 seconds
    found = planned(capfd, *argv)[1]["seconds_per_step"]
    assert found["generate"] == 16
    # 32 rows of 38 tokens, read at 640 a second, twice as an adapter's backward pass costs one forward pass more
    assert found["update"] == pytest.approx(32 * 38 * 2 / 640)
    assert found["total"] == pytest.approx(sum(found.get(name, 0) for name in ("generate", "score", "update")))
    slower = planned(capfd, *argv, "--update_ratio", "5")[1]["seconds_per_step"]
    assert slower["update"] == pytest.approx(2 * found["update"])


def test_dynamic_sampling_generates_more_batches(sums, model_dir, capfd):
    values = {**settings("dapo", model_dir), "reward_funcs": ["math_verify"], "answer_column": "answer"}
    argv = [*write(values), "--tokens_per_second", "64"]
    half, all_ = (planned(capfd, *argv, "--informative", share)[1]["seconds_per_step"] for share in ("0.5", "1.0"))
    assert half["generate"] == pytest.approx(2 * all_["generate"])


def test_plain_lines_and_a_terminal_say_the_same(sums, model_dir, capfd, monkeypatch):
    argv = ["plan", "grpo", *write(settings("grpo", model_dir)), "--gpu", f"{1016 * MIB}"]
    capfd.readouterr()
    assert main(argv) == 1
    plain = capfd.readouterr().out
    monkeypatch.setattr(sys, "stdout", _Terminal(sys.stdout))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(argv) == 1
    table = capfd.readouterr().out
    for text in (plain, table):
        assert "first change" in text
        assert "generation_chunk_size: 16" in text
        assert "then it fits" in text
        assert "KV cache" in text
        assert "1019" in text or "0.99" in text or "1.00 GiB" in text
        assert re.search(r"\[#+\.*\]", text)


class _Terminal:
    def __init__(self, stream):
        self.stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self.stream, name)


# ------------------------------------------------------------------------------------------------------------- models


def test_an_adapter_folder_is_planned_with_its_base(workspace, model_dir, capfd):
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("adapter")
    tiny_tokenizer().save_pretrained("adapter")
    values = {**settings("grpo", "adapter"), "use_peft": False}
    del values["lora_target_modules"]
    code, found = planned(capfd, "grpo", *write(values))
    assert code == 0
    assert f"model: config.json of {model_dir}, the base of the adapter adapter" in found["assumptions"]


def test_a_known_id_is_planned_offline_without_its_files(sums, capfd):
    values = settings("grpo", "Qwen/Qwen2.5-1.5B-Instruct")
    code, found = planned(capfd, "grpo", *write(values), "--load_in_4bit", "--bf16")
    assert code == 0
    assert any("known here" in line for line in found["assumptions"])


def test_an_unknown_id_offline_is_one_line_with_the_fix(workspace, capfd):
    err = refused(capfd, "grpo", *write(settings("grpo", "nobody/nothing-7b")))
    assert "model_name_or_path=nobody/nothing-7b: its config.json is not on this machine" in err
    assert "hf download nobody/nothing-7b config.json" in err


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--gpu", "4075"], "gpu='4075' is no card that is known here"),
        (["--gpu", ""], "is no card that is known"),
        (["--prompt_length", "0"], "--prompt_length must be above 0, got 0"),
        (["--prompt_length", "x"], "prompt_length"),
        (["--tokens_per_second", "-1"], "--tokens_per_second must be above 0"),
        (["--tokens_per_second", "nan"], "--tokens_per_second must be above 0"),
        (["--update_ratio", "0"], "--update_ratio must be above 0"),
        (["--informative", "0"], "--informative is a share of groups"),
        (["--like", "nowhere"], "nowhere has no memory_and_time.json"),
        (["--report", "nowhere"], "nowhere has no memory_and_time.json"),
        (["--like", "a", "--tokens_per_second", "1"], "Leave one of them out"),
        (["--report", "a", "--gpu", "8gb"], "Leave one of them out"),
        (["--num_generation", "8"], "num_generation"),
        (["--num_generations", "3"], "num_generations=3 does not divide"),
    ],
)
def test_a_mistake_is_one_line(sums, model_dir, capfd, argv, part):
    assert part in refused(capfd, "grpo", *write(settings("grpo", model_dir)), *argv)


def test_a_command_that_does_not_train_is_refused(workspace, capfd):
    assert "'eval' is not a command that trains" in refused(capfd, "eval")


# ---------------------------------------------------------------------------------------------------- report and like


def test_a_run_of_the_command_line_is_held_against_its_plan(workspace, model_dir, capfd):
    argv = write(settings("grpo", model_dir), logging_steps=1, save_strategy="no", disable_tqdm=True)
    assert run_script(argv) == 0
    assert json.loads((workspace / "out" / FILE).read_text())["steps"] == 1
    code, found = planned(capfd, "grpo", *argv, "--report", "out")
    assert (code, found["device"], found["steps"]) == (0, "cpu", 1)
    rows = {row["name"]: row for row in found["phases"]}
    assert {"generate", "update"} <= set(rows)
    assert all(row["predicted_bytes"] > 0 for row in rows.values())
    capfd.readouterr()
    assert main(["plan", "grpo", *argv, "--report", "out"]) == 0
    assert re.search(r"^update +[\d.]+ .iB +-?[\d.]+ .iB", capfd.readouterr().out, re.M)
    found = planned(capfd, "grpo", *argv, "--like", "out")[1]["seconds_per_step"]
    assert found["generate"] > 0
    assert "measured on cpu by that run" in found["assumptions"][0]


# -------------------------------------------------------------------------------------------------- before a run loads


def test_too_small_a_card_is_warned_of_with_the_first_knob(sums, model_dir, monkeypatch, caplog):
    arguments = parse_words(COMMANDS["grpo"], write(settings("grpo", model_dir)))
    before(monkeypatch, arguments, 1016)
    plan_before.check_memory("grpo", arguments)
    (line,) = [record.getMessage() for record in caplog.records if "planned to need" in record.getMessage()]
    assert "most in the phase 'generate'" in line
    assert "generation_chunk_size: 16" in line
    assert "\n" not in line


def test_a_card_without_room_for_the_weights_is_refused(sums, model_dir, monkeypatch):
    arguments = parse_words(COMMANDS["grpo"], write(settings("grpo", model_dir)))
    before(monkeypatch, arguments, 999)
    with pytest.raises(UsageError, match=r"has 999\.0 MiB free|has 0\.98 GiB free, and the weights alone need 0\.98"):
        plan_before.check_memory("grpo", arguments)


def test_a_card_that_is_large_enough_is_not_spoken_of(sums, model_dir, monkeypatch, caplog):
    arguments = parse_words(COMMANDS["grpo"], write(settings("grpo", model_dir)))
    before(monkeypatch, arguments, 1020)
    state = torch.get_rng_state()
    plan_before.check_memory("grpo", arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert not [record for record in caplog.records if "The card has" in record.getMessage()]


def test_a_plan_that_fails_ends_no_run(sums, model_dir, monkeypatch):
    arguments = parse_words(COMMANDS["grpo"], write(settings("grpo", model_dir)))
    before(monkeypatch, arguments, 1)

    def fails(*args, **kwargs):
        raise RuntimeError("an operator has no fake kernel")

    monkeypatch.setattr(plan_result, "plan_memory", fails)
    plan_before.check_memory("grpo", arguments)


def before(monkeypatch, arguments, free):
    """Patches in a card with so many MiB free."""
    arguments.training_args.use_cpu = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *args: (free * MIB, 24576 * MIB))


# ----------------------------------------------------------------------------------------------------------- dry runs


TARGETS = {
    "bf16": ["--bf16", "true"],
    "fp16": ["--fp16", "true"],
    "4-bit": ["--load_in_4bit", "true", "--bf16", "true"],
    "vllm": ["--use_vllm", "true", "--vllm_mode", "colocate"],
    "flash": ["--attn_implementation", "flash_attention_2", "--bf16", "true", "--dtype", "bfloat16"],
    "deepspeed": ["--deepspeed", "zero2.json"],
    "tf32": ["--tf32", "true"],
    "8-bit": ["--optim", "paged_adamw_8bit"],
}


# The critic's loss is not scaled, and DPO and reward models generate nothing
HAVE = [
    (name, target)
    for name in COMMANDS
    for target in TARGETS
    if (name, target) != ("ppo", "fp16") and (target != "vllm" or name in ONLINE)
]


@pytest.mark.parametrize(("name", "target"), HAVE)
def test_a_dry_run_needs_nothing_of_the_target(sums, model_dir, capfd, name, target):
    Path("zero2.json").write_text('{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}')
    values = {key: value for key, value in settings(name, model_dir).items() if key not in ("use_cpu", "bf16")}
    assert main([name, *write(values), *TARGETS[target], "--dry-run"]) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert re.search(r"^# memory\nload ", out, re.M), out
    assert re.search(r"^needs .*GiB", out, re.M)
    assert not Path("out").exists()


def test_a_dry_run_of_a_model_that_is_not_here_says_why_it_was_not_planned(workspace, capfd):
    assert main(["grpo", *write(settings("grpo", "nobody/nothing-7b")), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "# memory\nmemory was not planned: model_name_or_path=nobody/nothing-7b" in out
    assert "hf download nobody/nothing-7b config.json" in out


def test_a_dry_run_of_the_built_in_task_traces_nothing(workspace, capfd, monkeypatch):
    monkeypatch.setattr(plan_before, "plan_memory", lambda *args: pytest.fail("traced"))
    assert main(["dapo", "--dry-run"]) == 0
    assert "# memory\nthe built-in model fits on every card" in capfd.readouterr().out


def test_a_trl_without_a_head_to_trace_is_one_line(workspace, model_dir, capfd, monkeypatch):
    def missing(*args, **kwargs):
        raise NoTracedHead("this TRL has none.\nInstall another.")

    monkeypatch.setattr(plan_result, "plan_memory", missing)
    assert "this TRL has none" in refused(capfd, "grpo", *write(settings("grpo", model_dir)), "--gpu", "8gb")
