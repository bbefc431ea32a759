"""`trl-dapo eval`: what it prints and writes, how it goes on, and what it says of mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from evaluations import LastNumber
from preferences import nf4
from stand_in_vllm import LLM, install
from tiny import save_tiny_model, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo.arena import load_warm_start
from trl_dapo.cli import eval as command
from trl_dapo.cli import eval_run, questions
from trl_dapo.cli.eval import parse
from trl_dapo.cli.eval_run import load
from trl_dapo.cli.main import main
from trl_dapo.evaluation.display import shown, table
from trl_dapo.evaluation.intervals import ONE_QUESTION
from trl_dapo.evaluation.results import file_name, read_samples
from trl_dapo.qlora.recorded import record_quantization


HERE = Path(__file__).parent
SMALL = ["--k", "2", "--size", "6"]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(workspace):
    return save_tiny_model(workspace / "policy", tiny_tokenizer())


@pytest.fixture
def problems(monkeypatch):
    """A stand-in for the loader: three questions, asked in the scorer's format."""
    asked = []

    def load_problems(name, **fields):
        asked.append((name, fields))
        if name == "unknown":
            raise ValueError("dataset_name=unknown is no problem set.")
        size = fields["size"] or 3
        rows = [
            {
                "prompt": [{"role": "user", "content": f"{n}? {fields['answer_format']}"}],
                "solution": str(n),
                "question_id": f"q{n}",
            }
            for n in range(0 if name == "empty" else size)
        ]
        return Dataset.from_list(rows)

    monkeypatch.setattr(questions, "load_problems", load_problems)
    return asked


def ran(capfd, *words):
    """Exit code, standard output, and the lines of standard error that the command writes itself."""
    code = main(["eval", *map(str, words)])
    out, err = capfd.readouterr()
    return code, out, [line for line in err.splitlines() if "gemm_4bit" not in line]


def refused(capfd, *words):
    code, out, err = ran(capfd, *words)
    assert (code, out) == (2, "")
    assert err[-1].startswith("trl-dapo: error: ")
    return err[-1].removeprefix("trl-dapo: error: ")


def test_without_a_model_the_built_in_task_is_evaluated(capfd):
    code, out, err = ran(capfd, *SMALL)
    assert code == 0
    assert all(word in out for word in ("avg@2", "pass@2", "arena"))
    assert "runs/eval/arena/results.json" in out
    assert err[0] == "arena: 0 of 12 samples"
    assert err[1].startswith("arena: 12 of 12 samples, ")
    content = json.loads(Path("runs/eval/arena/results.json").read_text())
    assert content["settings"]["max_new_tokens"] == 40
    assert content["settings"]["scorers"] == {"arena": "arena_accuracy"}
    assert content["data_sets"]["arena"]["samples"] == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("foo: 1", "foo in the config file is no option of eval."),
        ("k: [2, 3]", "k=[2, 3] in the config file must be one value."),
        ("use_vllm: 1", "use_vllm=1 in the config file must be true or false."),
        ("k: -2", "--k=-2: a number of at least 1 is needed."),
    ],
)
def test_mistakes_in_a_file_are_one_line(capfd, line, message):
    Path("eval.yaml").write_text(line)
    assert message in refused(capfd, "--config", "eval.yaml")


def test_the_same_command_again_prints_the_same_without_a_model(capfd, monkeypatch):
    first = ran(capfd, *SMALL)
    monkeypatch.setattr(eval_run, "TransformersSampler", None)
    again = ran(capfd, *SMALL)
    assert again[:2] == first[:2]


def test_a_model_that_was_trained_on_the_built_in_task_is_evaluated_on_it(capfd):
    model, tokenizer = load_warm_start()
    model.save_pretrained("trained")
    tokenizer.save_pretrained("trained")
    code, _, _ = ran(capfd, *SMALL, "--model_name_or_path", "trained", "--dataset_name", "arena")
    assert (code, ran(capfd, *SMALL)[0]) == (0, 0)
    found = [Path(f"runs/eval/{name}/samples/arena.jsonl").read_text() for name in ("trained", "arena")]
    assert found[0] == found[1]


