"""I/O: the estate as the `meshbridge` command shows it and changes it.

What is printed by a command that makes a token goes nowhere: only `ask` returns what a command said.
"""

from __future__ import annotations

import json
import os

COMMON = {
    "home": {"type": "path"},
    "command": {"type": "path", "default": "meshbridge"},
}
"""The argument_spec of the options in the documentation fragment `operator`."""

NO = 1
"""The exit code that says: there is no such thing, or: not without loss."""


class Estate:
    """Fails the module with the command's own words whenever a command fails."""

    def __init__(self, module):
        self._module = module
        self._home = module.params["home"]
        self._program = module.get_bin_path(module.params["command"])
        if self._program is None and not module.check_mode:
            module.fail_json(msg=f"there is no program {module.params['command']} here; name it with `command`")

    @property
    def is_planned(self):
        """Whether this is a check before anything was installed: there is nobody to ask, and nothing is there."""
        if not self._module.check_mode:
            return False
        return self._program is None or (
            self._home is not None and not os.path.exists(os.path.join(self._home, "domain.json"))
        )

    def find(self, *args, otherwise=None):
        """What the command prints; `otherwise` when its answer is that there is no such thing."""
        if self.is_planned:
            return otherwise
        code, out, err = self._run(*args)
        if code == NO:
            return otherwise
        return self._parsed(code, out, err, args)

    def ask(self, *args, data=None):
        return self._parsed(*self._run(*args, data=data), args)

    def tell(self, *args, allowed=(0,)):
        """Runs a command whose output nobody is to see. Returns its exit code."""
        code, _out, err = self._run(*args)
        if code not in allowed:
            self._fail(code, err, args)
        return code

    def count(self, field, *args):
        """A number out of what a command prints whose exit code is a no when it is not 0."""
        code, out, err = self._run(*args)
        return int(self._parsed(0 if code == NO and out.strip() else code, out, err, args)[field])

    def _run(self, *args, data=None):
        home = ["--home", self._home] if self._home else []
        return self._module.run_command(
            [self._program, *home, "-o", "json", *args],
            data=data,
            binary_data=data is not None,
            environ_update={"LC_ALL": "C.UTF-8"},
        )

    def _parsed(self, code, out, err, args):
        if code != 0:
            self._fail(code, err, args)
        try:
            return json.loads(out)
        except ValueError:
            self._module.fail_json(msg=f"`meshbridge {args[0]}` did not answer with JSON; is it of this version?")

    def _fail(self, code, err, args):
        words = err.strip().removeprefix("meshbridge: ").replace("\n  hint: ", "; ")
        words = words or f"`meshbridge {' '.join(args[:2])}` ended with {code}"
        self._module.fail_json(msg=words, rc=code)
