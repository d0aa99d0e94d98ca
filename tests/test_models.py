import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from aent.boxed import last_boxed
from aent.config import ScratchModel, SyntheticProblems
from aent.config.setting import Prompt
from aent.models import (
    ModelError,
    build_tokenizer,
    create_model,
    encode_prompt,
    eos_ids,
    load_model,
    load_tokenizer,
    save_model,
)
from aent.problems import load_problems

PICKLE = "pytorch_model.bin"
PROBLEMS = load_problems(SyntheticProblems(kind="synthetic", count=120))


def config(**changes: object) -> ScratchModel:
    shape = {"hidden": 16, "intermediate": 32, "vocabulary": 1700}
    data = {"kind": "scratch", **shape, "warm_start": {"problems": "x"}, **changes}
    return ScratchModel.model_validate(data)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(1700)


@pytest.fixture
def directory(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(create_model(config()), tokenizer, tmp_path / "base")
    return tmp_path / "base"


def test_a_word_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for problem in PROBLEMS:
        for text in (problem.problem, f" {problem.solution}"):
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.decode(ids) == text


def test_vocabulary_size_and_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 1700
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert sum("filler" in token for token in tokenizer.get_vocab()) > 100
    with pytest.raises(ModelError, match=r"vocabulary 500: the task needs at least 15\d\d tokens"):
        build_tokenizer(500)


@pytest.mark.parametrize(
    "text", ["Let $x^2 = 1999$.\n\n Find é ∑ \\frac{1}{2}.", " 1000", "filler1"]
)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_answers_can_be_read_from_decoded_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    from math_verify import parse, verify

    ids = tokenizer(" begin 19 first +1 20 so \\boxed{ 20 }<eos>")["input_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert last_boxed(text) == "20"
    assert verify(parse("\\boxed{20}"), parse(text))


def test_auto_classes_open_the_directory(
    directory: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """AutoTokenizer must not turn the vocabulary into something else."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    opened = AutoTokenizer.from_pretrained(directory)
    assert isinstance(opened, PreTrainedTokenizerFast)
    assert opened.get_vocab() == tokenizer.get_vocab()
    for problem in PROBLEMS:
        for text in (problem.problem, f" {problem.solution}{opened.eos_token}", "1999 + x?"):
            ids = opened(text)["input_ids"]
            assert ids == tokenizer(text)["input_ids"]
            assert opened.decode(ids) == text
    ids = torch.tensor([encode_prompt(opened, PROBLEMS[0].problem, Prompt())])
    mask = torch.ones_like(ids)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert output.shape[1] <= ids.shape[1] + 4
    assert eos_ids(model, opened) == [1]


def test_saving_keeps_the_weights(directory: Path) -> None:
    weights = create_model(config()).state_dict()
    loaded = load_model(directory)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert [item.name for item in directory.parent.iterdir()] == ["base"]


def test_saving_replaces_a_model(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (directory / "stale").touch()
    other = create_model(config(warm_start={"problems": "x", "seed": 1}))
    save_model(other, tokenizer, directory)
    assert not (directory / "stale").exists()
    assert [item.name for item in directory.parent.iterdir()] == ["base"]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(load_model(directory).state_dict()[name], other.state_dict()[name])


def test_the_seed_decides_the_weights_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = create_model(config()), create_model(config())
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    other = create_model(config(warm_start={"problems": "x", "seed": 1}))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))
    assert first.get_input_embeddings().weight.std().item() == pytest.approx(0.06, rel=0.05)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", r"not a model: no config.json .*found \['checksums.json'"),
        ("model.safetensors", r"not a model: no weights \(\*.safetensors\)"),
    ],
)
def test_a_directory_that_is_no_model(directory: Path, removed: str, message: str) -> None:
    (directory / removed).unlink()
    with pytest.raises(ModelError, match=message) as raised:
        load_model(directory)
    assert str(directory) in str(raised.value)


@pytest.fixture
def pickled(directory: Path) -> Path:
    """The directory with its weights, all zero, as a pickle beside the safetensors."""
    weights = load_model(directory).state_dict()
    torch.save({name: torch.zeros_like(w) for name, w in weights.items()}, directory / PICKLE)
    (directory / "checksums.json").unlink()  # a model from elsewhere has none
    return directory


def test_of_both_formats_safetensors_are_opened(pickled: Path) -> None:
    assert load_model(pickled).get_input_embeddings().weight.abs().max() > 0


def test_a_directory_with_pickled_weights_alone_is_refused(pickled: Path) -> None:
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"no weights \(\*.safetensors\); found .*'{PICKLE}'"):
        load_model(pickled)


def test_pickled_weights_of_the_hub_are_refused(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they lie in the hub's cache, where only transformers looks."""
    (pickled / "model.safetensors").unlink()
    cached = tmp_path / "cache" / "models--owner--name"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    pickled.rename(cached / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached.parent))
    assert len(load_tokenizer("owner/name")) == 1700  # the rest is there and found
    with pytest.raises(ModelError, match=r"owner/name: cannot be opened: OSError.*safetensors"):
        load_model("owner/name")


def test_paths_that_are_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="absent: no such directory"):
        load_model(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="file: a file; a model is a directory"):
        load_tokenizer(tmp_path / "file")


def test_a_hub_id_that_cannot_be_had() -> None:
    with pytest.raises(ModelError, match=r"^owner/absent: cannot be opened: OSError"):
        load_model("owner/absent")


def test_broken_files(directory: Path) -> None:
    (directory / "checksums.json").unlink()  # a model from elsewhere has none
    (directory / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be opened"):
        load_model(directory)
    (directory / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be opened: ValueError"):
        load_model(directory)


def test_weights_that_lack_a_part(directory: Path) -> None:
    """transformers would fill them at random."""
    (directory / "checksums.json").unlink()
    shape = json.loads((directory / "config.json").read_text())
    layers = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (directory / "config.json").write_text(json.dumps(shape | layers))
    with pytest.raises(ModelError, match=r"weights without \['model\.layers\.2\."):
        load_model(directory)


def test_tokenizers_without_eos_or_padding(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for name, options in {"no-eos": {}, "no-pad": {"eos_token": "<eos>"}}.items():
        backend = tokenizer.backend_tokenizer
        PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(
            tmp_path / name
        )
    with pytest.raises(ModelError, match="no-eos: the tokenizer has no end-of-sequence token"):
        load_tokenizer(tmp_path / "no-eos")
    with pytest.raises(ModelError, match=r"no pad token; name one .* such as pad_token: '<eos>'"):
        load_tokenizer(tmp_path / "no-pad")
    loaded = load_tokenizer(tmp_path / "no-pad", pad_token="<eos>")
    assert loaded.pad_token_id == loaded.eos_token_id == 1
    with pytest.raises(ModelError, match=r"pad_token '<none>' is not in .*vocabulary; '<eos>' is"):
        load_tokenizer(tmp_path / "no-pad", pad_token="<none>")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a model: no tokenizer"):
        load_tokenizer(tmp_path / "empty")


def test_prompts(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    text = PROBLEMS[0].problem
    plain = encode_prompt(tokenizer, text, Prompt())
    assert plain == tokenizer(text)["input_ids"]
    assert encode_prompt(tokenizer, text, Prompt(suffix=" so"))[:-1] == plain
    with pytest.raises(ModelError, match="no chat template"):
        encode_prompt(tokenizer, text, Prompt(chat=True))
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} so"
    chat = encode_prompt(tokenizer, text, Prompt(chat=True, suffix=" thus"))
    assert tokenizer.decode(chat) == f"[user] {text} thus so"


def test_end_of_sequence_of_the_generation_configuration(
    directory: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_model(directory)
    model.generation_config.eos_token_id = [1, 7]
    assert eos_ids(model, tokenizer) == [1, 7]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(directory: Path, name: str, change: str) -> None:
    file = directory / name
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    if change == "remove":
        file.unlink()
    else:
        file.write_bytes(data if change == "flip" else data[:middle])
    with pytest.raises(ModelError, match=str(file) if change != "remove" else str(directory)):
        load_model(directory)
