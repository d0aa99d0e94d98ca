"""Rollouts: sampling of responses, for training and for evaluation alike."""