def test_json_is_the_results_file(capfd):
    code, out, _ = ran(capfd, *SMALL, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(Path("runs/eval/arena/results.json").read_text())


def test_json_stands_alone_whatever_a_reward_function_prints(capfd, workspace, monkeypatch, model, problems):
    Path("chatty.py").write_text(
        "def score(completions, **more):\n    print('hello')\n    return [1.0] * len(completions)"
    )
    monkeypatch.syspath_prepend(str(workspace))
    words = ["--model_name_or_path", model, "--dataset_name", "a", "--k", "1", "--max_new_tokens", "2"]
    code, out, err = ran(capfd, *words, "--scorer", "chatty.score", "--json")
    assert code == 0
    assert json.loads(out)["data_sets"]["a"]["metrics"]["avg@1"]["value"] == 1.0
    assert "hello" in err


def test_several_data_sets_each_in_its_scorers_format(capfd, model, problems):
    words = ["--model_name_or_path", model, "--dataset_name", "aime-2024", "b/c", "--scorer", "dapo_math", "number"]
    more = ["--split", "dev", "--answer_column", "a.b", "--prompt_column", "p", "--max_new_tokens", "5"]
    code, out, _ = ran(capfd, *words, *more, "--k", "3", "--size", "2", "--output_dir", "out")
    assert code == 0
    assert [name for name, _ in problems] == ["aime-2024", "b/c"]
    fields = problems[0][1]
    assert (fields["split"], fields["answer_column"], fields["prompt_column"]) == ("dev", "a.b", "p")
    assert "Answer:" in fields["answer_format"]
    assert problems[1][1]["answer_format"] != fields["answer_format"]
    content = json.loads(Path("out/results.json").read_text())
    assert content["settings"]["scorers"] == {"aime-2024": "dapo_math", "b/c": "number"}
    assert list(content["data_sets"]) == ["aime-2024", "b/c"]
    other = f"{file_name('b/c')}.jsonl"
    assert other.startswith("b_c-")
    assert {path.name for path in Path("out/samples").iterdir()} == {"aime-2024.jsonl", other}
    assert "maj@3" in out
    assert len(read_samples(Path("out/samples") / other)) == 6


def test_the_scorer_is_the_papers_but_for_tasks_that_score_themselves():
    assert list(map(questions.default_scorer, ("gsm8k", "x.jsonl"))) == ["dapo_math"] * 2
    assert questions.default_scorer("arena") == "arena_accuracy"
    for name in ("reasoning-gym:chain_sum", "countdown"):
        assert questions.default_scorer(name) == "reasoning_gym"


def test_scorers_are_found_by_name_by_dotted_path_and_among_trls(workspace):
    (workspace / "my_scorers.py").write_text(
        "def mine(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    assert questions.scorer_of("number").__name__ == "number"
    assert questions.scorer_of("accuracy_reward").__name__ == "accuracy_reward"
    assert questions.scorer_of("my_scorers.mine").__name__ == "mine"


def test_options_may_stand_in_a_file_and_flags_win(capfd, model, problems):
    Path("eval.yaml").write_text(
        f"model_name_or_path: {model}\ndataset_name: [a, b]\nk: 4\nmax_new_tokens: 3\n"
        "json: true\nload_in_4bit: false\nchat_template_kwargs: {enable_thinking: false}\n"
    )
    code, out, _ = ran(capfd, "--config", "eval.yaml", "--k", "2")
    settings = json.loads(out)["settings"]
    assert code == 0
    assert (settings["k"], settings["max_new_tokens"], list(settings["data_sets"])) == (2, 3, ["a", "b"])
    assert settings["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("words", "quantized", "told"),
    [([], True, True), (["--load_in_4bit"], True, False), (["--no_load_in_4bit"], False, False)],
)
def test_the_base_of_an_adapter_is_in_4_bits_where_it_was_in_training(capfd, problems, words, quantized, told):
    base = save_tiny_model("wide", tiny_tokenizer(), hidden=64)
    quantized_base = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4())
    get_peft_model(quantized_base, tiny_lora()).save_pretrained("adapter")
    record_quantization(Path("adapter"), quantized_base)
    asked = ["--model_name_or_path", "adapter", "--dataset_name", "a", "--k", "1", "--max_new_tokens", "2", "--json"]
    code, out, err = ran(capfd, *asked, "--scorer", "number", *words)
    assert (code, json.loads(out)["settings"]["load_in_4bit"]) == (0, quantized)
    assert any("loaded in 4 bits, as in training; --no_load_in_4bit" in line for line in err) == told
    if not words:
        # In a file, false is `--no_load_in_4bit`: another setting, so not the same evaluation
        Path("eval.yaml").write_text("load_in_4bit: false\n")
        assert "load_in_4bit" in refused(capfd, *asked, "--scorer", "number", "--config", "eval.yaml")


def test_vllm_generates_for_the_command(capfd, model, problems, monkeypatch):
    install(monkeypatch)
    words = ["--model_name_or_path", model, "--dataset_name", "a", "--k", "4", "--max_new_tokens", "30", "--use_vllm"]
    code, out, _ = ran(capfd, *words, "--vllm_kwargs", '{"tensor_parallel_size": 2}', "--scorer", "number", "--json")
    content = json.loads(out)
    assert (code, content["settings"]["backend"], content["settings"]["batch_size"]) == (0, "vllm", 1024)
    assert (LLM.made["tensor_parallel_size"], LLM.made["dtype"]) == (2, "auto")
    samples = read_samples(Path("runs/eval/policy/samples/a.jsonl"))
    assert len({one.seed for one in samples}) == len(samples) == 12
    # The stand-in answers with its seed, and cuts odd ones off
    assert all(one.completion == str(one.seed) for one in samples)
    assert all(one.truncated == (one.seed % 2 == 1) for one in samples)


def test_the_limit_gives_way_to_a_short_context(capfd, workspace, problems):
    tokenizer = tiny_tokenizer()
    short = tiny_model(tokenizer)
    short.config.max_position_embeddings = 400
    short.save_pretrained("short")
    tokenizer.save_pretrained("short")
    words = ["--model_name_or_path", "short", "--dataset_name", "a", "--k", "1", "--scorer", "number"]
    message = refused(capfd, *words, "--max_new_tokens", "390")
    longest = int(message.split(" has ")[1].split()[0])
    assert message.endswith(f"the model's context holds 400. Set --max_new_tokens to at most {400 - longest}.")
    _, _, err = ran(capfd, *words)
    assert err[0] == f"max_new_tokens is {400 - longest}: the longest prompt of a has {longest} tokens, and the " + (
        "model's context holds 400."
    )


def test_many_truncated_completions_are_pointed_at(capfd, model, problems):
    _, _, err = ran(capfd, "--model_name_or_path", model, "--dataset_name", "a", "--max_new_tokens", "2", "--k", "8")
    assert err[-1].endswith("so accuracy is that of the limit too. Raise --max_new_tokens.")


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "--k=0: a number of at least 1 is needed."),
        (["--k", "two"], "argument --k: invalid int value: 'two'. See `trl-dapo eval --help`."),
        (["--top_p", "0"], "--top_p=0: a share above 0, at most 1, is needed. 1 samples all tokens."),
        (["--top_p", "nan"], "--top_p=nan: a share above 0"),
        (["--temperature", "-1"], "--temperature=-1: a finite number of at least 0 is needed."),
        (["--temperature", "0"], "--temperature=0 gives the same completion 32 times."),
        (["--max_new_tokens", "0"], "--max_new_tokens=0"),
        (["--batch_size", "0"], "--batch_size=0"),
        (["--size", "0"], "--size=0"),
        (["--seed", "-1"], "--seed=-1"),
        (["--model_name_or_path", "x"], "--dataset_name is missing: --model_name_or_path is given alone."),
        (["--dataset_name", "x"], "--model_name_or_path is missing: --dataset_name is given alone."),
        (["--use_vllm"], "--use_vllm has no effect on the built-in model."),
        (["--load_in_4bit"], "--load_in_4bit has no effect on the built-in model."),
        (["--modle", "x"], "unrecognized arguments: --modle x"),
        (["--chat_template_kwargs", "[1]"], "argument --chat_template_kwargs: '[1]' is not a mapping."),
        (["--vllm_kwargs", "{"], "argument --vllm_kwargs: '{' is not valid JSON"),
        (["--scorer", "dapo_maths"], "scorer: 'dapo_maths' is unknown. Did you mean 'dapo_math'?"),
        (["--scorer", "a.b"], "reward_funcs: 'a.b' cannot be imported"),
        (["--config", "none.yaml"], "--config none.yaml: No such file"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(capfd, workspace, words, message):
    assert message in refused(capfd, *words)
    assert not list(workspace.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_name", "unknown"], "dataset_name=unknown is no problem set."),
        (["--dataset_name", "empty"], "the data set empty has no rows."),
        (["--dataset_name", "a", "a"], "--dataset_name names a twice."),
        (["--dataset_name", "a", "--scorer", "number", "exact"], "--scorer names 2 scorers for 1 data sets."),
        (["--dataset_name", "a", "--use_vllm"], "use_vllm=True needs vLLM, which is not installed"),
        (["--dataset_name", "a", "--use_vllm", "--load_in_4bit"], "vLLM quantizes by itself"),
        (["--dataset_name", "a", "--device", "toaster"], "device=toaster: this machine has no such device."),
    ],
)
def test_mistakes_about_data_sets_are_one_line(capfd, model, problems, words, message):
    assert message in refused(capfd, "--model_name_or_path", model, *words, "--k", "1")


