"""
What is said about a merge: lines for the terminal, and the model card.
"""

import logging
import re
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCardData

from ..host.card_base import base_of
from ..host.card_file import sealed
from ..host.card_findings import findings_section
from ..host.card_text import Section, escaped
from ..host.model_card import TAG, package_lines
from ..monitor.finding import read_findings
from .choice import ENOUGH, Candidate, Choice
from .source import MergeSource


logger = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"checkpoint-\d+")
CALLED = {
    "original": "the original weights",
    "dequantized": "the 4-bit weights that training saw, written out",
}


def lines(source: MergeSource, choice: Choice) -> list[str]:
    """Returns the report, a line per fact, with what to do where something is lost."""
    taken = choice.taken
    found = [
        f"adapter of rank {source.adapter.r} on {source.base_called}",
        *(_candidate(one, source.scores) for one in (taken, *choice.others)),
    ]
    if choice.others:
        found[1] += " <- taken"
    if choice.without is not None:
        found.append(
            f"for comparison, the base without the adapter: {choice.without.divergence:.3g} from the trained model, "
            f"{choice.without.agrees:.1%} of greedy tokens agree"
        )
    name, worst = taken.worst
    found.append(
        f"stored as {taken.dtype}: {taken.kept.share:.1%} of the {taken.kept.moved:,} entries that the adapter moves "
        f"change, error {taken.kept.error:.3g} of the update (worst layer {name}: {worst.error:.3g})"
    )
    if taken.kept.share < ENOUGH:
        found.append(
            f"warning: {taken.dtype} rounds away {1 - taken.kept.share:.1%} of what was learned. Store it as float32 "
            "(--dtype float32), or serve the adapter unmerged, on the base that it was trained on."
        )
    elif taken.dtype == "float32" and choice.in_bfloat16.share < ENOUGH:
        found.append(
            f"float32 because bfloat16 would change only {choice.in_bfloat16.share:.1%} of these entries. A server "
            "that loads the model as bfloat16 loses them again: set its dtype, or serve the adapter unmerged."
        )
    return found


def _candidate(one: Candidate, scores: bool) -> str:
    if one.agreement.tokens == 0:
        return f"merged into {CALLED[one.base]}, {one.dtype}"
    if scores:
        return (
            f"merged into {CALLED[one.base]}, {one.dtype}: {one.agreement.divergence:.3g} from the trained model "
            f"(mean absolute difference of rewards), {one.agreement.agrees:.1%} of the pairs of "
            f"{one.agreement.tokens} prompts are ordered alike"
        )
    return (
        f"merged into {CALLED[one.base]}, {one.dtype}: {one.agreement.divergence:.3g} from the trained model (mean KL "
        f"divergence, nats per token), {one.agreement.agrees:.1%} of greedy tokens agree ({one.agreement.tokens})"
    )


def model_card(source: MergeSource, choice: Choice) -> str:
    """Returns the text of the merged model's card; it names no folders, and tells what the run's diagnosis found."""
    taken, base = choice.taken, base_of(source.base)
    trained = "in 4 bits" if source.quantization is not None else "not quantized"
    cls = "AutoModelForSequenceClassification" if source.scores else "AutoModelForCausalLM"
    data = ModelCardData(
        base_model=base.hub_id,
        library_name="transformers",
        pipeline_tag="text-classification" if source.scores else "text-generation",
        tags=["trl", TAG],
    )
    told = "\n".join(f"- {escaped(line)}" for line in lines(source, choice)[1:])
    found = _findings(source.folder)
    versions = [f"- {name}: {version(name)}" for name in ("trl", "transformers", "torch")]
    return sealed(f"""---
{data.to_yaml()}
---

# {source.base_called}, with an adapter merged into it

A LoRA adapter of rank {source.adapter.r}, trained on {base} ({trained} in training), merged into
{CALLED[taken.base]} and stored as {taken.dtype}.

{told}

```python
from transformers import {cls}, AutoTokenizer

model = {cls}.from_pretrained(folder, dtype="{taken.dtype}")
tokenizer = AutoTokenizer.from_pretrained(folder)
```

{"" if found is None else found}
## Merged with

{chr(10).join([*package_lines(), *versions])}
""")


def _findings(folder: Path) -> Section | None:
    """Returns what the diagnosis of an adapter's run found, `None` where nothing says it."""
    of_run = folder.parent if CHECKPOINT.fullmatch(folder.name) else folder
    try:
        found = read_findings(of_run)
    except ValueError as error:
        logger.warning(f"The model card tells no findings: {error}")
        return None
    return findings_section(found) if found else None
