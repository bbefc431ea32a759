"""
The prompt stream: TRL's order, each prompt once per epoch, never twice in a batch, the same after a resume; and what a
history of the prompts makes of it.
"""

import json
from collections import Counter
from itertools import chain

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from tiny import conversational_dataset, iterable_dataset, plain_dataset
from trl_dapo.dapo.sampling.history import PromptHistory
from trl_dapo.dapo.sampling.prompts import PromptStream


def letters(text: str) -> Dataset:
    return Dataset.from_dict({"prompt": list(text)})


def streamed(text: str) -> IterableDataset:
    return letters(text).to_iterable_dataset()


def text_of(stream: PromptStream, prompts: list) -> str:
    """The text of these prompts, one letter each."""
    return "".join(row["prompt"] for row in stream.rows(prompts, 1))


def batch(stream: PromptStream, *counts: int, multiple_of: int = 1) -> list[str]:
    """The prompts of one batch, take by take."""
    stream.begin_batch()
    return [text_of(stream, stream.take(count, multiple_of)) for count in counts]


def resumed(stream: PromptStream, fresh: PromptStream) -> PromptStream:
    """A new stream at the position of another, by way of a file."""
    fresh.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    return fresh


# --------------------------------------------------------------------------------------------------------- TRL's order


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("prompts_per_batch", [2, 4, 12])
def test_prompts_come_in_the_order_of_trls_sampler_for_several_epochs(seed, shuffle, prompts_per_batch):
    dataset = plain_dataset(12)
    sampler = RepeatSampler(dataset, mini_repeat_count=1, batch_size=prompts_per_batch, shuffle=shuffle, seed=seed)
    expected = [index for _ in range(3) for index in sampler]  # each pass over the sampler is an epoch
    stream = PromptStream(dataset, seed, shuffle)
    served = []
    for _ in range(3 * 12 // prompts_per_batch):
        stream.begin_batch()
        served += stream.take(prompts_per_batch)
    assert [prompt.identity for prompt in served] == expected
    answers = [row["answer"] for row in stream.rows(served, 1)]
    assert answers == [dataset[index]["answer"] for index in expected]


def test_an_unshuffled_dataset_comes_as_it_is():
    assert batch(PromptStream(letters("abcd"), seed=7, shuffle=False), 4) == ["abcd"]


def test_the_order_is_a_function_of_the_seed():
    texts = [batch(PromptStream(letters("abcdefgh"), seed), 8) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_every_epoch_has_an_order_of_its_own():
    stream = PromptStream(letters("abcdefgh"), seed=0)
    epochs = [batch(stream, 8)[0] for _ in range(4)]
    assert len(set(epochs)) == 4
    assert {"".join(sorted(epoch)) for epoch in epochs} == {"abcdefgh"}


@pytest.mark.parametrize("seed", [0, 3])
def test_a_streamed_dataset_is_shuffled_epoch_by_epoch_as_by_datasets(seed):
    shuffled = streamed("abcdefgh").shuffle(seed=seed)
    expected = []
    for epoch in range(3):
        shuffled.set_epoch(epoch)
        expected.append("".join(row["prompt"] for row in shuffled))
    assert len(set(expected)) == 3
    stream = PromptStream(streamed("abcdefgh"), seed)
    assert [batch(stream, 8)[0] for _ in range(3)] == expected


def test_a_streamed_dataset_without_shuffling_comes_as_it_is():
    stream = PromptStream(streamed("abcd"), seed=0, shuffle=False)
    assert [batch(stream, 4)[0] for _ in range(2)] == ["abcd", "abcd"]


# ---------------------------------------------------------------------------------------------- defects of others


def test_d2_refills_are_not_trls_repeated_batches():
    # TRL's dataloader gives the same prompts `steps_per_generation * num_iterations` times in a row, here 4
    repeated = list(RepeatSampler(plain_dataset(12), mini_repeat_count=1, batch_size=3, repeat_count=4, seed=0))
    assert repeated[0:3] == repeated[3:6] == repeated[6:9] == repeated[9:12]
    stream = PromptStream(plain_dataset(12), seed=0)
    stream.begin_batch()
    rounds = [[prompt.identity for prompt in stream.take(3)] for _ in range(4)]
    assert rounds[0] == repeated[0:3]
    assert sorted(chain(*rounds)) == list(range(12))


def test_d3_refills_do_not_overlap_with_the_prompts_of_the_batch():
    # Another permutation of the same dataset overlaps freely: 5 prompts are left, and the refill is those 5
    stream = PromptStream(letters("abcdefghi"), seed=1)
    first, refill = batch(stream, 4, 5)
    assert not set(first) & set(refill)
    assert sorted(first + refill) == list("abcdefghi")


def test_d6_equal_texts_are_prompts_of_their_own():
    # Grouping by text would merge the three groups of "a"
    for dataset in (letters("aab"), streamed("aab")):
        stream = PromptStream(dataset, seed=0, shuffle=False)
        stream.begin_batch()
        prompts = stream.take(3)
        assert text_of(stream, prompts) == "aab"
        assert [row["prompt"] for row in stream.rows(prompts, 2)] == ["a", "a", "a", "a", "b", "b"]


# ---------------------------------------------------------------------------------------------------- within one batch


def test_takes_of_one_batch_continue_each_other():
    assert batch(PromptStream(letters("abcdef"), seed=0, shuffle=False), 2, 1, 3) == ["ab", "c", "def"]


def test_batches_continue_each_other():
    stream = PromptStream(letters("abcdef"), seed=0, shuffle=False)
    assert [batch(stream, 2)[0] for _ in range(3)] == ["ab", "cd", "ef"]


def test_prompts_that_the_batch_holds_wait_and_are_served_first():
    stream = PromptStream(letters("abcd"), seed=165)
    assert [batch(stream, 4)[0] for _ in range(3)] == ["abcd", "cadb", "badc"]  # what this seed was chosen for
    stream = PromptStream(letters("abcd"), seed=165)
    assert batch(stream, 2) == ["ab"]
    # c and d end the first epoch. Of the second, "cadb", c and d are in the batch and wait; a and b are not.
    assert batch(stream, 2, 2) == ["cd", "ab"]
    # The two that waited, in their order, then the third epoch, "badc", of which d and c are in the batch
    assert batch(stream, 3, 1) == ["cdb", "a"]
    assert batch(stream, 2) == ["dc"]


def test_prompts_of_a_streamed_dataset_wait_and_are_served_first():
    stream = PromptStream(streamed("abcd"), seed=33)
    if [batch(stream, 4)[0] for _ in range(3)] != ["abcd", "cabd", "dcba"]:
        pytest.skip("this version of datasets shuffles otherwise than the one that the seed was chosen for")
    stream = PromptStream(streamed("abcd"), seed=33)
    assert batch(stream, 2) == ["ab"]
    # Of "cabd", c is in the batch and waits
    assert batch(stream, 2, 2) == ["cd", "ab"]
    # c waited, d is next, and of "dcba" both are in the batch
    assert batch(stream, 3) == ["cdb"]
    # d and c waited, a is next
    assert batch(stream, 3) == ["dca"]


@pytest.mark.parametrize("make", [letters, streamed])
def test_an_exhausted_dataset_gives_what_it_has(make):
    stream = PromptStream(make("abc"), seed=0, shuffle=False)
    assert batch(stream, 2, 4, 4) == ["ab", "c", ""]
    assert batch(stream, 3) == ["abc"]


def test_what_is_rounded_off_is_served_first_in_the_next_batch():
    stream = PromptStream(letters("abcde"), seed=0, shuffle=False)
    # 5 of 8 are left, of which 4 divide by 2
    assert batch(stream, 8, multiple_of=2) == ["abcd"]
    assert batch(stream, 2) == ["ea"]


def test_what_is_rounded_off_is_not_lost_in_the_same_batch_either():
    stream = PromptStream(letters("abcde"), seed=0, shuffle=False)
    stream.begin_batch()
    assert text_of(stream, stream.take(8, 2)) == "abcd"
    assert text_of(stream, stream.take(8)) == "e"


def test_fewer_prompts_than_a_multiple_are_none():
    stream = PromptStream(letters("abc"), seed=0, shuffle=False)
    assert batch(stream, 4, multiple_of=4) == [""]
    assert batch(stream, 3) == ["abc"]


@pytest.mark.parametrize("make", [letters, streamed])
def test_a_dataset_of_one_row_gives_one_prompt_a_batch(make):
    stream = PromptStream(make("a"), seed=0)
    assert [batch(stream, 1, 2) for _ in range(4)] == [["a", ""]] * 4


def test_an_empty_dataset_gives_nothing():
    assert batch(PromptStream(letters("abc").select([]), seed=0), 1) == [""]


@pytest.mark.parametrize("make", [letters, streamed])
def test_prompts_that_need_not_be_distinct_repeat_within_a_batch(make):
    stream = PromptStream(make("abc"), seed=0, shuffle=False, distinct=False)
    assert batch(stream, 7) == ["abcabca"]
    assert batch(stream, 3) == ["bca"]


def test_a_placeholder_row_can_be_taken_any_number_of_times():
    # As an environment that makes up its own prompts wants it
    assert batch(PromptStream(letters("a"), seed=0, distinct=False), 5, 3) == ["aaaaa", "aaa"]


def test_taking_nothing_takes_nothing():
    stream = PromptStream(letters("abc"), seed=0, shuffle=False)
    assert batch(stream, 0, 2) == ["", "ab"]


def test_batches_that_exhaust_the_dataset_do_not_pile_up_waiting_prompts():
    stream = PromptStream(letters("abcdefgh"), seed=0)
    for _ in range(20):
        batch(stream, 4, 3, 4, 4)
    assert len(stream.state_dict()["waiting"]) <= 2 * 8


@pytest.mark.parametrize("make", [letters, streamed])
def test_batches_that_take_the_whole_dataset_have_no_prompt_that_is_always_first(make):
    # 13 prompts: a first batch of 8, then batches that take 8 and, as a refill, the other 5. Without a new order, the
    # 5 that the first batch left would wait, and so be among the first 8, for ever
    stream = PromptStream(make(ALPHABET[:13]), seed=0)
    batch(stream, 8)
    rounds = [batch(stream, 8, 8) for _ in range(203)][3:]
    assert all(len(first) == 8 and sorted(first + rest) == list(ALPHABET[:13]) for first, rest in rounds)
    first = Counter("".join(first for first, _ in rounds))
    # Each is among the first with probability 8/13: 123 times of 200, give or take 7
    assert min(first.values()) > 95
    assert max(first.values()) < 151
    assert len({first for first, _ in rounds}) > 195


def test_a_batch_that_takes_the_whole_dataset_once_leaves_what_waits_first():
    stream = PromptStream(letters("abcd"), seed=165)
    batch(stream, 2)
    assert batch(stream, 2, 2) == ["cd", "ab"]
    assert batch(stream, 3, 1) == ["cdb", "a"]
    # The third in a row begins with those that wait, d and c, for the last time
    assert batch(stream, 2, 2)[0] == "dc"
    whole = PromptStream(letters("abcd"), seed=165)
    orders = [batch(whole, 4)[0] for _ in range(6)]
    assert batch(stream, 4) == [orders[4]]
    assert batch(stream, 4) == [orders[5]]


@pytest.mark.parametrize("make", [letters, streamed])
def test_batches_of_the_whole_dataset_are_in_trls_order_from_the_start(make):
    one, other = (PromptStream(make("abcdefg"), seed=3) for _ in range(2))
    in_one_take = [batch(one, 7)[0] for _ in range(6)]
    assert ["".join(batch(other, 3, 4)) for _ in range(6)] == in_one_take
    assert len(set(in_one_take)) > 1
    assert other.passed_over == 0


def test_a_run_of_whole_batches_goes_on_after_a_resume():
    for stop in range(1, 7):
        stream = PromptStream(letters(ALPHABET[:5]), seed=1)
        batch(stream, 3)
        for _ in range(stop):
            batch(stream, 3, 3)
        other = resumed(stream, PromptStream(letters(ALPHABET[:5]), seed=1))
        assert other.state_dict() == stream.state_dict()
        assert [batch(other, 3, 3) for _ in range(4)] == [batch(stream, 3, 3) for _ in range(4)]


# ----------------------------------------------------------------------------------------------------- skipped prompts


class Scripted(PromptHistory):
    """
    A history of given decisions.

    Args:
        skipped (`str`, *optional*, defaults to `""`):
            Prompts that are skipped.
        ranking (`str`, *optional*, defaults to `""`):
            Prompts by distance, the closest to 1/2 first. Switches Thompson sampling on.
    """

    def __init__(self, skipped: str = "", ranking: str = "") -> None:
        super().__init__(0, skip_degenerate=bool(skipped), thompson=bool(ranking))
        self.skipped = skipped
        self.ranking = ranking

    def skips(self, identity, epoch, ordinal) -> bool:
        return ALPHABET[identity] in self.skipped

    def distance(self, identity, epoch, ordinal) -> float:
        return self.ranking.index(ALPHABET[identity]) / 100


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def scripted(size: int, history: PromptHistory) -> PromptStream:
    """The first letters of the alphabet, in this order in every epoch."""
    return PromptStream(letters(ALPHABET[:size]), seed=0, shuffle=False, history=history)


def counts(stream: PromptStream) -> tuple[int, int]:
    return stream.served, stream.passed_over


def test_skipped_prompts_are_passed_over():
    stream = scripted(6, Scripted(skipped="bc"))
    assert batch(stream, 2, 1) == ["ad", "e"]
    assert counts(stream) == (3, 2)


def test_skipped_prompts_come_up_again_in_the_next_epoch():
    history = Scripted(skipped="b")
    stream = scripted(4, history)
    assert batch(stream, 3) == ["acd"]
    history.skipped = "c"
    assert batch(stream, 3) == ["abd"]
    history.skipped = ""
    assert batch(stream, 4) == ["abcd"]
    assert counts(stream) == (10, 2)


def test_a_prompt_that_waits_is_judged_when_its_turn_comes():
    history = Scripted()
    stream = scripted(4, history)
    assert batch(stream, 3) == ["abc"]
    # d ends the epoch. Of the next one a, b and c are new to the batch, and d waits
    assert batch(stream, 1, 3, 1) == ["d", "abc", ""]
    assert len(stream.state_dict()["waiting"]) == 1
    history.skipped = "d"
    assert batch(stream, 2) == ["ab"]
    assert stream.state_dict()["waiting"] == []
    assert counts(stream) == (9, 1)


def test_a_prompt_that_was_skipped_after_waiting_comes_up_again_in_the_next_epoch():
    history = Scripted()
    stream = scripted(5, history)
    # 5 of 8 are there, of which 4 divide by 2: e waits
    assert batch(stream, 8, multiple_of=2) == ["abcd"]
    history.skipped = "e"
    assert batch(stream, 3) == ["abc"]
    history.skipped = ""
    assert batch(stream, 2) == ["de"]


@pytest.mark.parametrize("later", [1, 3])
def test_a_dataset_on_which_everything_is_skipped_still_fills_the_batch(later):
    stream = scripted(4, Scripted(skipped="abcd"))
    assert batch(stream, 3, later) == ["abc", "d"]


def test_skipped_prompts_are_served_only_where_nothing_else_is_left():
    stream = scripted(5, Scripted(skipped="abd"))
    # c and e are taken first; then a, b and d in their order
    assert batch(stream, 2, 2, 2) == ["ce", "ab", "d"]


def test_leniency_is_for_one_batch_only():
    stream = scripted(4, Scripted(skipped="abc"))
    # d; then, there being nothing else, a. The epoch goes on with b
    assert batch(stream, 1, 1) == ["d", "a"]
    assert batch(stream, 1) == ["d"]


def test_leniency_needs_a_whole_epoch_without_another_prompt():
    # The epoch ends with b, which is skipped; the next one still has a
    stream = scripted(2, Scripted(skipped="b"))
    assert [batch(stream, 1) for _ in range(4)] == [["a"]] * 4
    assert counts(stream) == (4, 3)


def test_prompts_that_are_served_after_all_do_not_count_as_passed_over():
    stream = scripted(3, Scripted(skipped="abc"))
    assert batch(stream, 3) == ["abc"]
    assert counts(stream) == (3, 0)


def test_a_dataset_that_the_batch_holds_whole_gives_nothing_more_whatever_is_skipped():
    stream = scripted(3, Scripted(skipped="b"))
    assert batch(stream, 3, 2, 1) == ["acb", "", ""]
    assert batch(stream, 2) == ["ac"]


def test_a_solved_prompt_is_served_no_more():
    history = PromptHistory(0, skip_solved_above=1.0)
    stream = PromptStream(letters("abcd"), seed=0, shuffle=False, history=history)
    (prompt, _) = stream.take(2)
    history.record(prompt.identity, right=4, wrong=0, informative=False)
    assert [batch(stream, 2) for _ in range(4)] == [["cd"], ["bc"], ["db"], ["cd"]]


@pytest.mark.parametrize("make", [letters, streamed])
def test_a_history_that_knows_nothing_changes_nothing(make):
    def served(**switches) -> list:
        stream = PromptStream(make("abcdefg"), seed=5, history=PromptHistory(5, **switches))
        return [batch(stream, 3, 2) for _ in range(10)]

    assert served(skip_degenerate=True, skip_solved_above=0.1) == served()


# --------------------------------------------------------------------------------------------------- Thompson sampling


def test_the_closest_of_four_times_the_prompts_come_in_the_order_of_the_stream():
    # The pool of the first take is a to h, of which h, b and f are closest
    stream = scripted(16, Scripted(ranking="hpbfgoncdeaijklm"))
    assert batch(stream, 2) == ["bh"]
    # The next pool is i to p: p and o
    assert batch(stream, 2) == ["op"]
    assert counts(stream) == (4, 12)


def test_a_pool_is_four_times_the_count():
    # i, the closest of all, is the ninth
    stream = scripted(12, Scripted(ranking="ihgfedcbajkl"))
    assert batch(stream, 2) == ["gh"]
    stream = scripted(12, Scripted(ranking="ihgfedcbajkl"))
    assert batch(stream, 3) == ["ghi"]


def test_refills_have_pools_of_their_own():
    stream = scripted(12, Scripted(ranking="dcbahgfelkji"))
    assert batch(stream, 1, 1, 1) == ["d", "h", "l"]


def test_prompts_that_were_not_chosen_come_up_again_in_the_next_epoch():
    stream = scripted(4, Scripted(ranking="abcd"))
    assert batch(stream, 1) == ["a"]
    # Chosen or not, what the batch does not hold it may take in the next epoch: b is closest then
    assert batch(stream, 1, 1) == ["a", "b"]


def test_a_pool_does_not_reach_into_the_next_epoch():
    # 6 prompts, 4 of them read: e and f are the whole pool, though a and b are closer
    stream = scripted(6, Scripted(ranking="abcdef"))
    assert batch(stream, 1) == ["a"]
    assert batch(stream, 2) == ["ef"]
    assert batch(stream, 1) == ["a"]


def test_a_pool_reaches_into_the_next_epoch_where_it_must():
    stream = scripted(5, Scripted(ranking="bdcae"))
    assert batch(stream, 1) == ["b"]
    # e alone is left, and 2 are asked for. Having turned, the pool goes on to the end of that epoch: e, a, b, c, d
    assert batch(stream, 2) == ["bd"]
    assert counts(stream) == (3, 3 + 3)
    # The other e of that epoch waited, as the pool held one already
    assert batch(stream, 5) == ["eabcd"]


def test_what_is_left_of_the_dataset_is_taken_without_choice():
    stream = scripted(3, Scripted(ranking="cba"))
    assert batch(stream, 2, 2, 1) == ["bc", "a", ""]


def test_a_pool_does_not_make_skipped_prompts_fit():
    # There are 2 others than the skipped ones, and 2 are asked for
    stream = scripted(8, Scripted(skipped="abcdef", ranking="abcdefgh"))
    assert batch(stream, 2) == ["gh"]
    assert counts(stream) == (2, 6)


def test_a_pool_at_the_beginning_of_an_epoch_does_not_make_skipped_prompts_fit_either():
    history = Scripted(ranking="abcdefgh")
    stream = scripted(8, history)
    # All are taken and two of them rounded off. The next epoch has nothing for the batch: the next batch begins it
    assert batch(stream, 9, multiple_of=3) == ["abcdef"]
    history.skipped = "abcdef"
    # g and h waited, and there are only skipped prompts to compare them with
    assert batch(stream, 2) == ["gh"]
    assert counts(stream) == (8, 0)
    # The epoch has g and h once more; a refill then has no choice but the skipped ones
    assert batch(stream, 2, 2) == ["gh", "ab"]


def test_a_prompt_that_was_not_chosen_does_not_free_one_of_the_same_text():
    # Rows of a streamed dataset are known by their text: a is there twice
    class ByOrdinal(PromptHistory):
        def distance(self, identity, epoch, ordinal) -> float:
            return ordinal / 100

    stream = PromptStream(streamed("abcdfaghij"), seed=0, shuffle=False, history=ByOrdinal(0, thompson=True))
    # Pools of 4: a, b, c, d, then f, a, g, h, of which the other a is not chosen. What is left are i and j, and of the
    # next epoch what the batch does not hold: neither a nor f
    assert batch(stream, 1, 1, 20) == ["a", "f", "ijbcdgh"]


def test_a_prompt_that_was_rounded_off_and_then_not_chosen_is_still_there_for_the_batch():
    # a and b are no multiple of 3 and wait. Of the two a is chosen; b is passed over, and the next epoch has it
    stream = scripted(2, Scripted(ranking="ab"))
    assert run(stream, [[(2, 3), (1, 1), (1, 1)]]) == [["", "a", "b"]]


def test_the_rest_of_a_chosen_pool_waits_where_it_is_rounded_off():
    # 4 of a pool of 9 are chosen, of which 3 divide by 3; the fourth waits, and the others were passed over
    stream = scripted(9, Scripted(ranking="bdfhacegi"))
    assert batch(stream, 4, multiple_of=3) == ["bdf"]
    assert counts(stream) == (3, 5)
    assert len(stream.state_dict()["waiting"]) == 1
    assert batch(stream, 1) == ["h"]


# -------------------------------------------------------------------------------------------------------------- counts


def test_served_prompts_are_counted_with_repeats_and_without_what_is_rounded_off():
    stream = PromptStream(letters("abcde"), seed=0, shuffle=False)
    assert counts(stream) == (0, 0)
    assert batch(stream, 8, multiple_of=2) == ["abcd"]
    assert counts(stream) == (4, 0)
    # e, which had waited, and the second epoch's a
    assert batch(stream, 2) == ["ea"]
    assert counts(stream) == (6, 0)


def test_progress_is_in_passes_through_the_dataset():
    stream = PromptStream(letters("abcde"), seed=0, shuffle=False)
    seen = [stream.progress]
    for _ in range(4):
        batch(stream, 3)
        seen.append(stream.progress)
    # 3, 6, 9 and 12 of 5
    assert seen == pytest.approx([0, 0.6, 1.2, 1.8, 2.4])


def test_progress_counts_what_was_passed_over():
    stream = scripted(10, Scripted(skipped="abcd"))
    batch(stream, 1)
    # e is the fifth of 10
    assert stream.progress == pytest.approx(0.5)
    batch(stream, 5, 1)
    # f to j end the epoch, and of the next a to d are skipped and e taken
    assert stream.progress == pytest.approx(1.5)
    assert counts(stream) == (7, 8)


def test_progress_through_a_streamed_dataset_is_known_after_its_first_epoch():
    stream = PromptStream(streamed("abcd"), seed=0, shuffle=False)
    batch(stream, 3)
    assert stream.progress == 0
    batch(stream, 3)
    # d, a and b: 6 of 4
    assert stream.progress == pytest.approx(1.5)


def test_an_empty_dataset_makes_no_progress():
    stream = PromptStream(letters("abc").select([]), seed=0)
    batch(stream, 1)
    assert stream.progress == 0


# ---------------------------------------------------------------------------------------------------- carried prompts


def carrying(stream: PromptStream, held: list, *counts: int) -> list[str]:
    """What a batch that already holds these prompts is served, take by take."""
    stream.begin_batch(held=[(prompt.identity, prompt.epoch) for prompt in held])
    return [text_of(stream, stream.take(count)) for count in counts]


@pytest.mark.parametrize("make", [letters, streamed])
def test_prompts_that_the_batch_holds_from_the_beginning_are_not_served_to_it(make):
    stream = PromptStream(make("abcd"), seed=0, shuffle=False)
    stream.begin_batch()
    held = stream.take(3)[1:]
    # b and c are carried. d ends the epoch, of the next one there are a and no other, and b, c and d wait
    assert carrying(stream, held, 1, 4) == ["d", "a"]
    assert batch(stream, 2) == ["bc"]


def test_carried_prompts_are_those_of_one_batch():
    stream = PromptStream(letters("ab"), seed=0, shuffle=False)
    stream.begin_batch()
    held = stream.take(1)
    assert carrying(stream, held, 2) == ["b"]
    assert batch(stream, 2) == ["ab"]


def test_a_batch_that_holds_the_whole_dataset_is_served_nothing():
    stream = PromptStream(letters("ab"), seed=0, shuffle=False)
    stream.begin_batch()
    assert carrying(stream, stream.take(2), 1) == [""]
    assert batch(stream, 2) == ["ab"]


def test_a_carried_prompt_is_not_served_where_skipped_ones_are_left():
    stream = scripted(3, Scripted(skipped="bc"))
    stream.begin_batch()
    held = stream.take(1)
    assert carrying(stream, held, 1, 1, 1) == ["b", "c", ""]


def test_a_carried_prompt_is_not_freed_by_a_pool_that_does_not_choose_it():
    # Rows of a streamed dataset are known by their text: the second a is read in the epoch of the first
    class ByOrdinal(PromptHistory):
        def distance(self, identity, epoch, ordinal) -> float:
            return ordinal / 100

    stream = PromptStream(streamed("abcdfagh"), seed=0, shuffle=False, history=ByOrdinal(0, thompson=True))
    stream.begin_batch()
    held = stream.take(1)
    assert text_of(stream, held) == "a"
    assert carrying(stream, held, 1, 20) == ["f", "bcdgh"]


# ---------------------------------------------------------------------------------------------------------------- rows


def test_copies_of_a_prompt_are_contiguous():
    stream = PromptStream(letters("abc"), seed=0, shuffle=False)
    assert [row["prompt"] for row in stream.rows(stream.take(3), 2)] == list("aabbcc")


@pytest.mark.parametrize("dataset", [conversational_dataset(2), iterable_dataset(2, conversational=True)])
def test_rows_are_independent_copies(dataset):
    stream = PromptStream(dataset, seed=0, shuffle=False)
    prompts = stream.take(2)
    first, second, *_ = rows = stream.rows(prompts, 2)
    untouched = first["prompt"][0]["content"]
    first["prompt"][0]["content"] = "changed"
    first["added"] = 1
    assert second["prompt"][0]["content"] == untouched
    assert "added" not in second
    assert stream.rows(prompts, 2)[0] == second
    assert len(rows) == 4


@pytest.mark.parametrize("make", [letters, streamed])
@settings(deadline=None, max_examples=50)
@given(copies=st.integers(1, 4), count=st.integers(1, 5), data=st.data())
def test_a_part_of_the_rows_is_a_slice_of_all_rows(make, copies, count, data):
    stream = PromptStream(make("abcde"), seed=0)
    prompts = stream.take(count)
    start = data.draw(st.integers(0, count * copies))
    stop = data.draw(st.integers(start, count * copies))
    whole = stream.rows(prompts, copies)
    assert len(whole) == count * copies
    assert stream.rows(prompts, copies, slice(start, stop)) == whole[start:stop]


def test_the_parts_of_all_ranks_are_the_whole():
    # 3 prompts of 4 rows on 2 ranks: the second group straddles them
    stream = PromptStream(letters("abc"), seed=0, shuffle=False)
    prompts = stream.take(3)
    parts = [[row["prompt"] for row in stream.rows(prompts, 4, slice(rank * 6, rank * 6 + 6))] for rank in range(2)]
    assert parts == [list("aaaabb"), list("bbcccc")]


def test_rows_have_all_columns():
    stream = PromptStream(plain_dataset(3), seed=0, shuffle=False)
    assert stream.rows(stream.take(1), 1) == [{"prompt": "0+1=", "answer": "1"}]


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("make", [letters, streamed])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_stream_continues_after_every_batch(make, shuffle):
    stream = PromptStream(make("abcdefg"), seed=5, shuffle=shuffle)
    for _ in range(12):
        other = resumed(stream, PromptStream(make("abcdefg"), seed=5, shuffle=shuffle))
        assert other.state_dict() == stream.state_dict()
        assert batch(other, 3, 2) == batch(stream, 3, 2)


def test_a_resumed_stream_knows_its_waiting_prompts():
    stream = PromptStream(letters("abcd"), seed=165)
    batch(stream, 2)
    batch(stream, 2, 2)  # c and d of the second epoch wait, as above
    assert len(stream.state_dict()["waiting"]) == 2
    assert batch(resumed(stream, PromptStream(letters("abcd"), seed=165)), 3) == ["cdb"]


def test_loading_a_state_goes_back_too():
    stream = PromptStream(letters("abcdef"), seed=0)
    state = stream.state_dict()
    first = batch(stream, 6, 1)
    batch(stream, 5)
    stream.load_state_dict(state)
    assert batch(stream, 6, 1) == first


operations = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=4), max_size=6)