def write_rows(name, rows):
    Path(name).write_text("\n".join(map(json.dumps, rows)))
    return name


TEXT = [{"prompt": "1+1?", "answer": "2"}]


def test_of_several_data_sets_the_one_at_fault_is_named(capfd, model):
    names = [write_rows("good.jsonl", TEXT), write_rows("bad.jsonl", [{"prompt": "1+1?"}])]
    line = refused(capfd, "--model_name_or_path", model, "--dataset_name", *names, "--k", "1")
    assert "dataset_name=bad.jsonl: answer_column is missing" in line


def test_a_model_without_a_chat_template_is_asked_with_prompts_that_are_text(capfd, workspace):
    base = save_tiny_model(workspace / "base", tiny_tokenizer(chat=False))
    words = ["--model_name_or_path", base, "--k", "1", "--max_new_tokens", "2", "--dataset_name"]
    assert ran(capfd, *words, write_rows("text.jsonl", TEXT))[0] == 0
    other = write_rows("questions.jsonl", [{"question": "1+1?", "answer": "2"}])
    assert "no chat template" in refused(capfd, *words, other, "--output_dir", "other")


def test_prompts_that_are_text_stay_text_as_in_training_and_a_line_says_so(capfd, model):
    words = ["--model_name_or_path", model, "--k", "1", "--max_new_tokens", "2"]
    code, _, err = ran(capfd, *words, "--dataset_name", write_rows("text.jsonl", TEXT))
    assert code == 0
    assert any("The prompts of text.jsonl are text" in line and "chat template" in line for line in err), err


