"""Pure: the errors a person may see. Each says what happened, where, and what to do next, and carries its exit code.

Code below `agents/` makes one attempt and raises one of these (or a subclass from `bridge.errors`); nothing else in
the product invents its own exit code or its own wording for the same thing.
"""

from __future__ import annotations


class MeshError(Exception):
    """Base of every error that a person may see.

    Args:
        what: one sentence without a final full stop, in the words of docs/concepts.md.
        where: the file and key path, host, address or entry it is about; empty when `what` says it all.
        hint: what to do next, as an imperative sentence; empty when there is nothing to do.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    @property
    def with_hint(self) -> str:
        """All of it on one line, for what has no field of its own for a hint."""
        return f"{self}; {self.hint}" if self.hint else str(self)


class AnswerIsNo(MeshError):
    """The question was understood and the answer is no: denied, unhealthy, not drained, no such thing."""

    exit_code = 1


class InputError(MeshError):
    """Configuration or input that cannot be used."""

    exit_code = 64


class Unavailable(MeshError):
    """Something needed is not there now: a gateway, a registry, a port, a file lock."""

    exit_code = 69


class InternalError(MeshError):
    """Our bug."""

    exit_code = 70
