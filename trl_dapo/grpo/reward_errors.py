"""
Reward functions whose failure stops the run with an error that names the function and the row.

This file has the wrapper, the search for the failing row and the checks of the returned rewards. It has no way to
continue after a failure. A function that does not fail is called once, with TRL's own arguments, and the object that
it returns is passed on unchanged.
"""

import asyncio
import functools
import inspect
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


SHOWN_CHARACTERS = 300


def named(reward_func: Callable, name: str, timeout: float | None = None) -> Callable:
    """
    Returns `reward_func` with errors that name it and the row on which it fails. A reward model is returned unchanged.

    A function that raises is called again, one row at a time, with `log_extra` and `log_metric` silenced.

    Args:
        reward_func (`Callable`):
            Reward function, sync or async, called with keyword arguments as TRL calls it.
        name (`str`):
            Name of the function in errors.
        timeout (`float`, *optional*):
            Most seconds that one call of an async function may take. A sync function cannot be interrupted.

    Raises:
        `RuntimeError`: When called, if `reward_func` raises. Its cause is the error that `reward_func` raised.
        `ValueError`: When called, if `reward_func` does not return one finite number, NaN or `None` per row.
    """
    if isinstance(reward_func, torch.nn.Module):
        return reward_func
    # TRL also looks into partial objects, for the name and for whether to await
    inner: Any = reward_func
    while isinstance(inner, functools.partial):
        inner = inner.func
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(inner.__call__)
    wrapper = _async(reward_func, name, timeout) if is_async else _sync(reward_func, name)
    wrapper.__name__ = getattr(inner, "__name__", type(inner).__name__)
    return wrapper


def _sync(reward_func: Callable, name: str) -> Any:
    def attempt(kwargs: dict[str, Any]) -> Any:
        with _readable_timeouts():
            return reward_func(**kwargs)

    def first_failure(kwargs: dict[str, Any]) -> tuple[int, Exception] | None:
        for row, alone in enumerate(_rows(kwargs)):
            try:
                attempt(alone)
            except Exception as error:
                return row, error
        return None

    @functools.wraps(reward_func)
    def wrapper(**kwargs: Any) -> Any:
        try:
            rewards = attempt(kwargs)
        except Exception as error:
            raise _failure(name, kwargs, error, first_failure(kwargs)) from error
        _check(rewards, name, kwargs)
        return rewards

    return wrapper


def _async(reward_func: Callable, name: str, timeout: float | None) -> Any:
    async def attempt(kwargs: dict[str, Any]) -> Any:
        with _readable_timeouts(timeout):
            return await asyncio.wait_for(reward_func(**kwargs), timeout)

    async def first_failure(kwargs: dict[str, Any]) -> tuple[int, Exception] | None:
        results = await asyncio.gather(*map(attempt, _rows(kwargs)), return_exceptions=True)
        return next(((row, result) for row, result in enumerate(results) if isinstance(result, Exception)), None)

    @functools.wraps(reward_func)
    async def wrapper(**kwargs: Any) -> Any:
        try:
            rewards = await attempt(kwargs)
        except Exception as error:
            raise _failure(name, kwargs, error, await first_failure(kwargs)) from error
        _check(rewards, name, kwargs)
        return rewards

    return wrapper


@contextmanager
def _readable_timeouts(timeout: float | None = None) -> Generator[None, None, None]:
    start = time.monotonic()
    try:
        yield
    except TimeoutError as error:
        if not str(error):
            seconds = time.monotonic() - start
            seconds = seconds if timeout is None else min(seconds, timeout)
            error.args = (f"no rewards after {round(seconds, 3)} seconds",)
        raise


def _silent(*args: Any, **kwargs: Any) -> None:
    pass


def _rows(kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments for one call per row."""
    size = len(kwargs["prompts"])
    per_row = [key for key, value in kwargs.items() if isinstance(value, list) and len(value) == size]
    shared = kwargs | dict.fromkeys({"log_extra", "log_metric"} & kwargs.keys(), _silent)
    return [shared | {key: [kwargs[key][row]] for key in per_row} for row in range(size)]


def _failure(name: str, kwargs: dict[str, Any], error: Exception, found: tuple[int, Exception] | None) -> Exception:
    size = len(kwargs["prompts"])
    if size == 1:  # the only row is the failing one, even if the second call succeeded
        found = 0, error
    if found is None:
        text = f"fails on the batch of {size} rows, but on none of them alone"
        return RuntimeError(f"The reward function {name!r} {text}: {_said(error)}")
    row, alone = found
    # A function that scores its rows concurrently can raise the error of another row
    differs = "" if _said(alone) == _said(error) else f"\nCalled with this row alone, it raises {_said(alone)}"
    text = f"failed on row {row} of rows 0 to {size - 1}"
    return RuntimeError(f"The reward function {name!r} {text}: {_said(error)}{differs}{_texts(kwargs, row)}")


def _check(rewards: Any, name: str, kwargs: dict[str, Any]) -> None:
    size = len(kwargs["prompts"])
    text = f"The reward function {name!r} returned"
    try:
        if isinstance(rewards, str | bytes | Mapping):
            raise TypeError
        len(rewards)  # refuses a generator, which TRL could not read a second time
        entries = list(rewards)
    except TypeError:
        raise ValueError(f"{text} {_kind(rewards)} instead of a list, tuple, tensor or array of rewards.") from None
    got = len(entries)
    if got != size:
        first = f" The first row without one is row {got}.{_texts(kwargs, got)}" if got < size else ""
        raise ValueError(f"{text} {got} rewards, and {size} were expected, one per completion.{first}")
    if not _are_numbers(entries):
        for row, entry in enumerate(entries):
            if not _are_numbers([entry]):
                text = f"{text} {_kind(entry)} for row {row} of rows 0 to {size - 1}"
                raise ValueError(f"{text}, which is neither a number nor None.{_texts(kwargs, row)}")
    _check_finite(entries, text, kwargs)


def _check_finite(entries: list[Any], text: str, kwargs: dict[str, Any]) -> None:
    """Raises for a reward that is infinite, or that becomes so in float32, in which TRL keeps rewards."""
    infinite = torch.tensor([torch.nan if entry is None else entry for entry in entries], dtype=torch.float32).isinf()
    if not infinite.any():
        return
    row = int(infinite.nonzero()[0])
    what = "too large for float32, in which rewards are kept" if math.isfinite(entries[row]) else "not finite"
    raise ValueError(
        f"{text} {_kind(entries[row])} for row {row} of rows 0 to {len(entries) - 1}, which is {what}. Return a "
        f"finite number, or None where the function does not apply.{_texts(kwargs, row)}"
    )


def _are_numbers(entries: list[Any]) -> bool:
    """Whether TRL can make a column of these rewards. Tries what TRL does."""
    try:
        rewards = torch.tensor([torch.nan if entry is None else entry for entry in entries], dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return rewards.dim() == 1


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(str(error))}"


def _kind(value: Any) -> str:
    return f"{_short(value)} (of type {type(value).__name__})"


def _texts(kwargs: dict[str, Any], row: int) -> str:
    return f"\nPrompt: {_short(kwargs['prompts'][row])}\nCompletion: {_short(kwargs['completions'][row])}"


def _short(value: Any) -> str:
    # Model output is untrusted: `repr` escapes control characters. The end of a text tells as much as its start
    text = repr(value)
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
