"""I/O: where the installed command begins: Ctrl-C ends it quietly from here on, however early it comes.

Importing takes longer than a person needs to change their mind. Until there is somebody to handle it, an interrupt ends
the process as it ends any Unix program; afterwards `cli.main` sees to it. Nothing but the standard library is imported
before that.
"""

from __future__ import annotations

import signal


def main() -> None:
    """The entry point of the installed command."""
    # What was started with `&` by a script ignores interrupts, and goes on doing so.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run

    try:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
