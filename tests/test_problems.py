"""Data sets by name: rows of the Hub's schemas become prompts with solutions, and every flaw is one line."""

import doctest
import gzip
import json
import pickle
from pathlib import Path

import pytest
from datasets import Dataset, IterableDataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from test_arena_docstrings import FencedParser
from trl_dapo.evaluation.scorers import SCORERS, get_scorer
from trl_dapo.problems import PROBLEM_SETS, load_problems
from trl_dapo.problems.answers import MISSING, answer_text, column_of, leaves, look_up
from trl_dapo.problems.catalogue import CATALOGUE, COUNTDOWN_TEST, COUNTDOWN_TRAIN, nearest_name
from trl_dapo.problems.gym import TEST_SEED, is_installed
from trl_dapo.problems.load import read_problems
from trl_dapo.problems.prompts import WRAPPER, PromptStyle, bare_problem, styled
from trl_dapo.problems.repeats import first_of_each
from trl_dapo.problems.rows import numbered_apart


BOXED, LINE = get_scorer("boxed").answer_format, get_scorer("dapo_math").answer_format
needs_gym = pytest.mark.skipif(not is_installed(), reason="reasoning-gym, the extra `gym`, is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of Parquet files with the schemas of the real ones; returns what is asked of it."""
    files, asked = {}, []

    def rows(hub_id, config, split, streaming):
        asked.append((hub_id, config, split))
        return load_dataset("parquet", data_files={split: files[hub_id]}, split=split, streaming=streaming)

    def add(hub_id, made):
        files[hub_id] = str(tmp_path / f"{len(files)}.parquet")
        Dataset.from_list(made).to_parquet(files[hub_id])
        return asked

    monkeypatch.setattr("trl_dapo.problems.sources.hub_rows", rows)
    return add


def dapo_math(problems: list[tuple[str, str]], copies: int = 100) -> list[dict]:
    """Rows as in BytedTsinghua-SIA/DAPO-Math-17k: the whole list, again and again."""
    return [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": question.join(WRAPPER), "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"id-{place}"},
        }
        for _ in range(copies)
        for place, (question, answer) in enumerate(problems)
    ]


PROBLEMS = [("In triangle $ABC$, find $x$.", "34"), ("Combien vaut $\\frac{é}{2}$ ?", "-7"), ("求 $n$ 的值。", "113")]


# ------------------------------------------------------------------------------------------------------- the catalogue


def test_dapo_math_is_deduplicated_in_the_order_of_its_rows_and_keeps_its_own_instruction(hub):
    asked = hub("BytedTsinghua-SIA/DAPO-Math-17k", dapo_math(PROBLEMS))
    problems = load_problems("dapo-math-17k", answer_format=LINE)
    assert asked == [("BytedTsinghua-SIA/DAPO-Math-17k", None, "train")]
    assert problems.column_names == ["prompt", "solution", "question_id"]
    assert list(problems["solution"]) == ["34", "-7", "113"]
    assert list(problems["question_id"]) == ["id-0", "id-1", "id-2"]
    assert [prompt[0]["content"] for prompt in problems["prompt"]] == [q.join(WRAPPER) for q, _ in PROBLEMS]


@pytest.mark.parametrize(
    "answer_format", [BOXED, get_scorer("number").answer_format, get_scorer("exact").answer_format]
)
def test_dapo_math_is_taken_out_of_its_instruction_for_a_scorer_that_reads_another_format(hub, answer_format):
    hub("BytedTsinghua-SIA/DAPO-Math-17k", dapo_math(PROBLEMS, copies=2))
    problems = load_problems("dapo-math-17k", answer_format=answer_format)
    assert [prompt[0]["content"] for prompt in problems["prompt"]] == [f"{q}\n\n{answer_format}" for q, _ in PROBLEMS]


