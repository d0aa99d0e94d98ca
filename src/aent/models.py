"""Causal language models: create, load and save them, with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)
from transformers.utils import logging as hf_logging

from aent import checksums
from aent.config.model import PretrainedModel, ScratchModel
from aent.config.setting import Prompt
from aent.files import StorageError, replacing
from aent.problems.synthetic import first_words
from aent.problems.synthetic import vocabulary as task_vocabulary

PAD, EOS = "<pad>", "<eos>"
_SPACE = "\u0120"  # how a byte-level vocabulary spells a space
# A bar for a second's work would hide the lines that say what a job is doing.
hf_logging.disable_progress_bar()
_WEIGHTS = ("*.safetensors",)  # the other format is a pickle, which runs what it holds
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


NO_TEMPLATE = (
    "prompt.chat: the tokenizer has no chat template; set chat: false in the setting's prompt, or "
    "add a chat_template.jinja to the model's directory"
)


class ModelError(ValueError):
    """A model or tokenizer cannot be used; the message names the place and what is missing."""


def build_tokenizer(vocabulary: int) -> Qwen2Tokenizer:
    """A tokenizer with one token a word or number of the synthetic problems.

    It is a genuine Qwen2Tokenizer, because AutoTokenizer opens the directory of a Qwen2 model with
    that class whatever tokenizer was saved there. Its byte-pair model knows the 256 bytes, so that
    any text can be encoded; the task's words are added tokens that carry their leading space, as
    in a language model's vocabulary. Ids: padding 0, end of sequence 1, bytes, the task's tokens,
    then filler that no text becomes: most tokens of a language model are of no use in any one task.

    Args:
        vocabulary: number of tokens.

    Raises:
        ModelError: the task's tokens do not fit.
    """
    words = [*(f" {word}" for word in task_vocabulary()), *first_words()]
    tokens = [PAD, EOS, *sorted(ByteLevel.alphabet()), *words]
    if vocabulary < len(tokens):
        raise ModelError(f"vocabulary {vocabulary}: the task needs at least {len(tokens)} tokens")
    tokens += [f"{_SPACE}filler{n}" for n in range(vocabulary - len(tokens))]
    tokenizer = Qwen2Tokenizer(
        vocab={token: n for n, token in enumerate(tokens)},
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=None,  # type: ignore[arg-type]  # bytes leave nothing unknown
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


def create_model(config: ScratchModel) -> Qwen2ForCausalLM:
    """A Qwen2-architecture model with fresh weights, decided by the warm start's seed."""
    shape = Qwen2Config(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.positions,
        initializer_range=config.init_std,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.warm_start.seed)
        return Qwen2ForCausalLM(shape)