def run(stream: PromptStream, batches: list[list[tuple[int, int]]]) -> list[list[str]]:
    """The prompts of these batches, each a list of `(count, multiple_of)`, take by take."""
    served = []
    for takes in batches:
        stream.begin_batch()
        served.append([text_of(stream, stream.take(count, multiple_of)) for count, multiple_of in takes])
    return served


@settings(deadline=None, max_examples=50)
@given(operations, operations, st.text("abc", min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_a_resumed_stream_continues_identically_from_any_point(before, after, text, shuffle, distinct, iterable):
    make = streamed if iterable else letters
    stream, other = (PromptStream(make(text), seed=1, shuffle=shuffle, distinct=distinct) for _ in range(2))
    run(stream, before)
    other = resumed(stream, other)
    assert run(other, after) == run(stream, after)
    assert other.state_dict() == stream.state_dict()


# ---------------------------------------------------------------------------------------------------------- properties


@settings(deadline=None, max_examples=50)
@given(operations, st.integers(1, 8), st.booleans(), st.booleans())
def test_no_prompt_is_twice_in_a_batch_and_none_a_whole_epoch_behind(batches, size, shuffle, iterable):
    dataset = (streamed if iterable else letters)("abcdefgh"[:size])
    stream = PromptStream(dataset, seed=2, shuffle=shuffle)
    served, whole = Counter(dict.fromkeys("abcdefgh"[:size], 0)), 0
    for chunks in run(stream, batches):
        prompts = "".join(chunks)
        assert len(set(prompts)) == len(prompts)
        served.update(prompts)
        # Whatever the sizes of the takes: every prompt once before any twice
        assert max(served.values()) - min(served.values()) <= 1
        # A third batch in a row that takes the whole dataset ends the pass, and the count begins again
        whole = whole + 1 if len(prompts) == size else whole if not prompts else 0
        if whole >= 3:
            served = Counter(dict.fromkeys(served, 0))


@settings(deadline=None, max_examples=50)
@given(operations, st.integers(1, 8))
def test_a_take_is_as_full_as_the_dataset_allows(batches, size):
    stream = PromptStream(letters("abcdefgh"[:size]), seed=2)
    for takes in batches:
        stream.begin_batch()
        left = size
        for count, multiple_of in takes:
            expected = min(count, left) // multiple_of * multiple_of
            assert len(stream.take(count, multiple_of)) == expected
            left -= expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), max_size=8), st.booleans())
