"""Model cards: what they tell, whose file they replace, and that no run ends for one."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import get_peft_model
from transformers import TrainerCallback
from trl import GRPOTrainer as HostTrainer

from five import FIVE, architecture, trainer
from preferences import pairs, preference_args
from tiny import plain_dataset, save_tiny_model, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from training import build, dapo_args
from trl_dapo import DAPOTrainer, EvaluationCallback, RewardConfig, RewardTrainer
from trl_dapo.cli.main import main
from trl_dapo.dapo.card import totals_section
from trl_dapo.dapo.deviations import deviations_of
from trl_dapo.dapo.sampling.tally import Tally
from trl_dapo.dapo.toggles import TOGGLES
from trl_dapo.host import compat, model_card
from trl_dapo.host.card_base import base_of
from trl_dapo.host.card_file import is_generated, sealed
from trl_dapo.host.card_results import CardResult, for_hub, newest_results, results_section
from trl_dapo.host.card_text import as_code, as_name, escaped, table
from trl_dapo.host.model_card import completed
from trl_dapo.monitor.finding import Finding, write_findings


FINDING = Finding(
    rule="entropy_collapse",
    onset=40,
    step=60,
    message="Entropy fell to 0.02 <nats>.",
    numbers={"entropy": 0.02},
    settings=("epsilon_high=0.28",),
    advice="Raise `epsilon_high`.",
    reference="§3.1",
)
MINE = "---\nlicense: mit\n---\n\n# My model\n\nNotes that I want to keep.\n"


def adapter(name: str):
    return {"peft_config": tiny_lora(task_type="SEQ_CLS" if name == "reward" else "CAUSAL_LM")}


def read(folder: Path) -> tuple[ModelCard, str]:
    """The card of a folder, whose front matter is YAML of its own, and its text."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    front = text.split("\n---\n")[0].removeprefix("---\n")
    assert isinstance(yaml.safe_load(front), dict)
    return ModelCard.load(folder / "README.md"), text


# ------------------------------------------------------------------------------------------------------ five trainers


@pytest.mark.parametrize("name", FIVE)
def test_each_trainer_writes_a_card_beside_each_model_that_it_saves(tmp_path, name):
    run = trainer(name, tmp_path / "run", max_steps=1)
    run.train()
    run.save_model(str(tmp_path / "elsewhere"))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1", tmp_path / "elsewhere"):
        card, text = read(folder)
        assert {"trl", "trl_dapo", "generated_from_trainer"} <= set(card.data.tags)
        assert card.data.base_model == "tiny-llama"
        assert card.data.library_name == "transformers"
        assert "| `learning_rate` | `0.01` |" in text
        assert "- trl_dapo: " in text
        assert "@software{trl_dapo," in text
        assert "@software{vonwerra2020trl," in text
        assert 'model="None"' not in text
        assert str(tmp_path) not in text


@pytest.mark.parametrize("name", FIVE)
def test_the_card_of_an_adapter_is_not_that_of_peft(tmp_path, name):
    run = trainer(name, tmp_path / "run", max_steps=1, **adapter(name))
    run.train()
    run.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        card, text = read(folder)
        assert "[More Information Needed]" not in text
        assert "LoRA adapter of rank 4 for [tiny-llama]" in text
        assert card.data.library_name == "peft"
        assert {"lora", "base_model:adapter:tiny-llama"} <= set(card.data.tags)
        assert card.data.pipeline_tag == ("text-classification" if name == "reward" else "text-generation")
    # PEFT's own method is back
    assert "create_or_update_model_card" not in vars(run.model)


@pytest.mark.parametrize("name", FIVE)
def test_each_trainer_tells_its_own_settings(tmp_path, name):
    run = trainer(name, tmp_path / "run", max_steps=1)
    run.create_model_card()
    own = {
        "dapo": "epsilon_high` | `0.28",
        "grpo": "reward functions` | `parity_reward",
        "ppo": "lam` | `0.95",
        "dpo": "reference_free` | `True",
        "reward": "statistics_window` | `",
    }
    text = read(tmp_path / "run")[1]
    assert own[name] in text
    assert ("## Deviations from the paper" in text) == (name == "dapo")


