"""
`trl-dapo rewind RUN`: begins again at a checkpoint, once as it was and once per change, and sets the futures side by
side.
"""

from .errors import UsageError, one_line
from .rewind_options import make_parser, read_options


__all__ = ["main", "make_parser"]


def main(argv: list[str]) -> int:
    """Rewinds a run. Returns 0, or 1 where a future failed."""
    from .children import Ended
    from .launch import SIGNALLED

    try:
        options = read_options(argv)
        if options.find is not None:
            from .rewind_find import find

            return find(options)
        from .rewind_futures import rewind

        return rewind(options)
    except Ended as ended:
        return SIGNALLED + ended.number
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
