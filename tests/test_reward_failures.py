"""Errors of reward functions name the function and the row; a function that does not fail behaves as ever."""

import asyncio
import functools
import inspect
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import GRPOTrainer
from trl.trainer import utils as host_utils
from trl.trainer.utils import get_callable_name, start_event_loop_in_daemon

from trl_dapo.grpo.reward_errors import SHOWN_CHARACTERS, named


# TRL's test of what it awaits, which older releases write out where they need it
is_async_callable = getattr(host_utils, "is_async_callable", inspect.iscoroutinefunction)
awaits_objects = pytest.mark.skipif(
    not hasattr(host_utils, "is_async_callable"), reason="this TRL awaits functions alone, not objects that are called"
)


class Judge:
    """A callable object, which has no `__name__`."""

    def __init__(self, body):
        self.body = body

    def __call__(self, **kwargs):
        return self.body(**kwargs)


class AsyncJudge(Judge):
    async def __call__(self, **kwargs):
        await asyncio.sleep(0)
        return self.body(**kwargs)


def plain(body):
    def judge(**kwargs):
        return body(**kwargs)

    return judge


def coroutine(body):
    async def judge(**kwargs):
        await asyncio.sleep(0)
        return body(**kwargs)

    return judge


def partial(body):
    return functools.partial(plain(body), unused=1)


def async_partial(body):
    return functools.partial(AsyncJudge(body), unused=1)


FORMS = [plain, coroutine, Judge, AsyncJudge, partial, async_partial]
every_form = pytest.mark.parametrize("form", FORMS)
sync_and_async = pytest.mark.parametrize("form", [plain, coroutine])


def call(reward_func, *texts, **kwargs):
    """Calls a reward function as TRL does, on one row per text."""
    columns = {"prompts": [f"say {text}" for text in texts], "completions": list(texts)}
    columns["completion_ids"] = [[ord(letter) for letter in text] for text in texts]
    result = reward_func(**columns | {"trainer_state": None, "log_extra": print, "log_metric": print} | kwargs)
    return asyncio.run(result) if is_async_callable(reward_func) else result


def as_numbers(completions, **kwargs):
    return [float(completion) for completion in completions]


