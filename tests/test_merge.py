"""An adapter merged into its base: the model that was trained, and what the rounding loses of it."""

import json
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preferences import nf4, saved, tiny_reward_model
from tiny import tiny_model, tiny_tokenizer
from trl_dapo.arena.tokenizer import build_tokenizer
from trl_dapo.cli.main import main
from trl_dapo.export import folder as folders
from trl_dapo.export.agreement import ask, encoded
from trl_dapo.export.merging import load_merged, load_trained, without_weights
from trl_dapo.export.rounding import Kept, kept_by
from trl_dapo.export.source import find_source
from trl_dapo.qlora.recorded import FILE, record_quantization, recorded_quantization


PROMPTS = ["1+2=", "3+4=", "five"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer(), hidden=64, layers=2))


def adapter(base, folder, quantized=False, scale=0.1, cls=AutoModelForCausalLM, **overrides):
    """Saves an adapter with weights of its own and returns the model that it was trained as."""
    loading = {"quantization_config": nf4()} if quantized else {}
    model = cls.from_pretrained(base, dtype=torch.float32, **loading)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **overrides}
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if quantized:
        record_quantization(folder, model.get_base_model())
    return model.train(quantized)


def logits(model, ids=None):
    ids = torch.arange(20, 44).view(3, 8) if ids is None else ids
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def merge(*words):
    return main(["merge", *map(str, words)])


# ------------------------------------------------------------------------------------------------------------ rounding


def test_an_update_below_half_a_step_of_bfloat16_is_lost():
    # From 1 to 2, numbers of bfloat16 (8 bits of significand) are 2^-7 apart. 1 + 2^-9 is a quarter of the way to the
    # next and is stored as 1: nothing changes, and the error is the whole update. 1 + 2^-7 is stored as it is
    lost = kept_by(torch.ones(4), torch.ones(4) + 2.0**-9, torch.bfloat16)
    assert (lost.moved, lost.changed, lost.share, lost.error) == (4, 0, 0.0, 1.0)
    whole = kept_by(torch.ones(4), torch.ones(4) + 2.0**-7, torch.bfloat16)
    assert (whole.share, whole.error) == (1.0, 0.0)


def test_an_update_that_is_rounded_up_has_the_error_of_what_is_added():
    # 3/4 of a step is stored as a whole one: the error is 1/4 of a step, a third of the update
    kept = kept_by(torch.ones(1), torch.ones(1) + 0.75 * 2.0**-7, torch.bfloat16)
    assert kept.share == 1.0
    assert kept.error == pytest.approx(1 / 3)


def test_entries_that_do_not_move_do_not_count():
    before = torch.tensor([1.0, 1.0, 1.0, 0.0])
    after = torch.tensor([1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-7, 0.0])
    kept = kept_by(before, after, torch.bfloat16)
    assert (kept.moved, kept.changed) == (2, 1)
    # Lost is 2^-9 of an update of norm sqrt(2^-18 + 2^-14) = 2^-9 sqrt(17)
    assert kept.error == pytest.approx(17**-0.5)


def test_layers_add_up():
    # Squares of errors add up, not errors: 3-4-5
    total = Kept(2, 1, 9.0, 25.0) + Kept(2, 2, 16.0, 75.0)
    assert (total.share, total.error) == (0.75, 0.5)
    assert (Kept().share, Kept().error) == (1.0, 0.0)


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8), st.floats(2.0**-20, 1.0))
def test_float32_keeps_all_and_fewer_digits_never_more(values, size):
    before = torch.tensor(values)
    after = before + size
    assert kept_by(before, after, torch.float32).share == 1.0
    assert kept_by(before, after, torch.float32).error == 0.0
    assert 0.0 <= kept_by(before, after, torch.bfloat16).share <= 1.0


# ------------------------------------------------------------------------------------------------------ the same model


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"bias": "lora_only"},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
    ],
    ids=["plain", "rslora", "dora", "ranks", "bias", "embeddings", "head"],
)
def test_merged_in_float32_is_the_adapted_model(base, tmp_path, overrides):
    expected = logits(adapter(base, tmp_path / "run", **overrides).eval())
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--dtype", "float32") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged), expected, atol=2e-5, rtol=1e-4)
    # The adapter does something, so that a base without it would not pass
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max() > 0.01


