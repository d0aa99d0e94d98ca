"""Python imports this by itself where it is on the path: each refusal of the sandbox is printed.

A refusal is an exception, which sympy takes for an invitation to try something else: an attempt to
run text would be seen nowhere.
"""

import os

from aent import sandbox


class Told(sandbox.ForbiddenError):
    """A refusal that says so on standard error at once; its process may not live for long."""

    def __init__(self, message: str):
        os.write(2, f"refused: {message}\n".encode(errors="backslashreplace"))
        super().__init__(message)


sandbox.ForbiddenError = Told