def test_dapo_math_says_how_many_problems_are_in_how_many_rows(hub, caplog):
    hub("BytedTsinghua-SIA/DAPO-Math-17k", dapo_math(PROBLEMS))
    load_problems("dapo-math-17k")
    assert [record.getMessage() for record in caplog.records if "dapo-math" in record.getMessage()] == [
        "dapo-math-17k: 3 different problems in 300 rows; each is taken once"
    ]


def test_the_same_problem_under_two_indices_is_taken_once(hub):
    hub("BytedTsinghua-SIA/DAPO-Math-17k", dapo_math([PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]], copies=5))
    assert list(load_problems("dapo-math-17k")["question_id"]) == ["id-0", "id-1"]


def test_the_same_index_is_a_copy_whatever_its_text():
    rows = [{"question": text, "extra": {"index": index}} for text, index in [("a", "1"), ("a ", "1"), ("b", "2")]]
    assert list(first_of_each(Dataset.from_list(rows), "question", "extra.index")["question"]) == ["a", "b"]


def test_without_an_index_the_text_tells_copies(hub):
    rows = [{**row, "extra_info": {"index": None}} for row in dapo_math(PROBLEMS, copies=4)]
    hub("BytedTsinghua-SIA/DAPO-Math-17k", rows)
    problems = load_problems("dapo-math-17k")
    assert list(problems["solution"]) == ["34", "-7", "113"]
    assert len(set(problems["question_id"])) == 3


def test_a_stream_is_deduplicated_in_each_of_its_epochs(hub):
    hub("BytedTsinghua-SIA/DAPO-Math-17k", dapo_math(PROBLEMS, copies=3))
    stream = read_problems("dapo-math-17k", "train", None, None, PromptStyle(BOXED), streaming=True).rows
    assert isinstance(stream, IterableDataset)
    for _ in range(2):
        assert [row["solution"] for row in stream] == ["34", "-7", "113"]


def test_gsm8k_has_the_number_behind_the_hashes_without_its_comma(hub):
    asked = hub(
        "openai/gsm8k",
        [
            {"question": "How many?", "answer": "It is 1,200 + 34 = <<1200+34=1234>>1,234.\n#### 1,234"},
            {"question": "How much?", "answer": "Nothing.\n#### -5"},
        ],
    )
    problems = load_problems("gsm8k", answer_format=BOXED)
    # An evaluation set is what one gets without saying which
    assert asked == [("openai/gsm8k", "main", "test")]
    assert list(problems["solution"]) == ["1234", "-5"]
    assert problems[0]["prompt"] == [{"role": "user", "content": f"How many?\n\n{BOXED}"}]
    load_problems("gsm8k", split="train")
    assert asked[-1] == ("openai/gsm8k", "main", "train")


@pytest.mark.parametrize(
    ("name", "hub_id", "split", "row", "solution", "question_id"),
    [
        (
            "math-500",
            "HuggingFaceH4/MATH-500",
            "test",
            {
                "problem": "Find it.",
                "solution": "So \\boxed{\\frac{1}{2}}",
                "answer": "\\frac{1}{2}",
                "unique_id": "test/1",
            },
            "\\frac{1}{2}",
            "test/1",
        ),
        (
            "aime-2024",
            "HuggingFaceH4/aime_2024",
            "train",
            {"id": 60, "problem": "Find it.", "solution": "Long.", "answer": "073", "url": "u", "year": "2024"},
            "073",
            "60",
        ),
        ("aime-2025", "math-ai/aime25", "test", {"problem": "Find it.", "answer": "70", "id": "0"}, "70", "0"),
    ],
)
def test_the_answer_is_taken_and_not_the_worked_solution(hub, name, hub_id, split, row, solution, question_id):
    asked = hub(hub_id, [row])
    problems = load_problems(name)
    assert asked == [(hub_id, None, split)]
    assert problems[0] == {
        "prompt": [{"role": "user", "content": "Find it."}],
        "solution": solution,
        "question_id": question_id,
    }


