"""Evaluation of checkpoints by lighteval, over the same rollout engines as training.

lighteval is imported by the modules of this package only: the import takes seconds, and switches
gradients off for the whole process.
"""