def test_the_sizes_of_the_takes_do_not_change_the_order(counts, iterable):
    make = streamed if iterable else letters
    text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"
    stream, whole = PromptStream(make(text), seed=4), PromptStream(make(text), seed=4)
    assert "".join(batch(stream, *counts)) == batch(whole, sum(counts))[0]


# -------------------------------------------------------------------------------------------- properties, with history

HISTORIES = st.fixed_dictionaries(
    {
        "skip_degenerate": st.booleans(),
        "skip_solved_above": st.sampled_from([None, 0.5, 1.0]),
        "thompson": st.booleans(),
    }
)
# What is learned of the prompts of a batch, by turns
VISITS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=5)


def learn(history: PromptHistory, prompts: list, visits: list[tuple[int, int, bool]]) -> None:
    for number, prompt in enumerate(prompts):
        history.record(prompt.identity, *visits[number % len(visits)])
    history.end_rollout()


def train(stream: PromptStream, history: PromptHistory, batches: list, visits: list) -> list[list[str]]:
    """The prompts of these batches, take by take, of each of which something is learned at its end."""
    served = []
    for number, takes in enumerate(batches):
        stream.begin_batch()
        taken = [stream.take(count, multiple_of) for count, multiple_of in takes]
        learn(history, list(chain(*taken)), visits[number % len(visits) :] + visits)
        served.append([text_of(stream, one) for one in taken])
    return served