def test_countdown_has_an_entry_that_reasoning_gym_scores_and_no_single_solution(hub):
    hub("Jiayi-Pan/Countdown-Tasks-3to4", [{"target": 98, "nums": [44, 19, 35]}, {"target": 64, "nums": [63, 95, 96]}])
    problems = load_problems("countdown", split="train")
    assert list(problems["solution"]) == ["", ""]
    assert "44, 19, 35" in problems[0]["prompt"][0]["content"]
    assert json.loads(problems[0]["entry"])["metadata"] == {
        "source_dataset": "countdown",
        "numbers": [44, 19, 35],
        "target": 98,
    }


@needs_gym
def test_an_entry_of_countdown_is_scored(hub):
    from reasoning_gym import get_score_answer_fn

    hub("Jiayi-Pan/Countdown-Tasks-3to4", [{"target": 98, "nums": [44, 19, 35]}])
    entry = json.loads(load_problems("countdown", split="train")[0]["entry"])
    score = get_score_answer_fn("countdown")
    assert score("44 + 19 + 35", entry) == 1.0
    assert score("98", entry) < 0.1


def test_the_parts_of_countdown_do_not_overlap():
    train, test = (CATALOGUE["countdown"].splits[name] for name in ("train", "test"))
    assert (train.start, train.stop) == (0, COUNTDOWN_TRAIN)
    assert (test.start, test.stop) == (COUNTDOWN_TRAIN, COUNTDOWN_TRAIN + COUNTDOWN_TEST)


