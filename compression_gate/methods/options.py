"""How methods say what is wrong with an option: every problem at once, each starting with the option's name."""

from __future__ import annotations

from collections.abc import Iterable

from compression_gate.errors import ParamsError


def refuse(*problems: str | None) -> None:
    """Raise one error with every problem that is not None.

    Raises:
        ParamsError: there is at least one.
    """
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ParamsError(found)


def outside(name: str, value: float | None, low: float, high: float = float("inf"), *, open_: str = "") -> str | None:
    """Describe a number outside its range, or return None; ``open_`` names the ends outside it, as in ``[]``."""
    if value is None:
        return None
    inside = (value > low if "[" in open_ else value >= low) and (value < high if "]" in open_ else value <= high)
    if inside:
        return None
    bottom = f"more than {low:g}" if "[" in open_ else f"{low:g} or more"
    top = "" if high == float("inf") else f" and {'less than' if ']' in open_ else 'at most'} {high:g}"
    return f"{name}: expected {bottom}{top}, got {value!r}"


def not_one_of(name: str, value: object, known: Iterable[str]) -> str | None:
    """Describe a word that is none of the known ones, or return None."""
    from compression_gate.registry import nearest

    known = tuple(known)
    return (
        None if value in known else f"{name}: expected one of {', '.join(known)}, got {value!r}{nearest(value, known)}"
    )


def inside(name: str, ignored: Iterable[str]) -> bool:
    """Whether a module is one of ``ignored``, or inside one."""
    return any(name == one or name.startswith(f"{one}.") or not one for one in ignored)


def not_exactly_one(**options: object) -> str | None:
    """Describe that none, or more than one, of these options is set, or return None."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) == 1:
        return None
    return f"{next(iter(options))}: expected exactly one of {', '.join(options)}, got {' and '.join(given) or 'none'}"