def error_of(reward_func, *texts, kind=RuntimeError, timeout=None, **kwargs):
    """The message of the error that a call ends in."""
    with pytest.raises(kind) as caught:
        call(named(reward_func, "my_judge", timeout), *texts, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- no failure


@every_form
@pytest.mark.parametrize(
    "rewards",
    [
        [1.0, None],
        (1, True),
        [float("nan"), -3e38],
        [None, None],
        torch.tensor([0.5, 1.5]),
        torch.tensor([[0.5], [1.5]]),  # TRL takes tensors of one number for numbers
        np.array([0.5, 1.5], dtype=np.float32),
        np.array([True, False]),
        [torch.tensor(0.5), np.float64(1.5)],
    ],
    ids=repr,
)
def test_a_good_function_is_called_once_and_its_result_returned_as_it_is(form, rewards):
    calls = []

    def good(**kwargs):
        calls.append(kwargs)
        return rewards

    log = object()
    environments = [object(), object()]
    result = call(named(form(good), "my_judge", 60), "a", "b", log_extra=log, environments=environments)
    assert result is rewards
    (arguments,) = calls
    assert arguments.pop("unused", 1) == 1  # the partial's own
    assert arguments == {
        "prompts": ["say a", "say b"],
        "completions": ["a", "b"],
        "completion_ids": [[97], [98]],
        "trainer_state": None,
        "log_extra": log,
        "log_metric": print,
        "environments": environments,
    }
    assert arguments["environments"] is environments


@awaits_objects
@every_form
def test_trl_sees_the_same_name_and_the_same_need_to_await(form):
    reward_func = form(as_numbers)
    wrapper = named(reward_func, "my_judge")
    assert get_callable_name(wrapper) == get_callable_name(reward_func)
    assert wrapper.__name__ == get_callable_name(reward_func)
    assert is_async_callable(wrapper) == is_async_callable(reward_func)


def test_a_function_keeps_its_signature_and_docstring():
    def documented(completions: list[str], **kwargs) -> list[float]:
        """Says something."""
        return as_numbers(completions)

    wrapper = named(documented, "my_judge")
    assert wrapper.__doc__ == "Says something."
    assert inspect.signature(wrapper) == inspect.signature(documented)


def test_a_reward_model_is_returned_as_it_is():
    model = torch.nn.Linear(1, 1)
    assert named(model, "my_judge") is model


# -------------------------------------------------------------------------------------------------------------- raised


@every_form
def test_the_error_names_function_row_type_prompt_and_completion(form):
    assert error_of(form(as_numbers), "1", "2", "x\x1b[2J", "y") == (
        "The reward function 'my_judge' failed on row 2 of rows 0 to 3: "
        "ValueError: \"could not convert string to float: 'x\\\\x1b[2J'\"\n"
        "Prompt: 'say x\\x1b[2J'\n"
        "Completion: 'x\\x1b[2J'"
    )


@sync_and_async
def test_the_cause_is_the_original_error(form):
    errors = []

    def failing(**kwargs):
        errors.append(KeyError("missing"))
        raise errors[-1]

    with pytest.raises(RuntimeError) as caught:
        call(named(form(failing), "my_judge"), "1", "2")
    assert caught.value.__cause__ is errors[0]


@sync_and_async
def test_each_row_is_tried_with_its_own_columns_and_all_scalars(form):
    calls = []

    def failing(**kwargs):
        calls.append(kwargs)
        if "c" in kwargs["completions"]:
            raise ValueError
        return [0.0]

    state, environments = object(), [object(), object(), object()]
    columns = {"solution": ["A", "B", None], "tools": [[], ["t"], ["t", "u"]], "environments": environments}
    untouched = {"trainer_state": state, "pair": [1, 2], "long": [1, 2, 3, 4], "triple": (1, 2, 3), "word": "abc"}
    assert "row 2 of rows 0 to 2" in error_of(form(failing), "a", "b", "c", **columns, **untouched)
    _, *alone = calls
    assert len(alone) == 3
    for row, arguments in enumerate(alone):
        assert {key: arguments[key] for key in columns} == {key: [value[row]] for key, value in columns.items()}
        assert {key: arguments[key] for key in untouched} == untouched
        assert arguments["trainer_state"] is state
        assert arguments["environments"][0] is environments[row]
        assert arguments["prompts"] == [f"say {'abc'[row]}"]
        assert arguments["completion_ids"] == [[97 + row]]


def test_a_sync_function_is_tried_up_to_the_first_row_that_fails():
    tried = []

    def failing(completions, **kwargs):
        tried.append(completions)
        return as_numbers(completions)

    assert "row 1 of" in error_of(failing, "1", "x", "y")
    assert tried == [["1", "x", "y"], ["1"], ["x"]]


def test_an_async_function_is_tried_on_all_rows_at_once_and_the_first_row_reported():
    running, most = 0, 0

    async def failing(completions, **kwargs):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        # The later row fails earlier
        await asyncio.sleep(0.02 if completions == ["x"] else 0.01)
        running -= 1
        return as_numbers(completions)

    assert "row 1 of rows 0 to 3" in error_of(failing, "1", "x", "y", "2")
    assert most == 4


@sync_and_async
def test_logging_is_silent_while_rows_are_tried(form):
    logged = []

    def failing(completions, log_extra, log_metric, **kwargs):
        log_extra("column", completions)
        log_metric("rows", value=len(completions))
        return as_numbers(completions)

    logs = {
        "log_extra": lambda column, values: logged.append(values),
        "log_metric": lambda name, value: logged.append(value),
    }
    assert "row 1 of" in error_of(form(failing), "1", "x", **logs)
    assert logged == [["1", "x"], 2]


@sync_and_async
def test_logging_functions_are_not_added_to_a_call_without_them(form):
    def failing(prompts, completions):
        return as_numbers(completions)

    reward_func = named(form(failing), "my_judge")
    columns = {"prompts": ["p", "q"], "completions": ["1", "x"]}
    with pytest.raises(RuntimeError, match="on row 1 of rows 0 to 1: ValueError"):
        asyncio.run(reward_func(**columns)) if form is coroutine else reward_func(**columns)


@sync_and_async
def test_a_function_that_fails_on_no_row_alone_says_so(form):
    def failing(completions, **kwargs):
        if len(completions) > 1:
            raise ZeroDivisionError("no spread")
        return [0.0]

    assert error_of(form(failing), "a", "b", "c") == (
        "The reward function 'my_judge' fails on the batch of 3 rows, but on none of them alone: "
        "ZeroDivisionError: 'no spread'"
    )


@sync_and_async
def test_a_batch_of_one_row_fails_on_that_row_even_where_it_does_not_fail_twice(form):
    attempts = []

    def failing_once(**kwargs):
        attempts.append(kwargs)
        if len(attempts) == 1:
            raise ConnectionError("gone")
        return [0.0]

    assert "failed on row 0 of rows 0 to 0: ConnectionError: 'gone'\nPrompt: 'say a'" in error_of(
        form(failing_once), "a"
    )


@sync_and_async
def test_a_row_that_raises_something_else_alone_says_what(form):
    def failing(completions, **kwargs):
        if len(completions) == 1:
            raise TypeError("two rows needed")
        return as_numbers(completions)

    message = error_of(form(failing), "1", "x")
    assert "row 0 of rows 0 to 1: ValueError: " in message
    assert "\nCalled with this row alone, it raises TypeError: 'two rows needed'\nPrompt: 'say 1'" in message


@sync_and_async
def test_long_texts_are_shortened_in_the_middle(form):
    def failing(completions, **kwargs):
        raise ValueError(completions[0])

    message = error_of(form(failing), "first" + "x" * 1000 + "last")
    # repr's quotes included: 300 characters of the text and 5 for what is left out
    shown = re.findall(r"'(?:say )?first.*last'", message)
    assert [len(text) for text in shown] == [SHOWN_CHARACTERS + 5] * 3
    assert "y" * 298 in error_of(form(failing), "y" * 298)


@sync_and_async
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interruptions_pass_through(form, interruption):
    calls = []

    def interrupted(**kwargs):
        calls.append(kwargs)
        raise interruption

    with pytest.raises(interruption):
        call(named(form(interrupted), "my_judge"), "a", "b")
    assert len(calls) == 1


# ------------------------------------------------------------------------------------------------------------ timeouts


async def slow_on_x(completions, **kwargs):
    await asyncio.sleep(60 if "x" in completions else 0)
    return [0.0] * len(completions)


@pytest.mark.parametrize("reward_func", [slow_on_x, functools.partial(slow_on_x)])
def test_an_async_call_beyond_the_timeout_fails_with_the_seconds_and_the_row(reward_func):
    message = error_of(reward_func, "a", "b", "x", timeout=0.05)
    assert "row 2 of rows 0 to 2: TimeoutError: 'no rewards after 0.05 seconds'\nPrompt: 'say x'" in message


def test_a_batch_that_is_slow_as_a_whole_only_fails_on_none_of_its_rows():
    async def one_by_one(completions, **kwargs):
        await asyncio.sleep(60 if len(completions) > 1 else 0)
        return [0.0]

    message = error_of(one_by_one, "a", "b", timeout=0.05)
    assert "none of them alone: TimeoutError: 'no rewards after 0.05 seconds'" in message


def test_rows_are_tried_under_the_timeout_each():
    async def slow_alone(completions, **kwargs):
        if len(completions) > 1:
            raise ValueError("bad")
        await asyncio.sleep(60)

    assert "this row alone, it raises TimeoutError: 'no rewards after 0.05 seconds'" in error_of(
        slow_alone, "a", "b", timeout=0.05
    )


@sync_and_async
def test_a_timeout_of_the_functions_own_says_how_long_it_took(form):
    def own(**kwargs):
        raise TimeoutError

    # Not the timeout, which is not what ended it
    for timeout in (60, None):
        message = error_of(form(own), "a", timeout=timeout)
        assert float(re.search(r"TimeoutError: 'no rewards after (\S+) seconds'", message)[1]) < 30


@sync_and_async
def test_a_timeout_with_a_message_keeps_it(form):
    def own(**kwargs):
        raise TimeoutError("the sandbox is gone")

    assert "TimeoutError: 'the sandbox is gone'" in error_of(form(own), "a", timeout=60)


def test_a_sync_function_is_not_bounded():
    def unhurried(completions, **kwargs):
        time.sleep(0.1)
        return as_numbers(completions)

    assert call(named(unhurried, "my_judge", timeout=0.05), "1") == [1.0]


# ------------------------------------------------------------------------------------------------------- wrong results


@every_form
@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (1.0, "1.0 (of type float)"),
        (None, "None (of type NoneType)"),
        ("10", "'10' (of type str)"),
        (b"10", "b'10' (of type bytes)"),
        ({0: 1.0, 1: 0.0}, "{0: 1.0, 1: 0.0} (of type dict)"),
        (torch.tensor(1.0), "tensor(1.) (of type Tensor)"),
        (np.array(1.0), "array(1.) (of type ndarray)"),
        (iter([1.0, 0.0]), "(of type list_iterator)"),
    ],
    ids=lambda value: type(value).__name__,  # the same in every process, unlike an address
)
def test_what_is_no_sequence_of_rewards_is_an_error_that_says_what_it_is(form, rewards, said):
    message = error_of(form(lambda **kwargs: rewards), "a", "b", kind=ValueError)
    assert message.startswith("The reward function 'my_judge' returned ")
    assert f"{said} instead of a list, tuple, tensor or array of rewards." in message


