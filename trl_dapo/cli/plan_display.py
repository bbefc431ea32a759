"""
Prints a plan: tables and bars on a terminal, plain lines elsewhere.
"""

import sys
from typing import Any

from trl_dapo.planning.cards import GIB
from trl_dapo.planning.memory_plan import MemoryPlan

from .plan_result import Result, Verdict, tokens_of


BAR = 32
WEIGHTS_ALONE = "load"


# How much more than their plan published runs took at most: 2.74 GiB where 1.95 were planned
WORST_MISS = 0.41


def gib(amount: int) -> str:
    """Returns bytes as GiB, or as MiB where they are few."""
    return f"{amount / GIB:.2f} GiB" if abs(amount) >= GIB / 10 else f"{amount / 2**20:.1f} MiB"


def print_result(result: Result) -> None:
    """Prints what `trl-dapo plan` has found."""
    if result.batch:
        _print_section("batch", list(result.batch))
    limit = result.verdict.card.usable if result.verdict else None
    _print_memory(result.plan, limit)
    _print_section("rests on", [*result.planned.assumptions])
    if result.plan.modelled:
        _print_section("modelled, not traced", [*result.plan.modelled])
    if result.time is not None:
        lines = [f"{name:<9} {seconds:8.1f} s" for name, seconds in result.time.seconds.items()]
        _print_section(
            "seconds per step", [*lines, f"{'all':<9} {result.time.total:8.1f} s", *result.time.assumptions]
        )
    _print_section("verdict", verdict_lines(result))


def short_lines(plan: MemoryPlan, fitting: tuple[str, ...]) -> list[str]:
    """Returns a line per phase, the total, and the cards that it fits on, for a dry run."""
    lines = [f"{phase.name:<9} {gib(phase.bytes):>10}  {_greatest(phase)}" for phase in plan.phases]
    lines.append(
        f"{'needs':<9} {gib(plan.bytes):>10}  the peak ({plan.peak.name}) and {plan.fragmentation:.0%} for "
        "fragmentation"
    )
    cards = f"fits on cards of {fitting[0]} and more" if fitting else "fits on no card of up to 80gb"
    return [*lines, f"{cards}; `trl-dapo plan --gpu 12gb` says what to change for another"]


def verdict_lines(result: Result) -> list[str]:
    """Returns what is to be said of the card, in lines."""
    verdict, needs = result.verdict, gib(result.plan.bytes)
    if verdict is None:
        cards = f"fits on cards of {', '.join(result.fitting)}" if result.fitting else "fits on no card of up to 80gb"
        return [f"needs {needs}: {cards}. --gpu 12gb says what to change for one of them"]
    lines = [str(verdict.card)]
    if verdict.fits:
        share = verdict.spare / verdict.card.usable
        lines.append(f"fits: needs {needs}, {gib(verdict.spare)} ({share:.0%}) to spare")
        if verdict.spare < WORST_MISS * result.plan.bytes:
            lines.append(
                f"tight: published runs took up to {WORST_MISS:.0%} more than their plan (docs/plan_validation.md). "
                "Leave more, or watch the first steps"
            )
    else:
        lines += [f"does not fit: needs {needs}, {gib(-verdict.spare)} too much", *_first_knob(verdict)]
    return lines + _most(result, verdict)


def _first_knob(verdict: Verdict) -> list[str]:
    change = verdict.change
    if change is None:
        return ["no single setting saves memory; take a smaller model"]
    left = verdict.card.usable - change.needs
    enough = f"then it fits, {gib(left)} to spare" if left >= 0 else "which is not enough by itself; then plan again"
    return [f"first change   {change}: saves {gib(change.brings)}, {enough}"]


def _most(result: Result, verdict: Verdict) -> list[str]:
    most, shape = verdict.largest, result.planned.shape
    pairs: list[tuple[str, int | None]] = [("per_device_train_batch_size", most.per_device_train_batch_size)]
    if shape.round_rows:
        pairs += [("max_completion_length", most.completion_length), ("num_generations", most.num_generations)]
    else:
        pairs.append(("max_length", most.completion_length and most.completion_length + shape.prompt_length))
    known = [f"{name} {value}" for name, value in pairs if value]
    lines = [f"most, each with all else as it is: {', '.join(known)}"] if known else []
    if verdict.chunk:
        lines.append(
            f"chunk of generation for this card: generation_chunk_size {verdict.chunk}, or "
            f"max_tokens_per_generation_call {tokens_of(verdict.chunk, shape)}"
        )
    elif verdict.chunk == 0:
        lines.append("not even one group of completions fits in a call of `generate` with a tenth to spare")
    return lines


def _greatest(phase: Any) -> str:
    items = sorted(phase.items, key=lambda item: -item.bytes)[:3]
    return ", ".join(f"{item.name} {gib(item.bytes)}" for item in items if item.bytes)


def _print_section(title: str, lines: list[str]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(title, style="bold")
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False)
        return
    print(f"# {title}")
    print("\n".join(lines))


def _print_memory(plan: MemoryPlan, limit: int | None) -> None:
    if sys.stdout.isatty():
        _print_table(plan, limit)
        return
    print("# memory")
    for phase in plan.phases:
        print(f"{phase.name:<9} {gib(phase.bytes):>10} {_bar(phase.bytes, _full(plan, limit))}")
        for item in phase.items:
            print(f"  {item.name:<34} {gib(item.bytes):>10}  {item.how}")
    lost = int(plan.peak.bytes * plan.fragmentation)
    print(f"fragmentation {gib(lost)}: {plan.fragmentation:.0%} of the peak, which is {plan.peak.name}")
    print(f"needs     {gib(plan.bytes):>10}")


def _print_table(plan: MemoryPlan, limit: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(item.name for phase in plan.phases for item in phase.items))
    table = Table(
        "", *(phase.name for phase in plan.phases), title="memory at the peak of each phase", title_justify="left"
    )
    for name in names:
        sums = [sum(item.bytes for item in phase.items if item.name == name) for phase in plan.phases]
        table.add_row(name, *(gib(one) if one else "" for one in sums))
    table.add_section()
    table.add_row("all", *(gib(phase.bytes) for phase in plan.phases), style="bold")
    console = Console()
    console.print(table)
    for phase in plan.phases:
        bar = _bar(phase.bytes, _full(plan, limit))
        style = "red" if limit is not None and phase.bytes * (1 + plan.fragmentation) > limit else "green"
        console.print(f"{phase.name:<9} {bar} {gib(phase.bytes)}", style=style, markup=False, highlight=False)
    console.print(f"with {plan.fragmentation:.0%} for fragmentation: {gib(plan.bytes)}", highlight=False)


def _full(plan: MemoryPlan, limit: int | None) -> int:
    return max(limit or 0, plan.peak.bytes, 1)


def _bar(amount: int, full: int) -> str:
    filled = round(BAR * amount / full)
    return "[" + "#" * filled + "." * (BAR - filled) + "]"