@settings(max_examples=100)
@given(operations, VISITS, st.integers(1, 8), HISTORIES, st.booleans(), st.booleans())
@example(
    [[(1, 1)], [(2, 1)], [(2, 1)], [(2, 1)]],
    [(0, 0, False)],
    2,
    {"skip_degenerate": False, "skip_solved_above": None, "thompson": False},
    False,
    False,
)
def test_with_a_history_no_prompt_is_twice_in_a_batch_and_a_take_is_as_full_as_the_dataset_allows(
    batches, visits, size, switches, shuffle, iterable
):
    history = PromptHistory(3, **switches)
    stream = PromptStream((streamed if iterable else letters)(ALPHABET[:size]), 3, shuffle, history=history)
    everything = in_a_row = most_in_a_row = 0
    for takes, served in zip(batches, train(stream, history, batches, visits), strict=True):
        prompts = "".join(served)
        assert len(set(prompts)) == len(prompts)
        if prompts:
            in_a_row = in_a_row + 1 if len(prompts) == size else 0
            most_in_a_row = max(most_in_a_row, in_a_row)
        left = size
        for (count, multiple_of), taken in zip(takes, served, strict=True):
            assert len(taken) == min(count, left) // multiple_of * multiple_of
            left -= len(taken)
        everything += len(prompts)
    assert stream.served == everything
    assert stream.passed_over >= 0
    # After three batches in a row that hold the whole dataset, what is left of a pass is passed over
    if not any(switches.values()) and most_in_a_row < 3:
        assert stream.passed_over == 0