@sync_and_async
def test_a_generator_is_an_error_and_is_not_read(form):
    rewards = (reward for reward in [1.0, 0.0])
    assert "(of type generator)" in error_of(form(lambda **kwargs: rewards), "a", "b", kind=ValueError)
    assert next(rewards) == 1.0


@every_form
@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
def test_too_few_rewards_are_an_error_with_the_first_row_without_one(form, kind):
    message = error_of(form(lambda **kwargs: kind([1.0, 0.0])), "a", "b", "c", "d", kind=ValueError)
    assert message == (
        "The reward function 'my_judge' returned 2 rewards, and 4 were expected, one per completion. "
        "The first row without one is row 2.\nPrompt: 'say c'\nCompletion: 'c'"
    )


@every_form
def test_too_many_rewards_are_an_error(form):
    assert error_of(form(lambda **kwargs: [0.0] * 3), "a", "b", kind=ValueError) == (
        "The reward function 'my_judge' returned 3 rewards, and 2 were expected, one per completion."
    )


@every_form
@pytest.mark.parametrize(
    "reward",
    ["1", "", b"1", [1.0], (), {}, 1j, object(), np.array([1.0]), torch.tensor([1.0, 2.0]), 10**400],
    ids=lambda reward: repr(reward)[:20],
)
def test_a_reward_that_is_no_number_is_an_error_with_its_row(form, reward):
    message = error_of(form(lambda **kwargs: [None, 1.0, reward]), "a", "b", "c", kind=ValueError)
    digits = "1" + "0" * 149 + " ... " + "0" * 150
    shown = digits if isinstance(reward, int) else repr(reward)
    assert message == (
        f"The reward function 'my_judge' returned {shown} (of type {type(reward).__name__}) for row 2 of rows 0 to 2, "
        "which is neither a number nor None.\nPrompt: 'say c'\nCompletion: 'c'"
    )


