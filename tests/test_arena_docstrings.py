import doctest

import pytest

from trl_dapo.arena import task, tokenizer


class FencedParser(doctest.DocTestParser):
    """Reads examples between ``` fences, which would else be taken for expected text."""

    def parse(self, string, name="<string>"):
        return super().parse(string.replace("```", ""), name)


@pytest.mark.parametrize(("module", "examples"), [(task, 5), (tokenizer, 2)])
def test_docstring_examples_do_what_they_say(module, examples):
    runner = doctest.DocTestRunner()
    for case in doctest.DocTestFinder(parser=FencedParser()).find(module):
        runner.run(case)
    assert (runner.failures, runner.tries) == (0, examples)
