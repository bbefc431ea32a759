"""
Does the reward read what the prompt asks for, and does a right answer score above a wrong one?
"""

from .answer_formats import TEMPLATES
from .answers import Asked, Scored, answer_column, asked_of, asked_rows, scored_functions, scorer_for
from .findings import Finding, skipped
from .setup import Setup


FORMAT, ORDER = "answer_format", "right_above_wrong"
NAMES = (FORMAT, ORDER)


def check_rewards(setup: Setup) -> list[Finding]:
    """Returns a finding about formats for each reward function that reads answers, and one about the order."""
    if why := _no_question(setup):
        return [skipped(name, why) for name in NAMES]
    asked = asked_rows(setup)
    if not asked:
        return [
            skipped(name, "the answers of the dataset are not known: it has no column such as solution")
            for name in NAMES
        ]
    scored = scored_functions(setup, asked)
    readers = [one for one in scored if one.crash or one.is_verifier or _looks(one)]
    if not readers:
        why = "no reward function reads an answer: rewards of models and of other things have no format"
        return [skipped(name, why) for name in NAMES]
    return [*(_format_finding(setup, asked, one) for one in readers), _order_finding(readers)]


def _no_question(setup: Setup) -> str | None:
    if not setup.generates:
        return f"{setup.kind} has no reward functions"
    if not setup.sample.rows:
        return setup.sample.missing
    return None if setup.functions else "there are no reward functions"


def _looks(one: Scored) -> bool:
    return any(one.takes(name) or one.turns(name) for name in one.right)


def _format_finding(setup: Setup, asked: list[Asked], one: Scored) -> Finding:
    if one.crash:
        return Finding(
            FORMAT,
            "fail",
            f"{one.name} cannot score a plain answer: {one.crash}",
            setting="reward_funcs: one that does",
        )
    if any(one.turns(name) for name in one.right):
        return skipped(FORMAT, f"{one.name} scores wrong answers above right ones, see {ORDER}")
    taken = [name for name in one.right if one.takes(name)]
    refused = [name for name in one.right if name not in taken]
    details = {"taken": taken, "refused": refused, "rewards": {key: list(values) for key, values in one.right.items()}}
    numbers = {"formats_taken": float(len(taken)), "formats": float(len(one.right))}
    example = _text(asked[0], "asked")
    # Of a prompt that asks for nothing, a model makes a sentence
    says_nothing = not asked_of(asked[0].row)
    if ("sentence" if says_nothing else "asked") in taken:
        status, setting = "pass", None
        message = f"{one.name} takes {example!r}, and {len(taken)} of {len(one.right)} forms"
    elif says_nothing and any(name in TEMPLATES for name in taken):
        status, setting = "warn", f"add to each prompt: {_instruction(setup, one, taken)}"
        message = f"the prompts do not say how to write the answer, and {one.name} takes it only as {', '.join(taken)}"
    else:
        status, setting = "fail", _fix(setup, asked, one, taken)
        what = "a prompt asks for" if asked_of(asked[0].row) else "written plainly as"
        message = f"{what} {example!r}, the right answer, and {one.name} gives it {_reward(one)} as to a wrong one"
        message += f"; it takes {', '.join(taken)}" if taken else ""
    return Finding(FORMAT, status, message, numbers, setting, details)


def _order_finding(readers: list[Scored]) -> Finding:
    turned = [(one, name) for one in readers if not one.crash for name in one.right if one.turns(name)]
    if turned:
        one, name = turned[0]
        right, wrong = one.right[name][0], one.wrong[name][0]
        return Finding(
            ORDER,
            "fail",
            f"{one.name} gives the right answer {_number(right)} and a wrong one {_number(wrong)}, as {name}, and has "
            f"the weight {one.weight:g}",
            {"right": _float(right), "wrong": _float(wrong)},
            f"{'reward_weights' if one.weight < 0 else 'reward_funcs'}: turn the sign",
        )
    best = [(one, name) for one in readers if not one.crash for name in one.right if one.takes(name)]
    if not best:
        return skipped(ORDER, f"no form of the right answer is told from a wrong one, see {FORMAT}")
    one, name = best[0]
    right, wrong = one.right[name][0], one.wrong[name][0]
    message = f"{one.name} gives the right answer {_number(right)} and a wrong one {_number(wrong)}, as {name}"
    return Finding(ORDER, "pass", message, {"right": _float(right), "wrong": _float(wrong)})


def _fix(setup: Setup, asked: list[Asked], one: Scored, taken: list[str]) -> str:
    scorer = scorer_for(asked, setup.tokenizer) if asked_of(asked[0].row) else None
    if scorer is not None:
        column = answer_column(setup)
        return f"reward_funcs: {scorer}" + ("" if column in (None, "solution") else f", and answer_column: {column}")
    if taken:
        return f"change the prompts to ask for: {_instruction(setup, one, taken)}"
    return "reward_funcs: a function that reads the prompts' format"


def _instruction(setup: Setup, one: Scored, taken: list[str]) -> str:
    function = setup.functions[setup.names.index(one.name)]
    own = getattr(function, "answer_format", None)
    first = next((name for name in taken if name in TEMPLATES), "plain")
    return str(own) if own else f"Write the answer as {TEMPLATES[first].format('...')!r}."


def _text(one: Asked, name: str) -> str:
    return next(text.text for text in one.texts if text.format == name and text.is_right)


def _reward(one: Scored) -> str:
    return _number(one.right["asked"][0])


def _number(value: float | None) -> str:
    return "None" if value is None else f"{value:g}"


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