def test_a_reward_function_that_reads_messages_is_refused_for_prompts_that_are_text(capfd, model):
    words = ["--model_name_or_path", model, "--dataset_name", write_rows("text.jsonl", TEXT)]
    line = refused(capfd, *words, "--scorer", "accuracy_reward")
    assert "text.jsonl: its prompts are text, and accuracy_reward of TRL reads messages. Take a scorer" in line


def test_questions_are_asked_with_the_template_of_training(model):
    template = ["--prompt_template", "Q: {question} Answer: ..."]
    name = write_rows("text.jsonl", TEXT)
    options = parse(["--model_name_or_path", model, "--dataset_name", name, *template])
    assert load(options)[0].rows[0]["prompt"] == "Q: 1+1? Answer: ..."


def test_a_scorer_whose_library_is_missing_is_refused_before_anything_is_drawn(capfd, model, problems, monkeypatch):
    monkeypatch.setitem(questions.PACKAGES, "math_verify", ("no_such_library", "math"))
    line = refused(capfd, "--model_name_or_path", model, "--dataset_name", "a", "--scorer", "math_verify")
    assert "math_verify needs a package: pip install 'trl-dapo[math]'" in line


def test_models_that_are_not_there_are_one_line(capfd, workspace, model, problems):
    words = ["--dataset_name", "a", "--k", "1", "--model_name_or_path"]
    assert "there is no such folder" in refused(capfd, *words, "./nowhere")
    Path("policy/adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "gone"}')
    Path("policy/model.safetensors").unlink()
    assert "was trained on the base 'gone', and there is no such model here" in refused(capfd, *words, "policy")
    shutil.rmtree("policy")
    Path("policy").mkdir()
    assert "the folder has no config.json or adapter_config.json" in refused(capfd, *words, "policy")


@pytest.mark.parametrize("words", [["--k", "3"], ["--seed", "1"], ["--top_p", "1"], ["--size", "7"]], ids=" ".join)
def test_results_of_other_settings_are_not_overwritten(capfd, words):
    assert ran(capfd, *SMALL)[0] == 0
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.json*")}
    message = refused(capfd, *SMALL, *words)
    assert message.startswith("output_dir=runs/eval/arena holds results of ")
    assert message.endswith("Name another folder.")
    assert {path: path.read_bytes() for path in Path("runs").rglob("*.json*")} == before


def test_results_of_another_model_in_the_same_place_are_not_overwritten(capfd, model, problems):
    words = ["--model_name_or_path", model, "--dataset_name", "a", "--k", "1", "--max_new_tokens", "2"]
    assert ran(capfd, *words)[0] == 0
    save_tiny_model(model, tiny_tokenizer(), seed=1)
    assert "holds results of model_fingerprint=" in refused(capfd, *words)


def test_an_output_folder_that_is_a_file_is_one_line(capfd, workspace):
    Path("file").write_text("")
    assert "file, not a folder" in refused(capfd, *SMALL, "--output_dir", "file")


def test_a_scorer_that_raises_is_one_line_and_the_command_goes_on(capfd, workspace, monkeypatch, model, problems):
    scorer = LastNumber()
    broken = type("Broken", (LastNumber,), {"judge": lambda *_, **__: 1 / 0})()
    monkeypatch.setattr(eval_run, "scorer_of", lambda name: broken)
    words = ["--model_name_or_path", model, "--dataset_name", "a", "--k", "2", "--max_new_tokens", "2"]
    message = refused(capfd, *words)
    assert message == "the scorer last_number raised ZeroDivisionError on question 'q0', sample 0: division by zero"
    monkeypatch.setattr(eval_run, "scorer_of", lambda name: scorer)
    monkeypatch.setattr(eval_run.TransformersSampler, "sample", None)
    assert ran(capfd, *words)[0] == 0


def test_ctrl_c_says_how_to_go_on(workspace):
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = ["eval", "--k", "64", "--batch_size", "8", "--top_p", "1"]
    code = f"import sys; from trl_dapo.cli.main import main; sys.exit(main({words!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    while not process.stderr.readline().startswith("arena: 0 of 16384"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == (
        "Stopped. What was sampled is in runs/eval/arena; the same command goes on from there."
    )
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------------------ display