def test_of_a_4_bit_base_the_weights_that_training_saw_are_taken(base, tmp_path, capsys):
    expected = logits(adapter(base, tmp_path / "run", quantized=True))
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--dtype", "float32") == 0
    out = capsys.readouterr().out
    assert "4-bit weights that training saw, written out, float32" in out
    assert out.splitlines()[1].endswith("<- taken")
    # Merged, it is nearer to the trained model than the base is without the adapter
    far = float(re.search(r"without the adapter: (\S+) from", out)[1])
    near = float(re.search(r"written out, float32: (\S+) from", out)[1])
    assert far > 1e-3 > 1e-6 > near
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), expected, atol=2e-5, rtol=1e-4
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    # The other base is another model
    assert merge(tmp_path / "run", "--to", tmp_path / "other", "--base", "original", "--dtype", "float32") == 0
    other = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "other"))
    assert (other - expected).abs().max() > 1e-2


def test_the_smaller_divergence_decides(base, tmp_path, monkeypatch):
    from trl_dapo.export import choice

    adapter(base, tmp_path / "run", quantized=True)
    host = choice._measured

    def turned(merged, dtype, asked):
        found = host(merged, dtype, asked)
        better = choice.Agreement(0.0 if merged.base == "original" else 1.0, 1.0, 3)
        return choice.Candidate(found.base, found.dtype, found.kept, found.worst, better)

    monkeypatch.setattr(choice, "_measured", turned)
    source = find_source(str(tmp_path / "run"))
    chosen = choice.choose(source, tiny_tokenizer(), dtype="float32", prompts=PROMPTS)
    assert chosen.taken.base == chosen.merged.base == "original"
    own = logits(load_merged(source, "original", ["float32"], len(tiny_tokenizer())).model.eval())
    torch.testing.assert_close(logits(chosen.merged.model.eval()), own)


def test_small_updates_stay_in_float32_and_large_ones_do_not(base, tmp_path, capsys):
    adapter(base, tmp_path / "small", scale=1e-3)
    merge(tmp_path / "small", "--to", tmp_path / "a", "--prompts", _prompts(tmp_path))
    assert "float32 because bfloat16 would change only" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").dtype == torch.float32
    adapter(base, tmp_path / "large", scale=0.5)
    merge(tmp_path / "large", "--to", tmp_path / "b", "--prompts", _prompts(tmp_path))
    assert "stored as bfloat16" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto").dtype == torch.bfloat16
    # Asked for against the advice, it is done, with a warning and the fix
    merge(tmp_path / "small", "--to", tmp_path / "c", "--dtype", "bfloat16", "--prompts", _prompts(tmp_path))
    out = capsys.readouterr().out
    assert "warning: bfloat16 rounds away" in out
    assert "--dtype float32" in out


def test_a_reward_model_keeps_its_head(tmp_path, capsys):
    base = saved(tmp_path / "base", tiny_reward_model(hidden=64))
    model = adapter(
        base, tmp_path / "run", cls=AutoModelForSequenceClassification, task_type="SEQ_CLS", modules_to_save=["score"]
    )
    with torch.no_grad():
        model.get_base_model().score.modules_to_save["default"].weight.mul_(3.0)
    model.save_pretrained(tmp_path / "run")
    expected = logits(model.eval())
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--dtype", "float32") == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), expected, atol=2e-5, rtol=1e-4)
    told = capsys.readouterr().out
    assert "mean absolute difference of rewards" in told
    assert "of the pairs of 8 prompts are ordered alike" in told
    assert "greedy" not in told


def test_the_folder_is_complete(base, tmp_path):
    adapter(base, tmp_path / "run")
    merge(tmp_path / "run", "--to", tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny_tokenizer().chat_template
    card = (out / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "mean KL divergence" in card
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_merged_model_is_evaluated_like_any_other(base, tmp_path, capsys):
    adapter(base, tmp_path / "run")
    merge(tmp_path / "run", "--to", tmp_path / "out")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "1+2=", "solution": "3"}\n')
    words = ["--model_name_or_path", tmp_path / "out", "--dataset_name", questions, "--scorer", "number", "--k", "2"]
    words += ["--max_new_tokens", "4", "--output_dir", tmp_path / "scores", "--device", "cpu"]
    assert main(["eval", *map(str, words)]) == 0
    assert "avg@2" in capsys.readouterr().out


def test_the_last_checkpoint_stands_for_a_run_without_a_model(base, tmp_path):
    adapter(base, tmp_path / "run" / "checkpoint-2", scale=0.2)
    adapter(base, tmp_path / "run" / "checkpoint-10", scale=0.3)
    assert find_source(str(tmp_path / "run")).folder.name == "checkpoint-10"


# ---------------------------------------------------------------------------------------------------- what is recorded


def test_how_the_base_was_quantized_is_kept_beside_the_adapter(base, tmp_path):
    adapter(base, tmp_path, quantized=True)
    config = recorded_quantization(tmp_path)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    source = find_source(str(tmp_path))
    trained = load_trained(source, len(tiny_tokenizer()))
    assert isinstance(trained, PeftModel)
    assert trained.get_base_model().is_loaded_in_4bit
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match="does not say how the base was quantized"):
        find_source(str(tmp_path))
    (tmp_path / FILE).unlink()
    assert recorded_quantization(tmp_path) is None