def test_every_name_is_listed_once():
    assert len(set(PROBLEM_SETS)) == len(PROBLEM_SETS)
    assert {"dapo-math-17k", "gsm8k", "math-500", "aime-2024", "aime-2025", "countdown"} < set(PROBLEM_SETS)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gsm8", "gsm8k"),
        ("GSM8K", "gsm8k"),
        ("gsm-8k", "gsm8k"),
        ("math500", "math-500"),
        ("aime2024", "aime-2024"),
        ("AIME_2025", "aime-2025"),
        ("dapo-math", "dapo-math-17k"),
        ("DAPO_Math_17k", "dapo-math-17k"),
        ("reasoning_gym:chain_sum", "reasoning-gym:<task>"),
        ("imdb", None),
        ("openai/gsm8k", None),
        ("squad", None),
        ("gsm8k", None),
    ],
)
def test_a_misspelt_name_leads_to_the_name(name, near):
    assert nearest_name(name) == near


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("gsm8k", {}, ["gsm8k cannot be loaded", "openai/gsm8k (main)", "Connect to the network"]),
        ("gsm8", {}, ["gsm8 cannot be loaded", "Did you mean gsm8k?"]),
        ("org/none", {}, ["org/none cannot be loaded"]),
        ("no.jsonl", {}, ["no.jsonl cannot be loaded", "no such file"]),
        ("./no", {}, ["./no cannot be loaded", "no such file or folder"]),
        ("gsm8k", {"split": "dev"}, ["split=dev", "train, test"]),
        ("aime-2024", {"split": "train"}, ["split=train", "it has test", "evaluate"]),
        ("gsm8k", {"size": 0}, ["size=0", "at least 1"]),
        ("gsm8k", {"size": True}, ["size=True"]),
        ("gsm8k", {"seed": -1}, ["seed=-1", "at least 0"]),
        ("gsm8k", {"prompt_template": "Q"}, ["prompt_template='Q'", "{question}"]),
    ],
)
def test_what_cannot_be_loaded_is_one_line(monkeypatch, name, options, parts):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_problems(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line


# ------------------------------------------------------------------------------------------------------- reasoning-gym


@needs_gym
def test_reasoning_gym_makes_the_same_problems_again_with_entries():
    name = "reasoning-gym:chain_sum?min_terms=2&max_terms=2"
    problems = load_problems(name, split="train", size=5)
    assert problems.column_names == ["prompt", "solution", "question_id", "entry"]
    assert len(problems) == 5
    entry = json.loads(problems[0]["entry"])
    assert entry["metadata"]["num_terms"] == 2
    assert (
        str(sum(map(int, entry["metadata"]["expression"].replace("- ", "+ -").split("+")))) == problems[0]["solution"]
    )
    assert problems.to_list() == load_problems(name, split="train", size=5).to_list()
    assert problems.to_list() != load_problems(name, split="train", size=5, seed=9).to_list()
    assert problems.to_list() == load_problems(f"{name}&seed=0", split="train", size=5, seed=9).to_list()


@needs_gym
def test_reasoning_gym_tests_on_items_that_no_training_seed_near_by_gives():
    # Item i of seed s is drawn with s + i: the test items of seed 0 would be training items of seed 10
    sizes = {"train": 40, "test": 40}
    drawn = {
        split: set(
            load_problems("reasoning-gym:chain_sum?min_digits=4", split=split, size=size, seed=seed)["question_id"]
        )
        for seed in (0, 10)
        for split, size in sizes.items()
    }
    assert not drawn["train"] & drawn["test"]
    assert TEST_SEED > 10**8


@needs_gym
@pytest.mark.parametrize("page", ["docs/datasets.md", "trl_dapo/problems/load.py"])
def test_the_examples_run_as_they_are_shown(page):
    text = (Path(__file__).parent.parent / page).read_text()
    examples = FencedParser().get_doctest(text, {}, page, page, 0)
    assert len(examples.examples) >= 3
    assert doctest.DocTestRunner().run(examples).failed == 0


@needs_gym
def test_a_task_without_a_single_answer_has_an_empty_solution():
    assert list(load_problems("reasoning-gym:rush_hour", size=2)["solution"]) == ["", ""]


@needs_gym
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("reasoning-gym:chainsum", ["no task 'chainsum'", "Did you mean reasoning-gym:chain_sum?"]),
        ("reasoning-gym:", ["no task ''"]),
        ("reasoning-gym:chain_sum?nope=1", ["no setting 'nope'", "min_terms"]),
        ("reasoning-gym:chain_sum?min_terms=9&max_terms=2", ["does not take these settings", "max_terms must be"]),
        ("reasoning-gym:chain_sum?min_terms=x", ["does not take these settings"]),
        ("reasoning-gym:chain_sum?size=x", ["size='x'", "at least 1"]),
        ("reasoning-gym:chain_sum?size=0", ["size=0", "at least 1"]),
        ("reasoning-gym:chain_sum?min_terms", ["name=value"]),
    ],
)
def test_a_task_that_cannot_be_made_is_one_line(name, parts):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_problems(name)
    assert all(part in str(caught.value) for part in (name, *parts)), caught.value


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("trl_dapo.problems.gym.is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'trl-dapo\[gym\]'"):
        load_problems("reasoning-gym:chain_sum")


# --------------------------------------------------------------------------------------------------- files and folders


ROWS = [{"question": "What is 2+2? é", "answer": "4"}, {"question": "And 3+3?", "answer": "6"}]


def write_file(path, rows):
    if path.name.endswith(".parquet"):
        Dataset.from_list(rows).to_parquet(path)
    elif ".csv" in path.name or path.suffix == ".tsv":
        separator = "\t" if path.suffix == ".tsv" else ","
        content = "\n".join(separator.join(line) for line in [[*rows[0]], *(row.values() for row in rows)]).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        content = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_problems(tmp_path, name):
    write_file(tmp_path / name, ROWS)
    problems = load_problems(name, answer_format=BOXED)
    assert list(problems["solution"]) == ["4", "6"]
    assert problems[0]["prompt"] == [{"role": "user", "content": f"What is 2+2? é\n\n{BOXED}"}]