def test_the_cards_do_not_depend_on_the_order_of_a_set(tmp_path):
    run = trainer("grpo", tmp_path / "run")
    run.create_model_card(tags=["b", "a"])
    assert read(tmp_path / "run")[0].data.tags == ["a", "b", "generated_from_trainer", "grpo", "trl", "trl_dapo"]


def test_writing_cards_changes_no_number_of_a_run(tmp_path, monkeypatch):
    with_cards = trainer("grpo", tmp_path / "a", max_steps=2)
    with_cards.train()
    monkeypatch.setattr(model_card, "card_of", lambda *args: pytest.fail("no card is asked for"))
    monkeypatch.setattr("trl_dapo.host.checkpoint_seams.write_card", lambda *args: None)
    without = trainer("grpo", tmp_path / "b", max_steps=2)
    without.train()
    for one, other in zip(with_cards.model.parameters(), without.model.parameters(), strict=True):
        assert one.equal(other)


# --------------------------------------------------------------------------------------------------------------- DAPO


def test_the_toggles_and_the_deviations_are_told(tmp_path):
    run = trainer("dapo", tmp_path / "run", overlong_filtering=False)
    run.create_model_card()
    text = read(tmp_path / "run")[1]
    for toggle in TOGGLES:
        assert f"| `{toggle}` | {'off' if toggle == 'overlong_filtering' else 'on'} |" in text
    rows = deviations_of(run.args)
    assert len(rows) > 5
    for row in rows:
        assert f"| `{row.field}` | " in text