# ----------------------------------------------------------------------------------------------------------- bad input


def _prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def refused(capsys, *words):
    """The line that is said where a merge is refused."""
    assert main(["merge", *map(str, words)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_target_with_something_in_it_is_left_alone(base, tmp_path, capsys):
    adapter(base, tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "the folder is not empty" in refused(capsys, tmp_path / "run", "--to", tmp_path / "out")
    assert "there is a file of that name" in refused(capsys, tmp_path / "run", "--to", tmp_path / "out" / "mine.txt")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(base, tmp_path, capsys, monkeypatch):
    adapter(base, tmp_path / "run")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 2**20))
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "out", "--dtype", "float32")
    assert "GiB as float32, and 0.00 GiB are free" in line
    assert "--dtype bfloat16" in line
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "out")
    assert "GiB as bfloat16" in line
    assert "--dtype" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_target_that_cannot_be_written_to_is_said_before_the_models_are_loaded(
    base, tmp_path, capsys, monkeypatch, exists
):
    adapter(base, tmp_path / "run")
    if exists:
        (tmp_path / "locked" / "out").mkdir(parents=True)
    asked = []
    # Root may write everywhere but to a file system that is read-only, so the question is what is tested
    monkeypatch.setattr(folders.os, "access", lambda path, mode: asked.append(str(path)))
    monkeypatch.setattr("trl_dapo.export.choice.load_trained", lambda *args: pytest.fail("loaded"))
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "locked" / "out")
    assert "nothing can be written to" in line
    assert asked[0] == str(tmp_path / "locked") if exists else str(tmp_path)


def test_a_disk_that_fills_while_weights_are_written_is_one_line(base, tmp_path, capsys, monkeypatch):
    adapter(base, tmp_path / "run")

    def fails(self, folder, **kwargs):
        (folder / "half").write_text("x")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fails)
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "new" / "out", "--prompts", _prompts(tmp_path))
    assert "No space left on device" in line
    assert "Nothing was left there" in line
    assert list((tmp_path / "new").iterdir()) == []


# Writes folders in processes that are killed at some moment, and says what each leaves, before and after one that is
# not killed
KILLED = """
import importlib.util, json, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("folder", sys.argv[1])
folder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(folder)
def write(target, moment):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    replace = Path.replace
    def moved(self, to):
        moment == "written" and die()
        replace(self, to)
        moment == "placed" and die()
    Path.replace = moved
    with folder.whole_folder(target) as part:
        moment == "begun" and die()
        (part / "one").write_text("1")
        moment == "half" and die()
        (part / "two").write_text("2")
    os._exit(0)
def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
found = []
for exists in (False, True):
    for moment in ("begun", "half", "written", "placed"):
        place = Path(sys.argv[2]) / f"{moment}-{exists}"
        target = place / "out"
        (target if exists else place).mkdir(parents=True)
        status, left = write(target, moment), files(target)
        again = write(target, "never") if moment != "placed" else 0
        found.append([moment, os.WTERMSIG(status), left, again, files(target), files(place)])
print(json.dumps(found))
"""