def test_a_folder_gives_its_test_split_unless_told_otherwise(tmp_path):
    (tmp_path / "data").mkdir()
    write_file(tmp_path / "data" / "train.jsonl", ROWS[:1])
    write_file(tmp_path / "data" / "test.jsonl", ROWS[1:])
    assert list(load_problems("data")["solution"]) == ["6"]
    assert list(load_problems("data", split="train")["solution"]) == ["4"]


def test_a_folder_with_the_name_of_a_data_set_comes_first(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    write_file(tmp_path / "gsm8k" / "train.jsonl", ROWS)
    assert list(load_problems("gsm8k")["solution"]) == ["4", "6"]


@pytest.mark.parametrize(
    ("answers", "solutions"),
    [
        ([45, 46], ["45", "46"]),
        ([45.0, 46.0], ["45", "46"]),
        ([45, 0.5], ["45", "0.5"]),
        ([45, "x + 1"], ["45", "x + 1"]),
        (["{1, 2}", "[1, 2)"], ["{1, 2}", "[1, 2)"]),
        ([" 7 ", "٣"], ["7", "٣"]),
    ],
)
def test_answers_of_any_plain_type_become_text(tmp_path, answers, solutions):
    rows = [{"question": f"q{place}", "answer": answer} for place, answer in enumerate(answers)]
    write_file(tmp_path / "a.jsonl", rows)
    assert list(load_problems("a.jsonl")["solution"]) == solutions


def test_an_answer_in_a_csv_file_stays_as_it_is_written(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\na,073\nb,0.50\nc,12345678901234567890123\n")
    assert list(load_problems("a.csv")["solution"]) == ["073", "0.50", "12345678901234567890123"]


@pytest.mark.parametrize("nested", [{"ground_truth": "34"}, json.dumps({"ground_truth": "34"})])
def test_an_answer_inside_a_mapping_or_its_json_text_has_a_dotted_name(tmp_path, nested):
    write_file(tmp_path / "a.jsonl", [{"prompt": "q", "reward_model": nested, "answer": "no"}])
    assert list(load_problems("a.jsonl", answer_column="reward_model.ground_truth")["solution"]) == ["34"]


@pytest.mark.parametrize(
    ("flaw", "part"),
    [
        (None, "it is null"),
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("#### ", "it is empty"),
        (["34"], "it is a list of 1 entries"),
        ({"value": "34"}, "it is a mapping of value"),
        ("NaN", "it is NaN"),
    ],
)
def test_a_row_without_an_answer_is_named_with_its_column_and_the_others(tmp_path, flaw, part):
    rows = [{"question": f"q{place}", "answer": str(place), "level": 1} for place in range(20)]
    rows[17]["answer"] = flaw
    write_file(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match="answer_column=answer: in row 17 of the train split") as caught:
        load_problems("a.jsonl")
    line = str(caught.value)
    assert part in line
    assert "The columns are question, answer" in line
    assert "level" in line


def test_a_cell_of_a_csv_file_without_an_answer_is_named(tmp_path):
    for cell in ("", "NaN"):
        (tmp_path / "a.csv").write_text(f"question,answer\na,1\nb,{cell}\n")
        with pytest.raises(ValueError, match="answer_column=answer: in row 1"):
            load_problems("a.csv")


@pytest.mark.parametrize(
    ("row", "options", "parts"),
    [
        ({"prompt": "q", "reply": "4"}, {}, ["answer_column is missing", "solution, answer", "prompt, reply"]),
        ({"prompt": "q", "solution": "w", "answer": "4"}, {}, ["there are solution and answer", "Name the one"]),
        ({"task": "q", "answer": "4"}, {}, ["prompt_column is missing", "task, answer"]),
        ({"question": "q", "problem": "p", "answer": "4"}, {}, ["there are question and problem"]),
        (
            {"prompt": "q", "rm": {"gt": "4"}},
            {"answer_column": "rm.truth"},
            ["answer_column=rm.truth", "prompt, rm.gt"],
        ),
        ({"prompt": "q", "a": "4"}, {"answer_column": "b"}, ["answer_column=b: there is no such column", "prompt, a"]),
        ({"prompt": "", "answer": "4"}, {}, ["prompt_column=prompt: in row 0", "is empty"]),
        ({"prompt": 3, "answer": "4"}, {}, ["Row 0", "must be text or a list of messages"]),
        ({"prompt": [{"role": "user"}], "answer": "4"}, {}, ["Row 0", "prompt[0]"]),
    ],
)
def test_columns_that_are_missing_or_cannot_be_told_are_one_line(tmp_path, row, options, parts):
    write_file(tmp_path / "a.jsonl", [row])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_problems("a.jsonl", **options)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question"')
    with pytest.raises(ValueError, match=r"a.jsonl cannot be loaded: a.jsonl, line 2: not valid JSON"):
        load_problems("a.jsonl")
    (tmp_path / "a.txt").write_text("q")
    with pytest.raises(ValueError, match="no file of rows"):
        load_problems("a.txt")


def test_questions_keep_their_id_whatever_their_place_and_repeated_ones_are_told_apart(tmp_path, caplog):
    write_file(tmp_path / "a.jsonl", [*ROWS, ROWS[0]])
    write_file(tmp_path / "b.jsonl", ROWS[::-1])
    first, second = load_problems("a.jsonl")["question_id"], load_problems("b.jsonl")["question_id"]
    assert list(first)[:2] == list(second)[::-1]
    assert first[2] == f"{first[0]}#2"
    assert "a.jsonl: 1 of 3 rows repeat the question of another row" in caplog.text


def test_some_of_the_problems_are_the_same_ones_for_the_same_seed(tmp_path):
    write_file(tmp_path / "a.jsonl", [{"question": f"q{i}", "answer": str(i)} for i in range(50)])
    draws = [list(load_problems("a.jsonl", size=10, seed=seed)["solution"]) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] == sorted(draws[0], key=int)
    assert len(load_problems("a.jsonl", size=500)) == 50


# ------------------------------------------------------------------------------------------------------------- prompts


def test_messages_keep_their_system_turn_and_the_last_turn_of_the_user_asks_for_the_format():
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    made = styled(messages, PromptStyle(BOXED), conversational=True)
    assert made[:3] == messages[:3]
    assert made[3] == {"role": "user", "content": f"2+2?\n\n{BOXED}"}
    assert messages[3]["content"] == "2+2?"


@pytest.mark.parametrize("name", SCORERS)
def test_a_format_is_put_behind_a_question_once(name):
    style = PromptStyle(get_scorer(name).answer_format)
    once = style.prompt_text("What is $x$?")
    assert once == f"What is $x$?\n\n{style.answer_format}"
    assert style.prompt_text(once) == once
    assert not style.contradicted_by(once)


@pytest.mark.parametrize(
    ("text", "answer_format", "contradicts"),
    [
        ("What is 2+2? Put your final answer in \\boxed{}.", BOXED, False),
        ("What is 2+2? Put your final answer in \\boxed{}.", LINE, True),
        ("What is 2+2? End with Answer: $Answer.", LINE, False),
        ("What is 2+2? End with Answer: $Answer.", BOXED, True),
        ("What is 2+2? Give it after ####.", LINE, True),
    ],
)
def test_a_question_that_asks_for_a_format_is_given_no_second_one(text, answer_format, contradicts):
    style = PromptStyle(answer_format)
    assert style.prompt_text(text) == text
    assert style.contradicted_by(text) is contradicts


@pytest.mark.parametrize("text", ["Q: 2+2?\nAnswer:", "The sides of \\boxed{x} are equal. Find x.", "Is # > ##?"])
def test_what_only_looks_like_a_format_asks_for_none(text):
    assert PromptStyle(BOXED).prompt_text(text) == f"{text}\n\n{BOXED}"


def test_prompts_that_ask_for_another_format_are_counted(tmp_path, caplog):
    rows = [{"question": f"{i}+{i}? Write it within \\boxed{{}}.", "answer": str(2 * i)} for i in range(3)]
    write_file(tmp_path / "a.jsonl", [*rows, *ROWS])
    load_problems("a.jsonl", answer_format=LINE)
    assert "a.jsonl: 3 of 5 prompts ask for the answer in another format" in caplog.text


@pytest.mark.parametrize("text", ["{0}", "{question}", "{answer_format}", "{x!r:>9999999999}", "\\1 \\g<0> %s"])
def test_text_of_a_question_is_never_a_template(text):
    style = PromptStyle("F", "A {question} B {answer_format} C {question}{")
    assert style.prompt_text(text) == f"A {text} B F C {text}{{"


def test_a_template_takes_the_place_of_dapo_maths_instruction():
    assert PromptStyle(LINE, "Q: {question}").prompt_text("1+1?".join(WRAPPER)) == "Q: 1+1?"


@given(st.text(min_size=1).filter(lambda text: text == text.strip() and text))
def test_a_problem_comes_out_of_its_instruction_as_it_went_in(text):
    assert bare_problem(text.join(WRAPPER)) == text
    assert bare_problem(text) is None


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("row", "name", "found"),
    [
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a": '{"b": 1}'}, "a.b", 1),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.1.b", 2),
        ({"a": {"b": None}}, "a.b", None),
        ({"a": None}, "a.b", MISSING),
        ({"a": "{not json"}, "a.b", MISSING),
        ({"a": 1}, "b", MISSING),
        ({"a": {"": 1}}, "a.", 1),
        ({"a": "[" * 100_000}, "a.b", MISSING),
    ],
)
def test_a_dotted_name_leads_into_mappings_lists_and_json_text(row, name, found):
    assert look_up(row, name) is found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"1", MISSING])