@sync_and_async
def test_a_wrong_result_is_no_reason_to_call_again(form):
    calls = []
    error_of(form(lambda **kwargs: calls.append(kwargs)), "a", "b", kind=ValueError)
    assert len(calls) == 1


# ----------------------------------------------------------------------------------------------------------- with TRL


@pytest.fixture
def rewards_of():
    """TRL's own calculation of rewards, on a stand-in for the trainer with the fields that it reads."""
    thread, loop, ready = start_event_loop_in_daemon(name="test")
    ready.wait()
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        state=SimpleNamespace(global_step=0),
        environments=None,
        async_loop=loop,
        _log_completion_extra=print,
        _log_metric=print,
    )

    def calculate(*reward_funcs):
        stub.reward_funcs = list(reward_funcs)
        stub.reward_processing_classes = [None] * len(reward_funcs)
        stub.reward_func_names = [get_callable_name(reward_func) for reward_func in reward_funcs]
        inputs = [{"prompt": prompt, "solution": solution} for prompt, solution in zip("pqr", "123", strict=True)]
        texts = ["1", "2", "4"]
        return GRPOTrainer._calculate_rewards(stub, inputs, list("pqr"), texts, [[1], [2], [4]])

    yield calculate
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@awaits_objects
def test_trl_gets_the_same_rewards_from_the_wrapper(rewards_of):
    def agree(completions, solution, trainer_state, **kwargs):
        return [1.0 if text == right else None for text, right in zip(completions, solution, strict=True)]

    # A reward that is there for all rows: TRL warns of rows without any
    reward_funcs = [as_numbers, *(form(agree) for form in FORMS)]
    wrapped = [named(reward_func, "my_judge", 60) for reward_func in reward_funcs]
    # The completions are 1, 2 and 4; the first two agree with their solution, and None becomes NaN
    others = [1.0] * len(FORMS), [1.0] * len(FORMS), [torch.nan] * len(FORMS)
    expected = torch.tensor([[1.0, *others[0]], [2.0, *others[1]], [4.0, *others[2]]])
    assert torch.equal(rewards_of(*wrapped).nan_to_num(-1.0), expected.nan_to_num(-1.0))
    assert torch.equal(rewards_of(*wrapped).nan_to_num(-1.0), rewards_of(*reward_funcs).nan_to_num(-1.0))


@every_form
def test_a_failure_below_trl_ends_in_the_named_error(rewards_of, form):
    def failing(completions, solution, **kwargs):
        return [1 / (text == right) for text, right in zip(completions, solution, strict=True)]

    pattern = "(?s)'my_judge' failed on row 2 of rows 0 to 2: ZeroDivisionError.*Prompt: 'r'\nCompletion: '4'"
    with pytest.raises(RuntimeError, match=pattern):
        rewards_of(named(form(as_numbers), "sound"), named(form(failing), "my_judge", 60))