@settings(max_examples=60)
@given(operations, operations, VISITS, st.integers(1, 12), HISTORIES, st.booleans())
def test_with_a_history_a_resumed_stream_continues_identically_from_any_point(
    before, after, visits, size, switches, iterable
):
    def fresh() -> tuple[PromptStream, PromptHistory]:
        history = PromptHistory(3, **switches)
        return PromptStream((streamed if iterable else letters)(ALPHABET[:size]), 3, history=history), history

    stream, history = fresh()
    train(stream, history, before, visits)
    other_stream, other_history = fresh()
    saved = json.loads(json.dumps({"prompts": stream.state_dict(), "history": history.state_dict()}))
    other_stream.load_state_dict(saved["prompts"])
    other_history.load_state_dict(saved["history"])
    assert other_stream.progress == stream.progress
    assert train(other_stream, other_history, after, visits) == train(stream, history, after, visits)
    assert other_stream.state_dict() == stream.state_dict()
    assert other_history.state_dict() == history.state_dict()
    assert other_stream.progress == stream.progress


@settings(max_examples=50)
@given(operations, VISITS, st.integers(1, 12), st.sampled_from([None, 0.5, 1.0]))
def test_every_prompt_of_an_epoch_is_served_passed_over_or_waits(batches, visits, size, solved):
    history = PromptHistory(3, skip_degenerate=True, skip_solved_above=solved, thompson=True)
    stream = PromptStream(letters(ALPHABET[:size]), 3, history=history)
    train(stream, history, batches, visits)
    waiting = len(stream.state_dict()["waiting"])
    assert stream.served + stream.passed_over + waiting == round(stream.progress * size)


@settings(max_examples=100)
@given(operations, VISITS, st.integers(1, 8), HISTORIES, st.booleans(), st.integers(0, 3))
def test_with_carried_prompts_no_prompt_is_twice_in_a_batch_and_a_take_is_as_full_as_the_dataset_allows(
    batches, visits, size, switches, iterable, most
):
    history = PromptHistory(3, **switches)
    stream = PromptStream((streamed if iterable else letters)(ALPHABET[:size]), 3, history=history)
    carried: list = []
    for takes in batches:
        stream.begin_batch(held=[(prompt.identity, prompt.epoch) for prompt in carried])
        prompts, left = [], size - len(carried)
        for count, multiple_of in takes:
            taken = stream.take(count, multiple_of)
            assert len(taken) == min(count, left) // multiple_of * multiple_of
            left -= len(taken)
            prompts += taken
        identities = [prompt.identity for prompt in carried + prompts]
        assert len(set(identities)) == len(identities)
        learn(history, prompts, visits)
        # The latest ones, those that were carried before among them, as the trainer does with surplus groups
        carried = (carried + prompts)[::-1][:most]
