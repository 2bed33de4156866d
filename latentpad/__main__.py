"""`python -m latentpad`: what `accelerate launch`, `deepspeed` and `torchrun` start."""

import atexit
import os
import sys

from latentpad.cli import main


def leave(code: int) -> None:
    """End the process; one of several does not wait for threads that torch has left in their connections.

    Where such a thread comes back while the interpreter is being taken down, the process dies of SIGABRT after all of
    its work was done, and its launcher calls the run failed.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


leave(main())
