import pytest

from trl_dapo.arena import LENGTHS, arena_accuracy, held_out_dataset, is_held_out, train_dataset


@pytest.mark.parametrize(("build", "held_out"), [(train_dataset, False), (held_out_dataset, True)])
def test_rows_belong_to_their_split_and_carry_the_answer(build, held_out):
    dataset = build(90)
    assert dataset.column_names == ["prompt", "answer", "length"]
    assert {is_held_out(prompt) for prompt in dataset["prompt"]} == {held_out}
    assert arena_accuracy(list(dataset["prompt"]), [f"#{answer}" for answer in dataset["answer"]]) == [1.0] * 90
    # One start digit, two characters per move, one "="
    assert [len(prompt) for prompt in dataset["prompt"]] == [2 * length + 2 for length in dataset["length"]]
    assert [list(dataset["length"]).count(length) for length in LENGTHS] == [10] * 9


def test_data_sets_are_a_function_of_size_seed_and_lengths():
    rows = train_dataset(40, seed=1, lengths=(4, 8)).to_list()
    assert rows == train_dataset(40, seed=1, lengths=(4, 8)).to_list()
    assert rows[:20] == train_dataset(20, seed=1, lengths=(4, 8)).to_list()
    assert rows != train_dataset(40, seed=2, lengths=(4, 8)).to_list()
