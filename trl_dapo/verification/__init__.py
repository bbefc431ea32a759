"""
A certificate before a run: whether reward, data, tokenizer, model and settings mean what the user thinks.

Each check is a function that returns a [`~verification.findings.Finding`] or several; `certificate.py` is the list of
them. What is measured once and read by several checks is in `setup.py` (without a model) and `probe.py` (with one).
Nothing here changes what it looks at.
"""
