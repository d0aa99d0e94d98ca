"""The Hugging Face hub's refusals, as sentences that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Kind = Literal["model", "dataset"]


@contextmanager
def reaching() -> Iterator[None]:
    """Make a failure to reach the hub what it is elsewhere in Python.

    Raises:
        ConnectionError: in place of the HTTP library's own error, which is no OSError.
    """
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise ConnectionError(str(error)) from error


def is_refusal(error: Exception) -> bool:
    """Whether the hub was reached and said no."""
    from huggingface_hub import errors

    return isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit; a branch or tag may be another one tomorrow."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def commit_of(name: str, revision: str, kind: Kind) -> str:
    """The commit at which a branch or tag of a repository stands now.

    Raises:
        OSError: the hub does not say; see `explain`.
    """
    import huggingface_hub as hub

    with reaching():
        commit = hub.HfApi().repo_info(name, revision=revision, repo_type=kind).sha
    if commit is None:
        raise OSError(f"the hub names no commit of {name}@{revision}")
    return commit


def known_commit(name: str, revision: str, kind: Kind) -> str:
    """As `commit_of`; a commit stands for itself where the hub cannot be asked.

    Raises:
        OSError: the hub refuses, or cannot be asked for a branch or tag.
    """
    try:
        return commit_of(name, revision, kind)
    except OSError as error:
        if is_refusal(error) or not is_commit(revision):
            raise
        return revision


def explain(error: Exception, name: str, revision: str, kind: Kind) -> str:
    """Why the hub did not give a repository, and what to do, in one line.

    Args:
        error: what huggingface_hub or datasets raised.
        name: the repository, `owner/name`.
        revision: commit, branch or tag.
        kind: of the repository.
    """
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    download = f"hf download {name} --repo-type {kind} --revision {revision} --local-dir DIR"
    local = "{kind: pretrained, path: DIR}" if kind == "model" else "{kind: file, path: DIR}"
    if isinstance(error, errors.GatedRepoError):
        advice = (
            f"it is gated: ask for access at {page}, then log in with `hf auth login`, or set "
            "HF_TOKEN to a token of that account"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        advice = f"it has no revision {revision!r}: see {page}/commits/main"
    elif isinstance(error, errors.RepositoryNotFoundError):
        advice = "there is none of that name, or it is private: check the id, or `hf auth login`"
    else:
        advice = (
            f"on a machine that reaches the hub, `{download}`, bring DIR here, and put {local} in "
            "its place; HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 uses what the cache has"
        )
    reason = " ".join(str(error).split())
    return f"{name}@{revision} cannot be had ({type(error).__name__}: {reason:.200}); {advice}"
