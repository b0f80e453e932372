"""In what two configs differ, as a user would say it."""

from alfish import gin_config

MAX_DIFFERENCES = 8


def where_bound(name: str) -> str:
    """The macro that a binding takes its value from, else `name` itself: what one sets to change it."""
    value = _bound(gin_config.config_text()).get(name, "")
    return value[1:] if value.startswith("%") else name


def differences(old: str, new: str) -> list[str]:
    """What differs between two texts of `gin_config.config_text`, a line for each binding."""
    before, after = _bound(old), _bound(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    lines = [f"{name}: {before.get(name, 'not set')} → {after.get(name, 'not set')}" for name in names]
    more = [f"and {len(lines) - MAX_DIFFERENCES} more"] if len(lines) > MAX_DIFFERENCES else []
    return lines[:MAX_DIFFERENCES] + more


def _bound(text: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