def test_totals_are_those_of_the_rollouts(tmp_path):
    run = trainer("dapo", tmp_path / "run", max_steps=6, updates_per_rollout=2, max_refill_rounds=1, save_steps=6)
    rollouts = []

    class Noted(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.global_step % 2 == 0 and "dapo/groups_generated" in logs:
                rollouts.append(logs)

    run.add_callback(Noted())
    run.train()
    run.save_model()
    text = read(tmp_path / "run")[1]
    generated = int(sum(one["dapo/groups_generated"] for one in rollouts))
    kept = int(sum(one["dapo/groups_kept"] for one in rollouts))
    assert len(rollouts) == 3
    assert 0 < kept < generated
    for name, number in {
        "rollouts": 3,
        "rounds of generation": 3 + int(sum(one["dapo/refill_rounds"] for one in rollouts)),
        "groups generated": generated,
        "groups kept, which differ in their raw metric": kept,
        "groups discarded": generated - kept,
        "completions generated": 4 * generated,
    }.items():
        assert f"| {name} | {number} |" in text


def test_totals_go_on_after_a_resume(tmp_path):
    fields = {"updates_per_rollout": 2, "max_refill_rounds": 1, "save_steps": 2}
    whole = trainer("dapo", tmp_path / "whole", max_steps=4, **fields)
    whole.train()
    whole.save_model()
    first = trainer("dapo", tmp_path / "parts", max_steps=4, **fields)
    first.train()
    shutil.rmtree(tmp_path / "parts" / "checkpoint-4")
    second = trainer("dapo", tmp_path / "parts", max_steps=4, **fields)
    second.train(resume_from_checkpoint=True)
    second.save_model()
    texts = [read(tmp_path / name)[1] for name in ("whole", "parts")]
    one, other = (text[text.index("## Dynamic sampling") : text.index("## Deviations")] for text in texts)
    assert one == other
    assert "| rollouts | 2 |" in one


def test_a_checkpoint_without_counts_is_told_of():
    tally = Tally()
    tally.load_state_dict({"completions_generated": 80, "exhaustions": 0, "last_rollout": {}})
    tally.count({"dapo/refill_rounds": 2.0, "dapo/groups_generated": 9.0, "dapo/groups_kept": 4.0})
    body = totals_section(tally, 4, 1, True).body
    # 9 generated, 4 trained on, 1 waits: 4 are discarded
    for row in ("rollouts | 1", "rounds of generation | 3", "groups discarded | 4", "to the next rollout | 1"):
        assert f"{row} |" in body
    assert "counted from completion 80 on" in body
    again = Tally()
    again.load_state_dict(tally.state_dict())
    assert again == tally


def test_without_dynamic_sampling_completions_are_told(tmp_path):
    run = trainer("dapo", tmp_path / "run", dynamic_sampling=False, max_refill_rounds=8, max_steps=1)
    run.train()
    text = read(tmp_path / "run" / "checkpoint-1")[1]
    assert "32 completions were generated, and all trained on." in text
    assert "## Dynamic sampling" not in text


# ----------------------------------------------------------------------------------------------------- evaluations


def evaluating(folder: Path, max_steps: int = 2, every: int = 1, **fields):
    args = dapo_args(folder, max_steps=max_steps, save_strategy="steps", save_steps=1, max_refill_rounds=0, **fields)
    run = build(DAPOTrainer, args, reward_funcs=lambda completions, **kw: [len(str(c)) % 2 for c in completions])
    held_out = plain_dataset(3).rename_column("answer", "solution")
    callback = EvaluationCallback(run, {"sums|x\n---": held_out}, "number", k=2, every=every, max_new_tokens=4)
    run.add_callback(callback)
    return run, callback


def test_evaluations_are_results_of_the_hub(tmp_path):
    run, callback = evaluating(tmp_path / "run")
    run.train()
    run.save_model()
    card, text = read(tmp_path / "run")
    (name, scores), *_ = callback.results[2].items()
    found = {one.metric_type: one for one in card.data.eval_results}
    assert set(found) == {"avg@2", "pass@2", "maj@2"}
    for metric, one in found.items():
        assert one.metric_value == pytest.approx(scores.metrics[metric].value)
        assert (one.task_type, one.dataset_name, one.dataset_type) == ("text-generation", name, "sums_x_---")
    assert card.data.to_dict()["model-index"][0]["name"] == "run"
    assert "| `sums\\|x ---` | `avg@2` |" in text
    assert "`mean_length`" in text


def test_a_resumed_run_tells_what_was_measured_before(tmp_path):
    run, callback = evaluating(tmp_path / "run", max_steps=1)
    run.train()
    measured = callback.results[1]["sums|x\n---"].metrics["avg@2"].value
    again, callback = evaluating(tmp_path / "run", max_steps=1, every=5)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    callback.results.clear()
    first = callback.card_results(1)[0]
    assert (first.metric, first.value, first.step) == ("avg@2", measured, 1)
    # A folder that was cut short is passed over
    (tmp_path / "run" / "evaluations" / "step-1" / "results.json").write_text('{"schema"')
    assert {one.step for one in callback.card_results(1)} == {0}
    # One that begins anew does not tell of another run's
    callback._resumed_at = 0
    assert callback.card_results(1) == []


def test_only_scores_of_the_saved_weights_go_to_the_hub():
    results = [
        CardResult("sums", "avg@8", 0.5, 10, (0.4, 0.6)),
        CardResult("sums", "mean_length", 20.0, 10, is_score=False),
        CardResult("", "avg@8", 0.25, 10),
    ]
    assert [(one.dataset_name, one.metric_value) for one in for_hub(results, 10, "text-generation")] == [
        ("sums", 0.5),
        ("held-out data", 0.25),
    ]
    assert for_hub(results, 11, "text-generation") == []
    assert "results of an earlier step" not in results_section(results, 10).body
    assert "The weights are those of step 11" in results_section(results, 11).body
    assert "| `sums` | `avg@8` | 0.5 | 0.4 to 0.6 | 10 |" in results_section(results, 10).body
    assert results_section([], 10) is None


def test_the_newest_of_the_trainers_own_evaluations_is_told():
    history = [
        {"eval_accuracy": 0.5, "step": 1},
        {"eval_accuracy": 0.75, "eval_loss": 1.0, "step": 2},
        {"eval_sums_accuracy": float("nan"), "step": 2},
        {"eval_accuracy": 0.9, "step": 3},
        {"eval_accuracy": None, "step": 2},
        {"loss": 1.0, "step": 2},
    ]
    assert newest_results([], history, ("accuracy",), 2) == [CardResult("", "accuracy", 0.75, 2)]
    assert newest_results([], history, (), 2) == []


@pytest.mark.parametrize(("name", "metric"), [("reward", "accuracy"), ("dpo", "rewards/accuracies")])
def test_preference_trainers_tell_their_accuracy(tmp_path, name, metric):
    run = trainer(name, tmp_path / "run", max_steps=1)
    run.train()
    run.evaluate(run.train_dataset)
    run.save_model()
    (one,) = read(tmp_path / "run")[0].data.eval_results
    assert one.metric_type == metric


def test_the_best_model_has_the_results_of_its_step(tmp_path):
    every_step = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    run = RewardTrainer(
        model=architecture("llama", reward=True),
        args=preference_args(RewardConfig, tmp_path / "run", **every_step, **best),
        train_dataset=pairs(),
        eval_dataset=pairs(4),
        processing_class=tiny_tokenizer(),
    )
    numbers = iter((0.1, 0.9, 0.2))
    evaluate = run.evaluate

    def scripted(*args, **kwargs):
        metrics = evaluate(*args, **kwargs)
        metrics["eval_accuracy"] = run.state.log_history[-1]["eval_accuracy"] = next(numbers)
        return metrics

    run.evaluate = scripted
    run.train()
    run.save_model()
    card, text = read(tmp_path / "run")
    assert [one.metric_value for one in card.data.eval_results] == [0.9]
    assert "| `step` | `2` |" in text


# --------------------------------------------------------------------------------------------------------- findings


class Diagnosis(TrainerCallback):
    findings: tuple = ()


def test_findings_of_a_diagnosis_are_told(tmp_path):
    diagnosis = Diagnosis()
    run = trainer("grpo", tmp_path / "run", callbacks=[diagnosis])
    run.create_model_card()
    assert "The diagnosis of this run found nothing." in read(tmp_path / "run")[1]
    diagnosis.findings = (FINDING,)
    run.create_model_card()
    text = read(tmp_path / "run")[1]
    assert (
        "- `entropy_collapse`, since step 40: Entropy fell to 0.02 &lt;nats&gt;. Raise \\`epsilon\\_high\\`." in text
    )
    assert "(`epsilon_high=0.28`)" in text


def test_without_a_diagnosis_nothing_is_said_of_findings(tmp_path):
    run = trainer("grpo", tmp_path / "run")
    run.create_model_card()
    assert "Findings" not in read(tmp_path / "run")[1]


# -------------------------------------------------------------------------------------------------------------- base


def test_a_local_base_is_named_without_its_path(tmp_path):
    folder = save_tiny_model(tmp_path / "deep" / "my base", tiny_tokenizer())
    for config in ({}, {"peft_config": tiny_lora()}):
        run = trainer("grpo", tmp_path / f"run{len(config)}", model=folder, max_steps=1, **config)
        run.train()
        run.save_model()
        card, text = read(Path(run.args.output_dir))
        assert card.data.base_model is None
        assert "`my base`, a local model" in text
        assert "None](" not in text
        assert str(tmp_path) not in text


def test_names_of_bases(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_of("Qwen/Qwen2.5-0.5B").hub_id == "Qwen/Qwen2.5-0.5B"
    # A folder goes before a name on the Hub, as in transformers
    assert (base_of("org/name").name, base_of("org/name").hub_id) == ("name", None)
    assert (base_of("/gone/with/it").name, base_of("/gone/with/it").hub_id) == ("it", None)
    assert base_of(str(tmp_path / "org" / "..")).name == tmp_path.name
    cache = "/home/me/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123abcd"
    assert base_of(cache).hub_id == "Qwen/Qwen2.5-0.5B"
    assert base_of("/cache/models--gpt2/snapshots/01").hub_id == "gpt2"
    assert "without a name" in str(base_of(""))
    # The built-in model is neither on the Hub nor in a folder
    assert (base_of("arena").hub_id, str(base_of("arena"))) == (None, "the built-in model of trl_dapo")


def test_a_local_data_set_is_named_without_its_path(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    run = trainer("grpo", tmp_path / "run", max_steps=1)
    run.create_model_card(dataset_name=str(data))
    card, text = read(tmp_path / "run")
    assert card.data.datasets is None
    assert "on the data set `rows.jsonl`" in text
    assert str(tmp_path) not in text
    run.create_model_card(dataset_name="openai/gsm8k")
    run.save_model()  # keeps what was told
    assert read(tmp_path / "run")[0].data.datasets == "openai/gsm8k"


def test_a_hostile_name_writes_nothing_of_its_own(tmp_path):
    folder = tmp_path / "x\n---\nlicense: mit\n# <script>`{{ 7*7 }}"
    base = save_tiny_model(tmp_path / "b|`\n---\n# <b>", tiny_tokenizer())

    def evil(completions, **kwargs):
        return [float(len(str(one)) % 2) for one in completions]

    evil.__name__ = "r|`\n---\n<img>"
    run = trainer("grpo", folder, model=base, reward_funcs=evil, max_steps=1)
    run.train()
    card, text = read(folder)
    assert text.count("\n---\n") == 1
    assert card.data.get("license") is None
    assert card.data.model_name == "x_---_license_mit_script_7_7_"
    assert "<script>" not in text
    assert "\n# <b>" not in text
    assert "| `reward functions` | `r\\|' --- <img>` |" in text


def test_text_has_no_meaning_for_markdown():
    assert as_code("a`b\n|c") == "`a'b |c`"
    assert as_code("") == "` `"
    assert escaped("<b> & *x* [y](z) # `c` | d_e\x1b[2J") == (
        "&lt;b&gt; &amp; \\*x\\* \\[y\\](z) \\# \\`c\\` \\| d\\_e \\[2J"
    )
    assert as_name("../a b\n") == ".._a_b_"
    assert as_name("") == "_"
    assert table(["a"], [["x|y"], ["x\\|y"]]).splitlines()[2:] == ["| x\\|y |", "| x\\|y |"]


# --------------------------------------------------------------------------------------------------------- whose file


@pytest.mark.parametrize("name", ["grpo", "reward"])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_card_of_ones_own_stays_byte_for_byte(tmp_path, name, with_adapter):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text(MINE)
    run = trainer(name, folder, max_steps=1, **(adapter(name) if with_adapter else {}))
    run.train()
    run.save_model()
    assert (folder / "README.md").read_text() == MINE
    assert "generated_from_trainer" in (folder / "checkpoint-1" / "README.md").read_text()


def test_an_edited_card_stays(tmp_path):
    run = trainer("grpo", tmp_path / "run", max_steps=1)
    run.create_model_card()
    path = tmp_path / "run" / "README.md"
    edited = path.read_text().replace("licence: license", "license: mit")
    path.write_text(edited)
    run.create_model_card()
    assert path.read_text() == edited


def test_an_older_card_of_this_package_is_replaced(tmp_path):
    run = trainer("grpo", tmp_path / "run", max_steps=1)
    run.create_model_card()
    run.train()
    assert "| `step` | `1` |" in read(tmp_path / "run")[1]
    path = tmp_path / "run" / "README.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as an editor or git may leave it
    assert is_generated(path)


def test_cards_of_trl_and_peft_are_replaced(tmp_path):
    host = HostTrainer(
        tiny_model(tiny_tokenizer()),
        lambda completions, **kwargs: [0.0] * len(completions),
        tiny_args(tmp_path / "trl"),
        plain_dataset(),
        processing_class=tiny_tokenizer(),
    )
    host.create_model_card("trl", "openai/gsm8k")
    path = tmp_path / "trl" / "README.md"
    assert is_generated(path)
    path.write_text(path.read_text() + "\n## My notes\n")
    assert not is_generated(path)
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())
    model.save_pretrained(tmp_path / "peft")
    path = tmp_path / "peft" / "README.md"
    assert "[More Information Needed]" in path.read_text()
    assert is_generated(path)
    path.write_text(path.read_text().replace("### Model Description", "### Model Description\n\nIt adds numbers."))
    assert not is_generated(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"---\n: [\n---\n", b"---\n- a\n---\n", b"hello", b"---\ntags: [a]\nowner: me\n---\n"],
    ids=["empty", "no_text", "no_yaml", "a_list", "no_front_matter", "fields"],
)
def test_what_cannot_be_known_is_kept_unless_it_is_empty(tmp_path, content):
    path = tmp_path / "README.md"
    path.write_bytes(content)
    assert is_generated(path) == (content == b"")


def test_a_sealed_text_is_known_again(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(sealed("# Title\n\ntext\n"))
    assert is_generated(path)
    path.write_text(path.read_text().replace("text", "other text"))
    assert not is_generated(path)


# ------------------------------------------------------------------------------------------------- nothing ends a run


def test_a_card_that_cannot_be_made_ends_no_run(tmp_path, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("trl_dapo.host.card_file.write_whole", broken)
    run = trainer("dapo", tmp_path / "run", max_steps=1, **adapter("dapo"))
    run.train()
    run.save_model()
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "README.md").exists()
    assert "is not written: OSError: No space left on device" in caplog.text


def test_a_callback_that_fails_ends_no_run(tmp_path, caplog):
    class Broken(TrainerCallback):
        def card_results(self, step):
            raise RuntimeError("no results")

    run = trainer("grpo", tmp_path / "run", max_steps=1, callbacks=[Broken()])
    run.train()
    assert "RuntimeError: no results" in caplog.text
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").is_file()


def test_a_broken_file_of_ones_own_ends_no_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text("---\n: [\n---\n")
    run = trainer("grpo", folder, max_steps=1, **adapter("grpo"))
    run.train()
    run.save_model()  # PEFT alone would raise here
    assert (folder / "README.md").read_text() == "---\n: [\n---\n"


def test_other_processes_write_no_card(tmp_path, monkeypatch):
    run = trainer("grpo", tmp_path / "run", max_steps=1)
    monkeypatch.setattr(run, "is_world_process_zero", lambda: False)
    run.create_model_card()
    assert not (tmp_path / "run" / "README.md").exists()


def test_a_template_of_another_trl_keeps_all_parts():
    card = completed("---\ntags: []\n---\n\n# Model\n", "m", "From `b`.", [model_card.Section("Settings", "x")])
    for part in (
        "## Origin\n\nFrom `b`.",
        "## Settings\n\nx",
        "### Framework versions",
        "- trl_dapo: ",
        "@software{trl_",
    ):
        assert part in card


def test_another_signature_of_trls_is_seen(monkeypatch):
    from trl.trainer.base_trainer import _BaseTrainer

    monkeypatch.setattr(_BaseTrainer, "create_model_card", lambda self, name: None)
    assert any(one.startswith("create_model_card takes (self, name)") for one in compat.seam_differences())


# ------------------------------------------------------------------------------------------------------------ the Hub


def test_what_is_pushed_has_the_card(tmp_path, monkeypatch):
    run = trainer("dapo", tmp_path / "run", max_steps=1, hub_model_id="me/my-model", **adapter("dapo"))
    pushed = {}

    def upload(folder_path, repo_id, **kwargs):
        pushed[repo_id] = (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr(run, "init_hf_repo", lambda **kwargs: setattr(run, "hub_model_id", "me/my-model"))
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload))
    run.push_to_hub(dataset_name="openai/gsm8k", tags=["mine"])
    text = pushed["me/my-model"]
    assert "# Model Card for my-model" in text
    assert 'model="me/my-model"' in text
    assert "- mine\n" in text
    assert "datasets: openai/gsm8k" in text
    assert "## Deviations from the paper" in text


# -------------------------------------------------------------------------------------------------------------- merge


def test_a_merged_model_has_the_findings_of_its_run_and_no_path(tmp_path):
    base = tmp_path / "base|x"
    architecture("llama").save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    run = trainer("grpo", tmp_path / "run", model=str(base), max_steps=1, **adapter("grpo"))
    run.train()
    write_findings(tmp_path / "run", [FINDING, replace(FINDING, rule="second")])
    for source in ("run", "run/checkpoint-1"):
        out = tmp_path / source.replace("/", "-merged-")
        out = out.with_name(out.name + "-out")
        assert main(["merge", str(tmp_path / source), "--to", str(out)]) == 0
        card, text = read(out)
        assert "- `entropy_collapse`, since step 40" in text
        assert "`second`" in text
        assert card.data.base_model is None
        assert card.data.tags == ["trl", "trl_dapo"]
        assert "`base|x`, a local model" in text
        assert str(tmp_path) not in text
        assert is_generated(out / "README.md")


def test_findings_that_cannot_be_read_do_not_stop_a_merge(tmp_path):
    base = save_tiny_model(tmp_path / "base", tiny_tokenizer())
    run = trainer("grpo", tmp_path / "run", model=base, max_steps=1, **adapter("grpo"))
    run.train()
    (tmp_path / "run" / "findings.json").write_text('{"version"')
    assert main(["merge", str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 0
    assert "Findings" not in read(tmp_path / "out")[1]