def test_what_is_no_answer_is_refused(value):
    with pytest.raises(ValueError, match=r"^is "):
        answer_text(value)


@pytest.mark.parametrize(
    ("value", "text"), [(1e20, "100000000000000000000"), (True, "True"), (-0.0, "0"), (0.1, "0.1")]
)
def test_numbers_are_written_as_one_would(value, text):
    assert answer_text(value) == text


@given(st.integers())
def test_a_whole_number_is_the_same_answer_however_it_is_given(value):
    assert answer_text(value) == answer_text(str(value)) == str(value)


def test_columns_are_listed_by_their_dotted_names():
    assert leaves({"a": 1, "b": {"c": 1, "d": {}}, "e": '{"f": 1}'}) == ["a", "b.c", "b.d", "e.f"]
    assert column_of(["reward_model", "a.b"], "reward_model.x.y") == "reward_model"
    assert column_of(["reward_model", "a.b"], "a.b") == "a.b"
    assert column_of(["reward_model"], "reward") is None


def test_ids_that_are_there_before_stay():
    assert numbered_apart(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_deduplication_keeps_the_first_of_each_in_order(keys):
    rows = Dataset.from_dict({"question": keys, "place": list(range(len(keys)))})
    for copies in (None, "question", "absent"):
        kept = first_of_each(rows, "question", copies)
        assert list(kept["question"]) == list(dict.fromkeys(keys))
        assert list(kept["place"]) == [keys.index(key) for key in dict.fromkeys(keys)]


def test_a_style_can_be_sent_to_another_process():
    style = PromptStyle(BOXED, "{question}")
    assert pickle.loads(pickle.dumps(style)) == style


@pytest.mark.parametrize("name", [None, "", 3])
def test_what_names_no_data_set_is_one_line(name):
    with pytest.raises(ValueError, match=rf"^name={name!r} names no data set: give a name such as 'gsm8k'"):
        load_problems(name)