def test_a_folder_that_is_killed_at_any_moment_is_whole_or_absent(tmp_path):
    command = [sys.executable, "-c", KILLED, folders.__file__, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 8
    for moment, killed, left, again, files, beside in found:
        assert killed == signal.SIGKILL
        assert left == (["one", "two"] if moment == "placed" else [])
        assert (again, files, beside) == (0, ["one", "two"], ["out"])


@pytest.mark.parametrize(
    "case", ["missing", "whole", "empty", "no_base", "other_base", "packed", "not_packed", "tied"]
)
def test_what_cannot_be_merged(base, tmp_path, capsys, case):
    run = tmp_path / "run"
    words = [run, "--to", tmp_path / "out"]
    if case == "missing":
        expected = "there is no such folder"
    elif case == "whole":
        words[0], expected = base, "there is nothing to merge"
    elif case == "empty":
        run.mkdir()
        expected = "holds no adapter and no checkpoint"
    else:
        adapter(base, run, target_modules=["embed_tokens"] if case == "tied" else "all-linear")
        config = json.loads((run / "adapter_config.json").read_text())
        if case == "no_base":
            config["base_model_name_or_path"] = "nowhere/to-be-found"
            expected = "there is no such model here"
        elif case == "other_base":
            config["base_model_name_or_path"] = saved(tmp_path / "other", tiny_model(tiny_tokenizer(), hidden=32))
            expected = "does not fit the base"
        elif case == "packed":
            packed = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4())
            config["base_model_name_or_path"] = saved(tmp_path / "packed", packed)
            expected = "is saved with quantized weights"
        elif case == "tied":
            tied = tiny_model(tiny_tokenizer(), hidden=64, layers=2, tied=True)
            config["base_model_name_or_path"] = saved(tmp_path / "tied", tied)
            expected = "uses the same weights for its embeddings"
        else:
            words += ["--base", "dequantized"]
            expected = "nothing says that the base was quantized"
        (run / "adapter_config.json").write_text(json.dumps(config))
    line = refused(capsys, *words)
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_prompts_that_cannot_be_read(base, tmp_path, capsys):
    adapter(base, tmp_path / "run")
    words = [tmp_path / "run", "--to", tmp_path / "out", "--prompts"]
    assert "No such file" in refused(capsys, *words, tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    assert "there is no prompt" in refused(capsys, *words, tmp_path / "empty.txt")
    (tmp_path / "bad.jsonl").write_text('{"question": 1}\n')
    assert "no JSON object with `prompt`" in refused(capsys, *words, tmp_path / "bad.jsonl")
    assert "--to" in refused(capsys, tmp_path / "run")


def test_prompts_that_the_tokenizer_cannot_read_are_named():
    with pytest.raises(ValueError, match=r"cannot read the prompt 'five' .*--prompts FILE"):
        encoded(build_tokenizer(), ["1+2=", "five"])


@pytest.mark.parametrize("prompt", ["[]", "3", '{"a": 1}', '[{"role": "user"}]', '[{"content": null}]', "null"])
def test_prompts_of_other_shapes_are_refused(base, tmp_path, capsys, prompt):
    adapter(base, tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": {prompt}}}\n')
    words = [tmp_path / "run", "--to", tmp_path / "out", "--prompts", tmp_path / "rows.jsonl"]
    assert "`prompt` must be text, or messages" in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small_is_said_before_the_models_are_loaded(base, tmp_path, capsys, monkeypatch):
    adapter(base, tmp_path / "run")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 2**20))
    monkeypatch.setattr("trl_dapo.export.choice.load_trained", lambda *args: pytest.fail("loaded"))
    assert "are free" in refused(capsys, tmp_path / "run", "--to", tmp_path / "out")


def test_a_model_without_weights_has_the_size_of_the_model(tmp_path):
    # Tied, so that embeddings and head count once
    tied = tiny_model(tiny_tokenizer(), hidden=64, layers=2, tied=True)
    adapter(saved(tmp_path / "tied", tied), tmp_path / "run")
    empty = without_weights(find_source(str(tmp_path / "run")))
    assert folders.bytes_to_write(empty, torch.float32) == folders.bytes_to_write(tied, torch.float32)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}


def test_a_link_to_an_empty_folder_is_a_target(base, tmp_path):
    adapter(base, tmp_path / "run")
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert merge(tmp_path / "run", "--to", tmp_path / "out") == 0
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model.safetensors").is_file()


def test_a_tokenizer_without_special_tokens_will_do(base, tmp_path):
    adapter(base, tmp_path / "run")
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "chat_template.jinja").unlink()
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--prompts", _prompts(tmp_path)) == 0


@pytest.mark.parametrize(
    ("value", "words", "said"),
    [(1e6, ["--dtype", "float16"], "Store it as bfloat16 or float32"), (float("nan"), [], "its base is broken")],
)
def test_values_that_are_not_finite_are_not_stored(tmp_path, capsys, value, words, said):
    model = tiny_model(tiny_tokenizer(), hidden=64, layers=2)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = value
    adapter(saved(tmp_path / "base", model), tmp_path / "run")
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "out", *words)
    assert "layers.0.mlp.up_proj" in line
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_folders_name_writes_nothing_into_the_card(base, tmp_path):
    evil = tmp_path / "x\n---\nlicense: mit\n# <b>hi"
    shutil.copytree(base, evil)
    adapter(str(evil), tmp_path / "run")
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--prompts", _prompts(tmp_path)) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("\n---\n") == 1
    assert "x_---_license_mit_b_hi" in card