def load_model(
    path: str | Path,
    *,
    revision: str = "main",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Open a model directory, or a hub id `owner/name`. Checksums are compared where there are any.

    Raises:
        ModelError: the directory is not a model or was damaged, or the hub does not give it.
    """
    _check_directory(path, "config.json", ("config.json",))
    _check_directory(path, "weights", _WEIGHTS)
    _check_sums(Path(path))
    model, info = _open(
        AutoModelForCausalLM,
        path,
        revision=revision,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    # transformers fills absent weights at random and only warns.
    if info["missing_keys"]:
        raise ModelError(f"{path}: weights without {sorted(info['missing_keys'])[:5]}")
    return model


def load_tokenizer(
    path: str | Path,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a model directory or hub id.

    Args:
        path: the directory or hub id.
        revision: commit or tag on the hub.
        trust_remote_code: run the Python code that comes with it.
        pad_token: the token that pads, instead of the tokenizer's own.

    Raises:
        ModelError: there is none, or it names no token that ends or none that fills sequences.
    """
    _check_directory(path, "tokenizer", _TOKENIZER)
    tokenizer = _open(AutoTokenizer, path, revision=revision, trust_remote_code=trust_remote_code)
    size = _vocabulary(path)
    if not _is_known(tokenizer.eos_token_id, size):
        raise ModelError(f"{path}: the tokenizer has no end-of-sequence token; set eos_token")
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ModelError(
                f"{path}: pad_token {pad_token!r} is not in the tokenizer's vocabulary; "
                f"{tokenizer.eos_token!r} is"
            )
        tokenizer.pad_token = pad_token
    if not _is_known(tokenizer.pad_token_id, size):
        raise ModelError(
            f"{path}: the tokenizer has no pad token; name one of its tokens with pad_token below "
            f"the model in the configuration, such as pad_token: {tokenizer.eos_token!r}"
        )
    return tokenizer


def _vocabulary(path: str | Path) -> int | None:
    """Tokens that the model knows, as its directory says."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{file}: no JSON: {error}") from None
    size: int | None = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return size


def _is_known(token: int | None, size: int | None) -> bool:
    """Whether there is such a token, and not one that transformers has added by a class's default.

    Of a Qwen2 tokenizer that names no pad token it makes one more token, which no model knows.
    """
    return token is not None and (size is None or token < size)


def name_pad_token(path: Path, token: str) -> None:
    """Make a token the pad token of a model directory's tokenizer; a link becomes a file.

    Raises:
        ModelError: the directory has checksums that do not hold.
    """
    summed = _check_sums(path)
    file = path / "tokenizer_config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(config | {"pad_token": token}, indent=2, ensure_ascii=False))
    if summed:
        (path / checksums.NAME).unlink()
        checksums.write_checksums(path)


def _check_sums(path: Path) -> bool:
    """Compare a directory's files with its checksums; says whether it has any."""
    summed = (path / checksums.NAME).exists()
    if summed and (fault := checksums.damage(path)):
        raise ModelError(f"{fault}; remove {checksums.NAME} if the change is meant")
    return summed


def check_tokenizer(path: str | Path, model: PretrainedModel, prompts: list[Prompt]) -> None:
    """See that a model directory's tokenizer can write the prompts of settings.

    Args:
        path: the directory.
        model: what the configuration says of the model.
        prompts: those of the settings that use it.

    Raises:
        ModelError: it cannot be opened, names no token that ends or none that fills sequences, or
            lacks a chat template that the prompts need.
    """
    tokenizer = load_tokenizer(
        path, trust_remote_code=model.trust_remote_code, pad_token=model.pad_token
    )
    if any(prompt.chat for prompt in prompts) and not tokenizer.chat_template:
        raise ModelError(f"{path}: {NO_TEMPLATE}")


def check_directory(path: str | Path) -> None:
    """See that a local path has the parts of a model directory, without opening them.

    Raises:
        ModelError: it is no directory, or lacks configuration, weights or tokenizer.
    """
    _check_directory(path, "config.json", ("config.json",))
    _check_directory(path, "weights", _WEIGHTS)
    _check_directory(path, "tokenizer", _TOKENIZER)


def _check_directory(path: str | Path, part: str, patterns: tuple[str, ...]) -> None:
    """Complain about a local path that is no directory or lacks a part; pass hub ids."""
    folder = Path(path)
    if not folder.exists():
        if isinstance(path, str) and path.count("/") == 1 and not path.startswith((".", "/", "~")):
            return
        raise ModelError(f"{path}: no such directory; a model directory or a hub id owner/name")
    if not folder.is_dir():
        raise ModelError(f"{path}: a file; a model is a directory")
    if not any(found for pattern in patterns for found in folder.glob(pattern)):
        names = sorted(item.name for item in folder.iterdir())
        raise ModelError(f"{path}: not a model: no {part} ({', '.join(patterns)}); found {names}")


def _open(loader: Any, path: str | Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        message = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{path}: cannot be opened: {type(error).__name__}: {message[0]}"
        ) from error


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    guard: Callable[[], object] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save a model directory that the Auto classes open: all of it or nothing, with checksums.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: the directory; what was there is replaced.
        guard: called before the directory takes its name; see `aent.files.replacing`.
        weights: what to save in place of the model's own, of which a process may have a part only.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    with replacing(Path(path), guard) as fresh:
        try:
            model.save_pretrained(fresh, state_dict=weights)
            tokenizer.save_pretrained(fresh)
            checksums.write_checksums(fresh)
        # safetensors and tokenizers have errors of their own, the latter a bare Exception.
        except Exception as error:
            raise StorageError(f"{path}: the model cannot be saved: {error}") from error


def encode_prompt(tokenizer: PreTrainedTokenizerBase, problem: str, prompt: Prompt) -> list[int]:
    """A problem as prompt tokens: suffix appended, as a user turn where the setting says so.

    Raises:
        ModelError: a chat prompt is asked of a tokenizer without a chat template.
    """
    text = problem + prompt.suffix
    if not prompt.chat:
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise ModelError(NO_TEMPLATE)
    turn = [{"role": "user", "content": text}]
    wrapped = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(wrapped, add_special_tokens=False)["input_ids"]
    return ids


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a response: the tokenizer's, and those of the generation configuration."""
    found = getattr(model.generation_config, "eos_token_id", None)
    found = found if isinstance(found, list) else [found]
    return sorted({tokenizer.eos_token_id, *found} - {None})
