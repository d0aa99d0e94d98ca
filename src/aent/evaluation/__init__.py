"""Evaluation of checkpoints by lighteval, over the same rollout engines as training.

lighteval is imported by this package's modules, not here: it takes seconds, and parts of it switch
gradients off for the whole process. Nothing that trains may import them.
"""

import os

# lighteval imports GitPython, which raises where no `git` is installed. Nothing here uses it.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