@pytest.mark.parametrize("text", ["{}", '{"load_in_4bit": true, "bnb_4bit_quant_type": "int3"}'])
def test_a_record_that_says_nothing_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match="does not say how the base was quantized"):
        recorded_quantization(tmp_path)


def test_a_pattern_for_embeddings_that_are_also_the_head_is_refused(tmp_path, capsys):
    tied = saved(tmp_path / "tied", tiny_model(tiny_tokenizer(), hidden=64, layers=2, tied=True))
    adapter(tied, tmp_path / "run", target_modules=r".*(embed_tokens|q_proj)")
    line = refused(capsys, tmp_path / "run", "--to", tmp_path / "out")
    assert "uses the same weights for its embeddings" in line
    adapter(tied, tmp_path / "other", target_modules=r".*(k_proj|q_proj)")
    assert merge(tmp_path / "other", "--to", tmp_path / "out", "--prompts", _prompts(tmp_path)) == 0


def test_dropout_of_the_adapter_is_off(base, tmp_path):
    # A 4-bit base stays in train mode
    adapter(base, tmp_path / "run", quantized=True, lora_dropout=0.5)
    source = find_source(str(tmp_path / "run"))
    trained = load_trained(source, len(tiny_tokenizer()))
    assert trained.training
    merged = load_merged(source, "dequantized", ["float32"], len(tiny_tokenizer()), trained)
    torch.testing.assert_close(logits(merged.model), logits(trained), atol=2e-5, rtol=1e-4)


def test_what_a_killed_merge_has_left_is_cleared_away(base, tmp_path):
    adapter(base, tmp_path / "run")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "half").write_text("x")
    assert merge(tmp_path / "run", "--to", tmp_path / "out", "--prompts", _prompts(tmp_path)) == 0
    assert not (tmp_path / ".out.part").exists()
    assert not (tmp_path / "out" / "half").exists()


def test_the_record_counts_before_what_is_assumed(base, tmp_path):
    adapter(base, tmp_path / "run", quantized=True)
    (tmp_path / "run" / FILE).write_text('{"load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}')
    assert find_source(str(tmp_path / "run"), nf4()).quantization.bnb_4bit_quant_type == "fp4"


def test_greedy_tokens_are_the_likeliest_where_they_are_compared(base, tmp_path):
    # What is compared at a place is the prediction of the token after it, which was chosen greedily
    adapter(base, tmp_path / "run")
    trained = load_trained(find_source(str(tmp_path / "run")), len(tiny_tokenizer()))
    asked = ask(trained, tiny_tokenizer(), PROMPTS, new_tokens=4)
    chosen = asked.input_ids[:, 1:][asked.completion_mask[:, :-1]]
    assert torch.equal(asked.outputs.argmax(dim=-1), chosen)
    assert int(asked.completion_mask[:, -1].sum()) == 0


def test_special_tokens_are_written_once():
    # A tokenizer that begins each text with a token, as Llama's does; its template writes that token itself
    tokenizer = tiny_tokenizer()
    first = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)]
    )
    assert tokenizer("1")["input_ids"][0] == first
    rows = encoded(tokenizer, ["1+2=", "five"])["input_ids"].tolist()
    asked = [{"role": "user", "content": "1+2="}]
    written = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert rows[0] == written
    assert rows[0][:2] != [first, first]
    tokenizer.chat_template = None
    (row,) = encoded(tokenizer, ["1"])["input_ids"].tolist()
    assert row[0] == first
    assert len(row) == 2


@pytest.mark.parametrize(("ends", "counted"), [(9, 3), ([8, 9], 2), (None, 5)])
def test_a_model_is_compared_up_to_its_end_token(ends, counted):
    # It answers 5 8 9 0 0: up to the first end token, that one included
    class Model:
        device = "cpu"
        generation_config = SimpleNamespace(eos_token_id=ends)

        def generate(self, input_ids, **kwargs):
            return torch.cat([input_ids, torch.tensor([[5, 8, 9, 0, 0]])], dim=1)

        def __call__(self, input_ids, **kwargs):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 120))

    asked = ask(Model(), tiny_tokenizer(), ["1+2="])
    length = asked.input_ids.size(1) - 5
    assert asked.completion_mask.nonzero()[:, 1].tolist() == [length - 1 + place for place in range(counted)]
    assert len(asked.outputs) == counted
    assert asked.attention_mask[0, length:].tolist() == [1] * counted + [0] * (5 - counted)