def metric(value, interval=(0.1, 0.9), **more):
    return {"value": value, "interval": None if interval is None else list(interval), **more}


def summary(**metrics):
    return {"questions": 3, "samples": 6, "metrics": {"avg@2": metric(0.5), "pass@2": metric(0.75), **metrics}}


def rendered(scores):
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(scores))
    return console.export_text()


def test_the_table_has_intervals_and_names_as_they_are():
    text = rendered({"[red]a[/red]": summary(mean_length=metric(1234.5, (1000.0, 1500.0)))})
    assert "[red]a[/red]" in text
    assert all(words in text for words in ("50.0 %", "10.0 to 90.0", "1234", "1000 to 1500"))


def test_a_score_without_an_interval_says_why():
    scores = {"a": summary(**{"avg@2": metric(1.0, None, no_interval=ONE_QUESTION)})}
    text = " ".join(rendered(scores).split())
    assert "100.0 %" in text
    assert f"no interval: {ONE_QUESTION}" in text


def test_a_terminal_gets_a_bar_with_the_time_left():
    from io import StringIO

    from rich.console import Console

    file = StringIO()
    with shown(Console(file=file, force_terminal=True, width=120)) as tell:
        for done in (0, 5, 10):
            tell("[bold]a", done, 10, 0.25)
    assert "[bold]a" in file.getvalue()
    assert "10/10" in file.getvalue()
    assert "25.0% right" in file.getvalue()


def test_elsewhere_lines_tell_the_time_left(monkeypatch):
    from io import StringIO

    from rich.console import Console

    clock = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr("trl_dapo.evaluation.display.time.monotonic", lambda: next(clock))
    file = StringIO()
    with shown(Console(file=file, width=120)) as tell:
        for done in (100, 200, 300, 1000):
            tell("a", done, 1000, 0.25)
    # Two seconds are too few for a line at 10 s; after 20 s, 200 samples were drawn: 700 more take 70 s
    assert file.getvalue().splitlines() == [
        "a: 100 of 1000 samples, 25.0% right",
        "a: 300 of 1000 samples, 25.0% right, 1 min 10 s left",
        "a: 1000 of 1000 samples, 25.0% right",
    ]


def test_help_starts_without_torch():
    code = (
        "import sys\nfrom trl_dapo.cli.main import main\n"
        "try:\n    main(['eval', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_papers_protocol_is_the_default_here_too():
    from trl_dapo.evaluation.settings import TEMPERATURE, TOP_P, K

    options = command.parse([])
    assert (options.k, options.temperature, options.top_p) == (K, TEMPERATURE, TOP_P)
