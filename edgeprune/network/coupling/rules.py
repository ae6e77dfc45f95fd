"""Finds the rule of an operation; one table, filled by the rule files through a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgeprune.network.coupling.call import Call

Rule = Callable[[Call], None]


class RuleBook:
    """Rules by operation name; an in-place operation follows the rule of its plain form."""

    def __init__(self) -> None:
        """Start with no rule."""
        self._rules: dict[str, Rule] = {}

    def on(self, *names: str) -> Callable[[Rule], Rule]:
        """Register a rule for operations of these names."""

        def register(rule: Rule) -> Rule:
            self._rules.update(dict.fromkeys(names, rule))
            return rule

        return register

    def find(self, name: str, func: Any) -> Rule | None:
        """The rule of an operation, or None where there is none."""
        plain = name.removesuffix("_") if not name.startswith("__") else name
        rule = self._rules.get(name) or self._rules.get(plain)
        if rule is None and torch.Tag.pointwise in func.tags:
            return self._rules["pointwise"]
        return rule


RULES = RuleBook()
