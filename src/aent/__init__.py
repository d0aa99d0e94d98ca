"""AEnt reproduction pipeline: entropy control in LLM reinforcement learning, measured."""

__version__ = "0.1.0"
